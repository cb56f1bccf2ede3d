"""Checkpoints: one safetensors file with weights, optimizer state and a description, checked by SHA-256.

The file is written whole or not at all and never unpickled. Its header holds the format version, the config
and its digest, the step, and a digest over the description and every tensor's bytes, so that a truncated,
bit-flipped or foreign file is refused by one line.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .config import Config, config_from_dict
from .errors import TLGError
from .machine.paths import atomic, user_path

VERSION = 1
PRETRAINED = "model.safetensors"
TEXT = "text-vectors/"


@dataclass
class Checkpoint:
    """weights: model state dict; optimizer: flat tensors by name; about: step, history and other plain values."""

    config: Config
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    about: dict


def _digest(description: str, tensors: dict[str, Tensor]) -> str:
    running = hashlib.sha256(description.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        running.update(f"{name}/{tensor.dtype}/{tuple(tensor.shape)}".encode())
        running.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return running.hexdigest()


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint atomically. Raises TLGError: code 5 when it cannot be written, 6 for values that are not
    finite, which never take the place of good ones."""
    tensors = {f"model/{k}": v for k, v in checkpoint.weights.items()}
    tensors |= {f"optimizer/{k}": v for k, v in checkpoint.optimizer.items()}
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    bad = not_finite(tensors)
    if bad:
        raise TLGError(
            f"{bad} is not finite: {path} is not written, what was there stays; lower lr or use precision=32-true",
            code=6,
        )
    description = json.dumps(
        {"version": VERSION, "config": checkpoint.config.to_dict(), "about": checkpoint.about}, sort_keys=True
    )
    with atomic(path) as file:
        file.write(save(tensors, {"tlg": description, "sha256": _digest(description, tensors)}))


def not_finite(tensors: dict[str, Tensor]) -> str:
    """The name of the first tensor with a NaN or an infinity, "" where all are finite."""
    return next((k for k, v in tensors.items() if v.is_floating_point() and not torch.isfinite(v).all()), "")


def load_checkpoint(path: str | Path, config: Config | None = None, *, free: tuple[str, ...] = ()) -> Checkpoint:
    """Read and verify a checkpoint; with ``config``, refuse one made by other settings.

    free: names of settings that may differ (how long to train, where data lies).
    """
    path = Path(path)
    again = "move it away to start again, or name another"
    try:
        with safe_open(str(path), "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (FileNotFoundError, NotADirectoryError):
        raise TLGError(f"no checkpoint {path}: train first (tlg train)", code=3) from None
    except (SafetensorError, OSError, ValueError) as error:
        raise TLGError(f"{path} is not a whole checkpoint of ours ({error}): {again}", code=3) from None
    try:
        description = json.loads(header["tlg"])
        version, about, settings = description["version"], description["about"], description["config"]
        if not (type(version) is int and isinstance(about, dict) and isinstance(settings, dict)):
            raise ValueError
    except (KeyError, ValueError, TypeError, RecursionError):
        raise TLGError(
            f"{path} holds tensors but no TLG description: for the authors' files use `tlg convert-release`", code=3
        ) from None
    if version > VERSION:
        raise TLGError(
            f"{path} was written by a newer version (format {version}, this reads {VERSION}): update", code=3
        )
    if _digest(header["tlg"], tensors) != header.get("sha256"):
        raise TLGError(f"{path} is damaged (checksum differs): {again}", code=3)
    bad = not_finite(tensors)
    if bad:
        raise TLGError(f"{path}: {bad} is not finite, its training diverged: {again}", code=3)
    saved = config_from_dict(settings)
    if config is not None:
        theirs, ours = saved.to_dict(), config.to_dict()
        changed = [k for k in ours if k not in free and ours[k] != theirs[k]]
        if changed:
            listed = ", ".join(f"{k}: {theirs[k]!r} there, {ours[k]!r} asked" for k in changed[:3])
            raise TLGError(f"{path} is of another config ({listed}): use another folder or the same settings")
    pick = lambda prefix: {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}  # noqa: E731
    return Checkpoint(saved, pick("model/"), pick("optimizer/"), about)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's state, flattened to ``<parameter number>/<name>``."""
    state = optimizer.state_dict()["state"]
    return {f"{i}/{k}": torch.as_tensor(v) for i, entry in state.items() for k, v in entry.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put the tensors of ``optimizer_tensors`` back; learning rates stay those of the optimizer."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, key = name.split("/")
        state.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def load_weights(model, weights: dict) -> None:
    """``model`` takes the weights; those that do not fit (another version's, a damaged file's) are refused."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise TLGError(
            f"the checkpoint's weights do not fit its config ({reason}): train again with this version, "
            "in a new folder",
            code=3,
        ) from None


def save_pretrained(model, folder: str | Path) -> Path:
    """Write a TLG and the text vectors that it was used with to ``folder``/model.safetensors; returns the file.

    Raises TLGError (code 5) when it cannot be written. ``TLG.from_pretrained`` reads it.
    """
    path = user_path(folder) / PRETRAINED
    words = {f"{TEXT}{name}": vectors for name, vectors in model.text_buffers().items()}
    save_checkpoint(path, Checkpoint(model.config, {**model.state_dict(), **words}, {}, {}))
    return path


def read_pretrained(folder: str | Path) -> tuple[Config, dict[str, Tensor], dict[str, Tensor]]:
    """(config, weights, text vectors by kind) of a folder that save_pretrained wrote. Raises TLGError (code 3)."""
    saved = load_checkpoint(user_path(folder) / PRETRAINED)
    words = {k.removeprefix(TEXT): v for k, v in saved.weights.items() if k.startswith(TEXT)}
    return saved.config, {k: v for k, v in saved.weights.items() if not k.startswith(TEXT)}, words
