"""The device that computes, and what goes on every result: versions, commit, a digest of the library's code."""

from __future__ import annotations

import ast
import gc
import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import TLGError
from .paths import PACKAGE


def pick_device(name: str) -> torch.device:
    """ "auto" takes CUDA where there is one, else a Mac's GPU that computes what a CPU does; else the CPU.

    A device that is not there is refused.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() and not lacking("mps") else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise TLGError(f"device '{name}' cannot be used here ({str(error).splitlines()[0]}): use device cpu") from None
    return device


def compile_needs() -> str:
    """Why torch.compile cannot take the network here, "" where it can."""
    # Tried: 2.4 and 2.6 stop at the 4D encoder's own gradients; 2.9.1 (`released` alone) and 2.14 make one graph.
    if tuple(int(n) for n in torch.__version__.split(".")[:2]) >= (2, 9):
        return ""
    return f"compile=true needs PyTorch 2.9 or newer, here is {torch.__version__}: leave it off, or install a newer one"


def check_compile(wanted: bool) -> None:
    """Raise TLGError where torch.compile is wanted and would end in an error of PyTorch's own."""
    if wanted and compile_needs():
        raise TLGError(compile_needs())


def device_name(device: torch.device) -> str:
    """The GPU's name, or "CPU"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return {"cpu": "CPU", "mps": "Apple GPU"}.get(device.type, device.type)


@cache
def lacking(device: str) -> str:
    """Why the network cannot compute on ``device``, "" where its operators exist there and agree with the CPU's."""
    try:
        difference = (_operators(device) - _operators("cpu")).abs().max().item()
    except (RuntimeError, NotImplementedError, TypeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return "" if difference < 1e-4 else f"its results differ from the CPU's by {difference:.1g}"


def _operators(device: str) -> Tensor:
    """Values and gradients of what the network is made of, on small numbers; float32 [N] on the CPU."""
    x = (torch.arange(2 * 8 * 12 * 12, dtype=torch.float32) % 17 / 17).view(2, 8, 12, 12).to(device).requires_grad_()
    kernel = (torch.arange(8 * 8 * 3 * 3, dtype=torch.float32) % 13 / 130).view(8, 8, 3, 3).to(device)
    y = F.group_norm(F.conv2d(x, kernel, padding=1), 4)
    y = F.interpolate(y, (23, 23), mode="bilinear", align_corners=True)
    y = F.interpolate(y, (12, 12), mode="bilinear", align_corners=False) + F.interpolate(x, (6, 6), mode="area").mean()
    rows = F.gelu(F.adaptive_avg_pool2d(y, 4)).flatten(2)  # [2, 8, 16]
    matched = torch.einsum("bcp,bcq->bpq", F.normalize(rows, dim=1), F.normalize(x[:, :, :4, :4].flatten(2), dim=1))
    plan = (matched.softmax(2) - matched.logsumexp((1, 2), keepdim=True)).clamp(min=-5)
    (plan.square().sum() + y.sigmoid().mean()).backward()
    return torch.cat([plan.detach().flatten(), x.grad.flatten()]).cpu()


def environment() -> dict[str, str | int]:
    """Versions, device and commit, stamped on every result."""
    import platform

    import open_clip
    import timm
    import torchvision

    from .. import __version__

    return {
        "tlg_lib": __version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "open_clip": open_clip.__version__,
        "python": platform.python_version(),
        "device": device_name(pick_device("auto")),
        "cores": os.cpu_count() or 1,
        "commit": commit(),
    }


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
