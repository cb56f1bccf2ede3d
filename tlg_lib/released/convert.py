"""The authors' checkpoints and ours: the same network under two sets of names (docs/design.md, 3.1).

Theirs carry a ``module.`` prefix, the whole backbone under ``backbone.`` and layers that nothing uses; none of that
is needed by ours, and all of it is kept beside the converted file so that the way back is complete.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..config import Config, make_config
from ..errors import TLGError
from ..machine.paths import atomic
from ..machine.weights import TensorFileError, read_tensor_file

# Ours -> theirs, by longest beginning; what follows (".weight", ".0.bias" ...) stays.
PREFIXES = {
    "aggregation.fuse": "final_cat",
    "aggregation.merge": "merge.0",
    "transport.self_attention": "SelfAttention",
    "transport.cross_attention": "CrossAttention",
    "transport.spread": "proj",
    "transport.norm": "bn",
    "text.project": "linear_512_625",
    "text.mix": "conv_2_1",
    "decoder.stage1": "decoder1",
    "decoder.stage2": "decoder2",
    "decoder.res": "res",
}
ENCODER = {"squeeze4": "4", "squeeze3": "3", "squeeze2": "2", "mix43": "4to3", "mix32": "3to2"}
PLANES = {"this": "conv1", "other": "conv2"}

# Defined in the release and used by nothing; the last two only mix whole batches in an abandoned branch.
UNUSED = ("conv1024_512", "voc_conv_bach", "coco_conv_batch")
UNUSED_PARAMETERS = {"conv1024_512": 524_800, "voc_conv_bach, coco_conv_batch": 400}
BACKBONE = "backbone."


def release_key(key: str) -> str:
    """Our state-dict key of a ``released`` model -> the authors' key."""
    match = re.fullmatch(r"encoder\.(\w+)\.(\d)\.(conv\.(this|other)|norm)\.(\w+)", key)
    if match:
        level, block, layer, plane, kind = match.groups()
        first = f"hpn_learner.encoder_layer{ENCODER[level]}."
        number = 3 * int(block)
        return first + (f"{number}.{PLANES[plane]}.{kind}" if plane else f"{number + 1}.{kind}")
    match = re.fullmatch(r"aggregation\.reduce\.(\d+)\.(\w+)", key)
    if match:
        return f"conv_{match[1]}_128.{match[2]}"
    for ours, theirs in PREFIXES.items():
        if key.startswith(ours + "."):
            return theirs + key[len(ours) :]
    raise KeyError(f"'{key}' has no counterpart in the release: only variant=released converts")


@dataclass
class Converted:
    """weights: for our released model; backbone: torchvision's names; unused: the authors' names."""

    config: Config
    weights: dict[str, Tensor]
    backbone: dict[str, Tensor]
    unused: dict[str, Tensor]


def read_release(path: str | Path) -> dict[str, Tensor]:
    """Tensors of an authors' checkpoint, ``module.`` removed. Never runs code from the file.

    Raises TLGError (code 3): missing, broken, or holding anything but plain tensors and containers.
    """
    path = Path(path)
    if not path.is_file():
        raise TLGError(f"no checkpoint {path}: name the file that the authors publish", code=3)
    try:
        state = read_tensor_file(path)
    except TensorFileError as error:
        reason = "it holds more than tensors and was not opened" if error.unsafe else "it is broken or not a checkpoint"
        raise TLGError(f"{path}: {reason} ({error}): use the authors' original file", code=3) from None
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not state:
        raise TLGError(f"{path} holds no state dict: use the authors' original file", code=3)
    wrong = [str(k) for k, v in state.items() if not isinstance(v, Tensor) or not isinstance(k, str)]
    if wrong:
        raise TLGError(f"{path}: entry '{wrong[0]}' is not a tensor: use the authors' original file", code=3)
    return {k.removeprefix("module."): v for k, v in state.items()}


