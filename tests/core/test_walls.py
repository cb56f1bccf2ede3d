"""The floors of the house: who may import whom. Imports inside functions count as well."""

import ast
from pathlib import Path

import tlg_lib

ROOT = Path(tlg_lib.__file__).parent
WINGS = ("data", "masks", "released", "runs", "look", "machine", "bench", "commands")
# The floors of docs/design.md, 7, from the ground up: what stands on one imports lower floors and its own wing only.
FLOORS = (
    {"errors"},
    {"machine", "metrics"},
    {"data"},
    {"masks"},
    {"core"},  # the modules of tlg_lib/ itself, save those named here
    {"released", "look"},
    {"runs"},
    {"bench"},
    {"commands"},
    {"cli", "parity"},  # the doors: cli mounts commands by name
)


def _modules() -> dict[str, Path]:
    found = {p: ".".join(p.relative_to(ROOT).with_suffix("").parts) for p in ROOT.rglob("*.py")}
    return {name.removesuffix("__init__").rstrip("."): path for path, name in found.items()}


def _imports(name: str, path: Path, modules) -> set[str]:
    """Modules of the library that this one imports, anywhere in it."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    taken = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):  # tlg_lib.data.folder, as a whole
            taken |= {a.name.removeprefix("tlg_lib.") for a in node.names if a.name.startswith("tlg_lib.")}
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "tlg_lib"):
            parts = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*parts, *(node.module or "").removeprefix("tlg_lib").strip(".").split(".")]).strip(".")
            taken |= {
                f"{base}.{a.name}".strip(".") if f"{base}.{a.name}".strip(".") in modules else base for a in node.names
            }
    return taken - {name, ""}


def _graph() -> dict[str, set[str]]:
    modules = _modules()
    return {name: _imports(name, path, modules) for name, path in modules.items() if name}


def _wing(module: str) -> str:
    first = module.split(".")[0]
    return first if any(first in floor for floor in FLOORS) else "core"


def _floor(module: str) -> int:
    return next(i for i, floor in enumerate(FLOORS) if _wing(module) in floor)


def test_no_import_leads_up_or_across():
    broken = [
        f"{name} (floor {_floor(name)}) imports {other} (floor {_floor(other)})"
        for name, others in _graph().items()
        for other in others
        if _floor(other) >= _floor(name) and _wing(other) != _wing(name)
    ]
    assert not broken, "\n".join(broken)


def test_every_wing_has_its_floor():
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert folders - {"assets"} == set(WINGS) <= set().union(*FLOORS)


def test_no_module_imports_itself_through_others():
    graph, done = _graph(), set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way[way.index(module) :], module))
        if module not in done:
            for other in sorted(graph[module]):
                visit(other, (*way, module))
            done.add(module)

    assert len(graph) > 80
    for module in graph:
        visit(module, ())
