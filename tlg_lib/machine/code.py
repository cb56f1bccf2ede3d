"""The library's own code, as results are signed with it: its commit, a digest of what it computes. Needs no torch."""

from __future__ import annotations

import ast
import gc
import hashlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from ..errors import TLGError
from .paths import PACKAGE


def commit() -> str:
    """The checkout's commit, 12 digits, with "-changed" where files of the library differ from it; else "unknown"."""
    git = ["git", "-C", str(PACKAGE)]
    options = {"capture_output": True, "text": True, "timeout": 20}
    try:
        # An installed package may lie inside of another project's checkout, whose commit says nothing.
        if subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], **options).returncode:
            return "unknown"
        found = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], **options).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "--", "."], **options).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{found or 'unknown'}{'-changed' if changed else ''}"


# What cannot change a trained network or its score: how runs are started, ordered, drawn and told.
_WITHOUT_FIGURES = {"look", "bench", "commands", "runs", "cli.py", "predict.py", "capture.py"}


def code_digest(*also: str | Path, everything: bool = False) -> str:
    """16 hex digits that change with the library's code as far as it can change a figure.

    Comments, docstrings and layout do not count. also: further files of the library, as the one that scores;
    everything: all of it, for pages that show what it draws. Raises TLGError (code 1) when the files are no longer
    those that this process loaded: it would compute by the old code and sign with the new.
    """
    chosen = [p for p in _files() if everything or p.relative_to(PACKAGE).parts[0] not in _WITHOUT_FIGURES]
    running = hashlib.sha256()
    with _no_collection():
        for path in dict.fromkeys([*chosen, *map(Path, also)]):
            content = path.read_bytes()
            if hash(content) != _LOADED.get(path):
                raise TLGError(f"{path} was changed while this process ran: start it again", code=1)
            running.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + _meaning(content))
    return running.hexdigest()[:16]


def _files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if not path.name.startswith("."))


@cache
def _meaning(content: bytes) -> bytes:
    """Digest of a module's syntax tree without docstrings; of its bytes where it has none."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return hashlib.sha256(content).digest()
    words: list[str] = []
    _spell(tree, words)
    return hashlib.sha256("\0".join(words).encode()).digest()


def _spell(node: object, words: list[str]) -> None:
    """A syntax tree as words, the same by every Python: what newer ones add to it is empty where nobody uses it."""
    if isinstance(node, list):
        for item in node:
            _spell(item, words)
        words.append("]")
    elif isinstance(node, ast.AST):
        words.append(type(node).__name__)
        for name in node._fields:
            value = getattr(node, name, None)
            if name == "body" and value and isinstance(value, list) and _is_docstring(value[0]):
                value = value[1:]
            elif isinstance(node, ast.JoinedStr):  # 3.12 has empty pieces in it
                value = [piece for piece in node.values if not (_is_text(piece) and not piece.value)]
            if value is not None and value != []:
                words.append(name)
                _spell(value, words)
        words.append(")")
    else:
        words.append(repr(node))


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and _is_text(node.value)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without the garbage collector, which goes through all of PyTorch for every few thousand new objects."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


_LOADED = {path: hash(path.read_bytes()) for path in _files()}
