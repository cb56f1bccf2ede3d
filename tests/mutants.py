"""Do the tests notice a wrong operator? `make mutants`: small faults put into the modules that compute, one at a time.

A mutant is one comparison, sum, product, connective, sign or constant of a module changed in a copy of the library; it
is noticed when a test of that module fails there (or does not come to an end). Which ones are tried is a function of
the seed and the code. Exit code 1 when fewer than the wanted share is noticed.
"""

import argparse
import ast
import copy
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

# Loaded before the forks: seconds of every mutant's time. The library itself is loaded in each, as it is there.
import hypothesis  # noqa: F401
import ot  # noqa: F401
import pandas  # noqa: F401
import pytest
import torch
import torchmetrics  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]
TESTS = {  # module of the core -> its tests below tests/core
    "metrics": "metrics", "episodes": "episodes protocol remarks", "correlation": "correlation", "conv4d": "conv4d",
    "aggregation": "parts model", "transport": "transport", "text_prior": "parts model",
    "prototypes": "prototypes baselines", "decoder": "parts model", "model": "model switches", "losses": "losses",
    "baselines": "baselines", "trust": "trust", "evaluate": "evaluate remarks protocol",
    "batches": "batches support_masks",
}  # fmt: skip
SWAPS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.MatMult: ast.Mult,
}  # fmt: skip
LIMIT = 180  # seconds for the tests of one mutant


def places(tree: ast.Module) -> list[tuple[ast.AST, str, int]]:
    """(node, field, position in it) of everything that a mutant may change; not in annotations and error texts."""
    found, skipped = [], set()
    for node in ast.walk(tree):
        hidden = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        hidden += [node.exc] if isinstance(node, ast.Raise) else []
        hidden += node.decorator_list if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else []
        skipped |= {id(inner) for part in hidden if part is not None for inner in ast.walk(part)}
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Compare):
            found += [(node, "ops", i) for i, op in enumerate(node.ops) if type(op) in SWAPS]
        elif isinstance(node, (ast.BinOp, ast.BoolOp, ast.AugAssign)) and type(node.op) in SWAPS:
            found.append((node, "op", 0))
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
            found.append((node, "op", 0))
        elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
            found.append((node, "value", 0))
    return [place for place in found if id(place[0]) not in skipped]


def change(node: ast.AST, field: str, position: int) -> None:
    if field == "ops":
        node.ops[position] = SWAPS[type(node.ops[position])]()
    elif field == "value":
        node.value = not node.value if isinstance(node.value, bool) else node.value + 1
    elif isinstance(node, ast.UnaryOp):
        node.op = ast.UAdd() if isinstance(node.op, ast.USub) else node.op
        if isinstance(node.op, ast.Not):
            node.operand = ast.UnaryOp(ast.Not(), node.operand)
    else:
        node.op = SWAPS[type(node.op)]()


def mutants(count: int, seed: int) -> list[tuple[str, int, str, str, str]]:
    """(module, line, statement before, after, whole text after) of ``count`` mutants."""
    every = []
    for module in TESTS:
        tree = ast.parse((ROOT / "tlg_lib" / f"{module}.py").read_text())
        every += [(module, tree, number) for number in range(len(places(tree)))]
    found = []
    for module, tree, number in random.Random(seed).sample(every, count):
        tree = copy.deepcopy(tree)
        node, field, position = places(tree)[number]
        before = ast.unparse(node)
        change(node, field, position)
        found.append((module, node.lineno, before, ast.unparse(node), ast.unparse(tree)))
    return found


def noticed(copied: Path, module: str) -> bool:
    """Whether a test of the module fails in the copy. In a fork, which has the large libraries loaded already."""
    names = [str(copied / "tests" / "core" / f"test_{name}.py") for name in TESTS[module].split()]
    child = os.fork()
    if child == 0:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1), os.dup2(nowhere, 2)
        os.chdir(copied)
        os.environ |= {"TLG_HOME": str(copied / "home"), "TLG_SMOKE": "1"}
        sys.path[0] = str(copied)
        os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *names])))
    until = time.monotonic() + LIMIT
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            if code not in (0, 1, 2):  # 2: the module cannot even be imported
                raise SystemExit(f"pytest ended with {code} on {' '.join(names)}")
            return code > 0
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--count", type=int, default=40)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--wanted", type=float, default=0.85, help="share that must be noticed")
    options.add_argument("--only", default="", help="one module")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    sys.dont_write_bytecode = True
    alive = total = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        for name in ("tlg_lib", "tests"):
            shutil.copytree(ROOT / name, Path(place, name), ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", place)
        for module, line, before, after, text in mutants(chosen.count, chosen.seed):
            if chosen.only not in ("", module):
                continue
            path, began = Path(place, "tlg_lib", f"{module}.py"), time.perf_counter()
            whole = path.read_text()
            path.write_text(text)
            seen = noticed(Path(place), module)
            path.write_text(whole)
            total, alive = total + 1, alive + (not seen)
            seconds = f"{time.perf_counter() - began:.0f} s"
            print(
                f"{'noticed' if seen else 'ALIVE  '}  {module}.py:{line}  {before} -> {after}  ({seconds})", flush=True
            )
    print(f"{total - alive} of {total} mutants noticed, {alive} alive (seed {chosen.seed})")
    sys.exit(total - alive < chosen.wanted * total)


if __name__ == "__main__":
    main()