def from_release(state: dict[str, Tensor], preset: str = "pascal", **overrides) -> Converted:
    """The authors' state dict (without ``module.``) -> ours.

    The backbone is told from the number of correlation layers. Unknown, missing or misshapen keys are listed by
    name in one TLGError (code 3). A partly present backbone is an error, an absent one is not.
    """
    first = state.get("hpn_learner.encoder_layer4.0.conv1.weight")
    if first is None or first.dim() != 4 or first.shape[1] not in (1, 3):
        raise TLGError(
            "not a checkpoint of the release: hpn_learner.encoder_layer4.0.conv1.weight is missing, or has "
            "neither 3 inputs (ResNet-50) nor 1 (VGG-16)",
            code=3,
        )
    backbone = "resnet50" if first.shape[1] == 3 else "vgg16"
    config = make_config(preset, variant="released", backbone=backbone, **overrides)
    expected = {release_key(key): (key, tensor) for key, tensor in _empty_model(config).state_dict().items()}

    inside = {k.removeprefix(BACKBONE): v for k, v in state.items() if k.startswith(BACKBONE)}
    reductions = tuple(f"conv_{n}_128" for n in (512, 1024, 2048))
    unused = {
        k: v
        for k, v in state.items()
        if k not in expected and k.split(".")[0] in (*UNUSED, *(reductions if backbone == "vgg16" else ()))
    }
    unknown = [k for k in state if k not in expected and k not in unused and not k.startswith(BACKBONE)]
    missing = [k for k in expected if k not in state]
    misshapen = [k for k, (_, t) in expected.items() if k in state and state[k].shape != t.shape]
    if inside:
        from ..machine.weights import empty_network

        own = empty_network(backbone).state_dict()
        unknown += [BACKBONE + k for k in inside if k not in own]
        # Files from before PyTorch 0.4.1 lack the batch counters, which evaluation does not read.
        missing += [BACKBONE + k for k in own if k not in inside and not k.endswith("num_batches_tracked")]
        misshapen += [BACKBONE + k for k in own if k in inside and inside[k].shape != own[k].shape]
        inside = {k: inside.get(k, v) for k, v in own.items()}
    problems = [
        f"{what}: {', '.join(keys)}"
        for what, keys in (("unknown keys", unknown), ("missing keys", missing), ("keys of another shape", misshapen))
        if keys
    ]
    if problems:
        raise TLGError(f"the checkpoint does not fit the release with {backbone}: {'; '.join(problems)}", code=3)
    return Converted(config, {ours: state[theirs] for theirs, (ours, _) in expected.items()}, inside, unused)


def to_release(weights: dict[str, Tensor], backbone: dict[str, Tensor], unused: dict[str, Tensor]) -> dict[str, Tensor]:
    """Ours -> the authors' names, with ``module.``, the backbone and the unused layers where they are given."""
    try:
        state = {release_key(key): value for key, value in weights.items()}
    except KeyError as error:
        raise TLGError(str(error.args[0])) from None
    state |= {BACKBONE + key: value for key, value in backbone.items()} | unused
    return {f"module.{key}": value for key, value in state.items()}


def convert_file(source: str | Path, target: str | Path, preset: str = "pascal", **overrides) -> Converted:
    """Convert an authors' file to our checkpoint at ``target``, with the rest beside it.

    Writes TARGET (our checkpoint), and where the source has them TARGET-backbone.safetensors (torchvision's names;
    the checkpoint's config names it as backbone_weights) and TARGET-unused.safetensors.
    """
    from safetensors.torch import save

    from ..checkpoints import Checkpoint, save_checkpoint

    target = Path(target)
    converted = from_release(read_release(source), preset, **overrides)
    for kind, tensors in (("backbone", converted.backbone), ("unused", converted.unused)):
        if tensors:
            with atomic(beside(target, kind)) as file:
                file.write(save({k: v.contiguous().clone() for k, v in tensors.items()}))
    if converted.backbone:
        weights_file = str(beside(target, "backbone").resolve())
        converted.config = converted.config.replace(backbone_weights=weights_file)
    about = {"step": 0, "history": [], "converted_from": Path(source).name}
    save_checkpoint(target, Checkpoint(converted.config, converted.weights, {}, about))
    return converted


def convert_back(source: str | Path, target: str | Path) -> int:
    """Our ``released`` checkpoint -> the authors' format (torch.save of a state dict). Returns the number of keys."""
    from safetensors.torch import load_file

    from ..checkpoints import load_checkpoint

    source = Path(source)
    checkpoint = load_checkpoint(source)
    if checkpoint.config.variant != "released":
        raise TLGError(f"{source} is variant={checkpoint.config.variant}: only variant=released converts back")
    rest = {
        kind: load_file(beside(source, kind)) if beside(source, kind).is_file() else {}
        for kind in ("backbone", "unused")
    }
    state = to_release(checkpoint.weights, rest["backbone"], rest["unused"])
    with atomic(target) as file:
        torch.save(state, file)
    return len(state)


def beside(target: Path, kind: str) -> Path:
    """Where the backbone or the unused layers of a converted checkpoint lie."""
    return target.with_name(f"{target.stem}-{kind}.safetensors")


def _empty_model(config: Config):
    from ..backbones import LAYOUTS
    from ..model import build_model
    from ..text_prior import random_text_vectors

    return build_model(config, LAYOUTS[config.backbone], random_text_vectors(1, 512))
