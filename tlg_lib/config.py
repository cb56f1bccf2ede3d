"""One frozen configuration for everything: what to run, the network's switches, training, evaluation.

``make_config("mini", fold=1, variant="released")`` merges, later wins: field defaults, the preset, the
supervision's and the variant's switches (DESIGN 3.1 and 3.2), the caller's overrides. Unknown names, wrong types
and values out of range raise TLGError with one line. Nothing is ``None``: a Config always says what will happen.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import TLGError

VARIANTS = ("corrected", "released", "hsnet")


def _choice(*values):
    return {"choices": values}


@dataclass(frozen=True)
class Config:
    """All settings of one run. Sizes are (height, width) in pixels; rates per optimizer step."""

    # --- what
    preset: str = "mini"
    data: str = ""  # dataset folder in VOC layout; "" = where `tlg data <name>` puts it
    dataset: str = field(default="mini", metadata=_choice("mini", "pascal", "coco"))  # class names and folds
    masks: str = ""  # folder of pseudo masks; "" = the dataset's PseudoMasks
    fold: int = 0
    seed: int = 0
    shots: int = 1
    variant: str = field(default="corrected", metadata=_choice(*VARIANTS))
    supervision: str = field(default="pixel", metadata=_choice("pixel", "image"))
    query_mask: str = field(default="pseudo", metadata=_choice("pseudo", "none"))
    backbone: str = field(default="efficientnet_lite0", metadata=_choice("efficientnet_lite0", "resnet50", "vgg16"))
    backbone_weights: str = "imagenet"  # "imagenet", "random" (named in every output) or a file
    clip: str = "mini"  # "mini", or an open_clip name "ViT-B-32/openai"
    clip_weights: str = ""  # a file in place of the download
    image_size: tuple[int, int] = (128, 128)

    # --- the network's switches (DESIGN 3.2), each usable alone
    use_ha: bool = True
    use_ht: bool = True
    use_hc: bool = True
    train_hetero: bool = True  # False: HA, HT, HC under no_grad, as released
    transport: str = field(default="differentiable", metadata=_choice("released", "differentiable"))
    transport_reg: float = 0.5  # entropic regularisation of Sinkhorn
    tokens: str = field(default="grid", metadata=_choice("rows", "grid"))
    token_count: int = 50  # rows: count; grid: the nearest square with the map's proportions
    token_skip: bool = True  # h + gain * HT(h) instead of HT(h), the gain learned per channel
    key_value: str = field(default="separate", metadata=_choice("adjacent", "separate"))
    second_attention: str = field(default="across", metadata=_choice("within", "across"))
    query_residual: str = field(default="own", metadata=_choice("support", "own"))
    correlation_grid: str = field(default="own", metadata=_choice("other", "own"))
    # ours: the other image's maps are averaged, those at stride 8 over so many positions a side
    correlation_pool: int = field(default=4, metadata=_choice(1, 2, 4))
    mask_support: bool = True
    text_maps: str = field(default="learned", metadata=_choice("frozen", "learned"))
    ignore_255: bool = True
    dice: float = 1.0  # weight of a soft Dice term beside cross-entropy, which alone under-segments
    l2_all: float = 0.0  # released adds 1e-4 on one GPU only; off by default
    reductions: str = field(default="per_level", metadata=_choice("shared", "per_level"))
    prototype_prior: bool = True  # ours: cosine maps of support and query-self prototypes enter the decoder
    # ours: the share of what needs no training in the prediction (baselines.py); pascal-lite and image: 0.6
    late_fusion: float = 0.5
    width: int = 128
    widths_4d: tuple[int, int, int] = (16, 64, 128)
    dropout: float = 0.1

    # --- training
    steps: int = 200
    batch: int = 8
    lr: float = 4e-4
    weight_decay: float = 1e-4
    schedule: str = field(default="cosine", metadata=_choice("constant", "cosine"))
    flip: bool = False
    query_loss: float = 1.4
    support_loss: float = 0.6
    noisy_targets: str = field(
        default="consensus",
        metadata=_choice("none", "confidence", "bootstrap", "soft", "size", "prototype", "consensus"),
    )  # how training with supervision="image" copes with noisy masks (losses.py); of no effect with "pixel"
    # share of training queries whose pseudo mask is hidden (0.5 everywhere); pascal-lite: 0.5, image: 0.97
    mask_dropout: float = 0.0
    negatives: float = 0.0  # share of training episodes with a support of another class, target empty
    accumulate: int = 1
    checkpoint_every: int = 50  # steps
    epoch_steps: int = 50  # an "epoch": evaluated on base and test classes, last and best reported
    precision: str = field(default="32-true", metadata=_choice("32-true", "bf16-mixed", "16-mixed"))
    device: str = "auto"
    devices: int = 1
    compile: bool = False
    channels_last: bool = False
    activation_checkpointing: bool = False
    cache_features: str = field(default="auto", metadata=_choice("auto", "on", "off"))
    workers: int = 0

    # --- evaluation
    eval_episodes: int = 1000
    extra_episodes: int = 10**6  # at most this many of them for several shots and for the wrong-support control
    epoch_episodes: int = 100  # per-epoch curve; the final figures use eval_episodes
    eval_batch: int = 16
    threshold: float = 0.5

    def replace(self, **overrides) -> Config:
        """A copy with some fields changed, checked again."""
        return _checked({**self.to_dict(), **overrides})

    def to_dict(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    def digest(self, *, without: tuple[str, ...] = ()) -> str:
        """Short hash of the settings, used to refuse a checkpoint of another config."""
        items = {k: v for k, v in self.to_dict().items() if k not in without}
        return hashlib.sha256(json.dumps(items, sort_keys=True).encode()).hexdigest()[:16]


FIELDS = {f.name: f for f in dataclasses.fields(Config)}

# What each variant means; `corrected` is the field defaults above.
VARIANT_SWITCHES: dict[str, dict[str, Any]] = {
    "corrected": {},
    "released": dict(
        train_hetero=False,
        transport="released",
        transport_reg=0.5,
        tokens="rows",
        token_count=50,
        token_skip=False,
        key_value="adjacent",
        second_attention="within",
        query_residual="support",
        correlation_grid="other",
        correlation_pool=1,
        mask_support=False,
        text_maps="frozen",
        ignore_255=False,
        reductions="shared",
        prototype_prior=False,
        late_fusion=0.0,
        dice=0.0,
        support_loss=0.6,
        noisy_targets="none",
        negatives=0.0,
        mask_dropout=0.0,
    ),
    # The plain 4D encoder and decoder, without HA, HT, HC and without the mask input (DESIGN 3.3, baseline 3).
    "hsnet": dict(
        use_ha=False,
        use_ht=False,
        use_hc=False,
        query_mask="none",
        prototype_prior=False,
        late_fusion=0.0,
        mask_dropout=0.0,
        correlation_pool=1,
    ),
}

# What learning from pseudo masks needs besides targets put right (noisy_targets): the query's mask is both input and
# nearly the target, and while it always lies there the network learns to copy it. With half hidden photographs
# (masks of 35 mIoU, 1,000 steps) reach 45.0 and with 0.97 46.9; mini (56) 62.3 and 61.5 (docs/ladder.md).
SUPERVISION_SWITCHES: dict[str, dict[str, Any]] = {"pixel": {}, "image": dict(mask_dropout=0.97, late_fusion=0.6)}

# Half as wide is no worse (docs/performance.md), and what it saves is better spent on steps.
_LITE = dict(backbone="efficientnet_lite0", width=32, widths_4d=(8, 16, 32), support_loss=0.0, flip=True)
_MINI = dict(dataset="mini", image_size=(128, 128), token_count=16, lr=2e-3, **_LITE)
_PAPER = dict(
    backbone="resnet50",
    clip="ViT-B-32/openai",
    image_size=(400, 400),
    batch=16,
    lr=4e-4,
    steps=40000,
    eval_batch=8,
    schedule="constant",
    cache_features="off",
    workers=4,
    checkpoint_every=500,
    epoch_steps=1000,
)
PRESETS: dict[str, dict[str, Any]] = {
    "mini": dict(steps=250, epoch_episodes=60, extra_episodes=400, **_MINI),
    "smoke": dict(steps=4, batch=2, eval_episodes=8, epoch_episodes=4, epoch_steps=2, checkpoint_every=2, **_MINI),
    # With masks as weak as these photographs' it costs nothing to hide half, and the support then counts for more.
    "pascal-lite": dict(
        dataset="pascal",
        image_size=(224, 224),
        steps=1000,
        token_count=49,
        epoch_steps=250,
        lr=1e-3,
        mask_dropout=0.5,
        late_fusion=0.6,
        **_LITE,
    ),
    "pascal": dict(dataset="pascal", **_PAPER),
    "coco": dict(dataset="coco", eval_episodes=5000, **{**_PAPER, "lr": 1e-4, "batch": 20, "steps": 80000}),
}


def make_config(preset: str = "mini", **overrides) -> Config:
    """Config of a preset with overrides; strings such as "3", "true", "128x128" are read by field type."""
    if not isinstance(preset, str) or preset not in PRESETS:
        raise TLGError(f"unknown preset '{preset}': choose one of {', '.join(PRESETS)}")
    variant = overrides.get("variant", PRESETS[preset].get("variant", "corrected"))
    if not isinstance(variant, str) or variant not in VARIANT_SWITCHES:
        raise TLGError(f"unknown variant '{variant}': choose one of {', '.join(VARIANTS)}")
    supervision = SUPERVISION_SWITCHES.get(str(overrides.get("supervision", "pixel")), {})
    values = {**PRESETS[preset], **supervision, **VARIANT_SWITCHES[variant], **overrides, "preset": preset}
    return _checked(values)


def config_from_dict(values: dict[str, Any]) -> Config:
    """Config from a saved dictionary (every field present or defaulted), checked."""
    if not isinstance(values, dict):
        raise TLGError(f"a config is a mapping of names to values, not {type(values).__name__}")
    return _checked(values)


def load_config(path: str | Path) -> Config:
    """Config from a JSON file written by a run."""
    try:
        return config_from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise TLGError(f"cannot read config {path}: {error}") from None


def _coerce(name: str, value: Any) -> Any:
    kind = FIELDS[name].type
    wrong = TLGError(f"{name}={value!r}: expected {_KIND_NAMES.get(kind, kind)}")
    if kind == "bool":
        if isinstance(value, str) and value.lower() in ("true", "false", "on", "off", "yes", "no", "1", "0"):
            return value.lower() in ("true", "on", "yes", "1")
        if isinstance(value, bool):
            return value
        raise wrong
    if kind in ("int", "float"):
        if isinstance(value, bool):
            raise wrong
        try:
            number = float(value)
            if number != number or number in (float("inf"), float("-inf")):
                raise wrong
            if kind == "float":
                return number
            if number != int(number):
                raise wrong
            return int(value) if isinstance(value, (int, str)) else int(number)
        except (TypeError, ValueError, OverflowError):
            raise wrong from None
    if kind.startswith("tuple"):
        length = kind.count("int")
        if isinstance(value, str):
            value = value.lower().replace("x", ",").strip("()[] ").split(",")
        if isinstance(value, int) and not isinstance(value, bool) and name == "image_size":
            value = (value, value)
        if isinstance(value, (list, tuple)) and len(value) == 1 and name == "image_size":
            value = (value[0], value[0])
        try:
            numbers = tuple(int(v) for v in value)
        except (TypeError, ValueError, OverflowError):
            raise wrong from None
        if len(numbers) != length:
            raise wrong
        return numbers
    if not isinstance(value, str):
        raise wrong
    return value


_KIND_NAMES = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "tuple[int, int]": "two whole numbers (height, width), as 128x128",
    "tuple[int, int, int]": "three whole numbers, as 16,64,128",
}

_RANGES = {  # name: (lowest, highest)
    "fold": (0, 3),
    "seed": (0, 2**31 - 1),
    "shots": (1, 50),
    "steps": (0, 10**8),
    "batch": (1, 4096),
    "lr": (0, 10),
    "weight_decay": (0, 10),
    "transport_reg": (1e-3, 100),
    "token_count": (1, 4096),
    "width": (8, 2048),
    "dropout": (0, 0.95),
    "mask_dropout": (0, 1),
    "late_fusion": (0, 1),
    "negatives": (0, 0.9),
    "accumulate": (1, 1024),
    "checkpoint_every": (1, 10**8),
    "epoch_steps": (1, 10**8),
    "devices": (1, 1024),
    "workers": (0, 256),
    "eval_episodes": (1, 10**6),
    "epoch_episodes": (0, 10**6),
    "extra_episodes": (1, 10**6),
    "eval_batch": (1, 4096),
    "threshold": (0, 1),
    "l2_all": (0, 1),
    "dice": (0, 100),
    "query_loss": (0, 100),
    "support_loss": (0, 100),
}


def _checked(values: dict[str, Any]) -> Config:
    unknown = sorted(str(k) for k in values if k not in FIELDS)
    if unknown:
        import difflib

        close = difflib.get_close_matches(unknown[0], FIELDS, n=1)
        hint = f": did you mean '{close[0]}'?" if close else f": the names are {', '.join(FIELDS)}"
        raise TLGError(f"unknown parameter '{unknown[0]}'{hint}")
    config = Config(**{name: _coerce(name, value) for name, value in values.items()})
    for name, (low, high) in _RANGES.items():
        value = getattr(config, name)
        if not low <= value <= high:
            raise TLGError(f"{name}={value}: must be between {low} and {high}")
    for name, f in FIELDS.items():
        choices = f.metadata.get("choices")
        if choices and getattr(config, name) not in choices:
            raise TLGError(f"{name}='{getattr(config, name)}': choose one of {', '.join(map(str, choices))}")
    if min(config.image_size) < 64 or max(config.image_size) > 2048:
        raise TLGError(f"image_size={config.image_size}: each side must be between 64 and 2048 pixels")
    if min(config.widths_4d) < 4 or any(w % 4 for w in config.widths_4d):
        raise TLGError(f"widths_4d={config.widths_4d}: each must be a multiple of 4 (GroupNorm has 4 groups)")
    if config.width % 8:
        raise TLGError(f"width={config.width}: must be a multiple of 8 (attention has 8 heads)")
    if not config.use_ha and config.use_ht:
        raise TLGError("use_ht=true needs use_ha=true: transport works on the aggregated features")
    return config
