"""The device that computes, and what goes on every result: device, versions, commit."""

from __future__ import annotations

import os
from functools import cache
from importlib import metadata

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import TLGError
from .code import commit


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

    from .. import __version__

    return {
        "tlg_lib": __version__,
        "torch": torch.__version__,
        # As pip recorded them: to import all three takes seconds, and most results are written without them.
        "torchvision": metadata.version("torchvision"),
        "timm": metadata.version("timm"),
        "open_clip": metadata.version("open_clip_torch"),
        "python": platform.python_version(),
        "device": device_name(pick_device("auto")),
        "cores": os.cpu_count() or 1,
        "commit": commit(),
    }
