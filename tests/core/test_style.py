"""One formatter and one linter for everything, one type checker for the core; functions that fit a screen."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("call", [["check"], ["format", "--check"]], ids=["lint", "format"])
def test_code_is_as_ruff_would_have_it(call):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *call, "--no-cache", "tlg_lib", "tests", "data_scripts"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_types_of_the_core_are_clean():
    """mypy over tlg_lib/*.py, as pyproject.toml sets it; what it learned is kept in .mypy_cache for the next time."""
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


LONGEST = 60  # lines of a function; of a command without its options, which stand in the signature
DRAW = {"data/mini/render.py", "look/figures.py", "look/figures_inside.py"}  # pictures, one step after another


def _lines(node: ast.FunctionDef, path: Path) -> int:
    first = node.body[0].lineno if path.parent.name == "commands" else node.lineno
    return node.end_lineno - first + 1


def test_functions_fit_a_screen():
    library = ROOT / "tlg_lib"
    long = [
        f"{path.relative_to(library)}: {node.name}, {_lines(node, path)} lines"
        for path in sorted(library.rglob("*.py"))
        if path.relative_to(library).as_posix() not in DRAW
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and _lines(node, path) > LONGEST
    ]
    assert not long, long
