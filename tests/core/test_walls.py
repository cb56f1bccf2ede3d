"""The walls of the house: who may import whom. Imports inside functions count as well."""

import ast
from pathlib import Path

import pytest

import tlg_lib

ROOT = Path(tlg_lib.__file__).parent
WINGS = ("data", "masks", "released", "runs", "look", "machine", "bench", "commands")
NEVER = {
    "core": {"runs", "look", "commands", "bench"},  # cli.py mounts commands by name
    "data": {"look", "runs", "commands", "bench"},
    "masks": {"look", "runs", "commands", "bench"},
    "machine": {"core", *WINGS} - {"machine"},
}


def _modules() -> dict[str, Path]:
    found = {p: ".".join(p.relative_to(ROOT).with_suffix("").parts) for p in ROOT.rglob("*.py")}
    return {name.removesuffix("__init__").rstrip("."): path for path, name in found.items()}


def _imports(name: str, path: Path, modules) -> set[str]:
    """Modules of the library that this one imports, anywhere in it."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    taken = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            parts = package[: len(package) - node.level + 1] + ((node.module or "").split(".") if node.module else [])
            base = ".".join(p for p in parts if p)
            taken |= {
                f"{base}.{a.name}".strip(".") if f"{base}.{a.name}".strip(".") in modules else base for a in node.names
            }
    return taken - {name, ""}


def _graph() -> dict[str, set[str]]:
    modules = _modules()
    return {name: _imports(name, path, modules) for name, path in modules.items() if name}


def _wing(module: str) -> str:
    first = module.split(".")[0]
    return first if first in WINGS else "core"


@pytest.mark.parametrize("wing", NEVER)
def test_no_import_through_a_wall(wing):
    allowed = {("machine", "errors")}
    broken = [
        f"{name} imports {other}"
        for name, others in _graph().items()
        for other in others
        if _wing(name) == wing and _wing(other) in NEVER[wing] and (wing, other) not in allowed
    ]
    assert not broken, "\n".join(broken)


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
