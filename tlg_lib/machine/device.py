"""The device that computes, and the versions that go on every result."""

from __future__ import annotations

import os
import subprocess

import torch

from ..errors import TLGError
from .paths import PACKAGE


def pick_device(name: str) -> torch.device:
    """ "auto" takes CUDA where there is one; a device that is not there is refused."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise TLGError(f"device '{name}' cannot be used here ({str(error).splitlines()[0]}): use device cpu") from None
    return device


def environment() -> dict[str, str | int]:
    """Versions, device and commit, stamped on every result."""
    import platform

    import open_clip
    import timm
    import torchvision

    from .. import __version__

    try:
        commit = (
            subprocess.run(
                ["git", "-C", str(PACKAGE.parent), "rev-parse", "--short=12", "HEAD"],
                capture_output=True,
                text=True,
                timeout=10,
            ).stdout.strip()
            or "unknown"
        )
    except (OSError, subprocess.SubprocessError):
        commit = "unknown"
    cuda = torch.cuda.is_available()
    return {
        "tlg_lib": __version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "open_clip": open_clip.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(0) if cuda else "CPU",
        "cores": os.cpu_count() or 1,
        "commit": commit,
    }
