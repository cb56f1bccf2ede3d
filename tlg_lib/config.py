"""One frozen configuration for everything, in four sections: what to run, the network, training, evaluation.

``make_config("mini", fold=1, variant="released")`` merges, later wins: field defaults, the preset, the supervision's
and the variant's switches (docs/design.md, 3), the caller's overrides. Unknown names, wrong types and values out of
range raise TLGError with one line. Nothing is ``None``: a Config always says what will happen. A Config is each of
its sections, so names are flat (``config.lr``), and code that reads one section only says so by its type.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import textwrap
from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from .errors import TLGError

Variant = Literal["extended", "corrected", "released", "hsnet"]
Supervision = Literal["pixel", "image"]
VARIANTS: tuple[str, ...] = get_args(Variant)
SUPERVISIONS: tuple[str, ...] = get_args(Supervision)


def _numbers(value: Any) -> Any:
    """Sizes from a shell, "128x128" or "16,64,128"."""
    return value.lower().replace("x", ",").strip("()[] ").split(",") if isinstance(value, str) else value


def _square(value: Any) -> Any:
    """One number is both sides of a square."""
    value = _numbers(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return (value, value)
    return list(value) * 2 if isinstance(value, (list, tuple)) and len(value) == 1 else value


def _sides(value: tuple[int, int]) -> tuple[int, int]:
    if min(value) < 64 or max(value) > 2048:
        raise ValueError("each side must be between 64 and 2048 pixels")
    return value


def _by_fours(value: tuple[int, int, int]) -> tuple[int, int, int]:
    if min(value) < 4 or any(width % 4 for width in value):
        raise ValueError("each must be a multiple of 4 (GroupNorm has 4 groups)")
    return value


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isdecimal() else value


ImageSize = Annotated[tuple[int, int], BeforeValidator(_square), AfterValidator(_sides)]
Widths = Annotated[tuple[int, int, int], BeforeValidator(_numbers), AfterValidator(_by_fours)]


class Section(BaseModel):
    """What the sections share: frozen, nothing unknown, no infinities, and true is not 1."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        truth = cls.model_fields[str(info.field_name)].annotation is bool
        if isinstance(value, bool) != truth and isinstance(value, (bool, int, float)):
            raise ValueError  # told as a value of the wrong type
        return value


class What(Section):
    """Which data, which part of them, and the names of what is done with them."""

    preset: str = "mini"
    data: str = ""  # dataset folder in VOC layout; "" = where `tlg data <name>` puts it
    dataset: Literal["mini", "pascal", "coco"] = "mini"  # class names and folds
    masks: str = ""  # folder of pseudo masks; "" = the dataset's PseudoMasks
    fold: int = Field(0, ge=0, le=3)
    # a fold whose classes stand in for the test classes, which then are neither trained on nor tested: choices between
    # settings are made so (`tlg choose`); -1: none, the fold's own classes are tested
    validation_fold: int = Field(-1, ge=-1, le=3)
    seed: int = Field(0, ge=0, le=2**31 - 1)
    shots: int = Field(1, ge=1, le=50)
    # test queries: row after row of the list, or a class drawn evenly, then one of its images
    test_draw: Literal["rows", "classes"] = "rows"
    # training images that also show a hidden class: left out, or kept (its pixels are background then), as the authors
    novel_rows: Literal["drop", "keep"] = "drop"
    variant: Variant = "extended"
    supervision: Supervision = "pixel"

    @model_validator(mode="after")
    def _choices_do_not_see_the_test_fold(self) -> What:
        if self.validation_fold == self.fold:
            raise ValueError(f"validation_fold={self.fold}: that is the test fold, whose classes no choice may see")
        return self


class Switches(Section):
    """What a network may do as the authors' release does it (docs/design.md, 3.2), each usable alone: ours, released.

    ``as_released`` names those that stand as released; it may also be set, to names with commas, "all" or "none".
    """

    train_hetero: bool = True  # released: HA, HT and HC under no_grad
    transport: Literal["differentiable", "released"] = "differentiable"
    tokens: Literal["grid", "rows"] = "grid"  # a grid with the map's proportions, or runs of the flattened map
    key_value: Literal["separate", "adjacent"] = "separate"
    second_attention: Literal["across", "within"] = "across"
    query_residual: Literal["own", "support"] = "own"
    correlation_grid: Literal["own", "other"] = "own"
    mask_support: bool = True
    text_maps: Literal["learned", "frozen"] = "learned"
    ignore_255: bool = True
    reductions: Literal["per_level", "shared"] = "per_level"

    @property
    def as_released(self) -> frozenset[str]:
        return frozenset(name for name, (released, _) in SWITCHES.items() if getattr(self, name) == released)


# Of each switch the value as released and the one here.
SWITCHES: dict[str, tuple[Any, Any]] = {
    name: (get_args(f.annotation)[1] if get_args(f.annotation) else not f.default, f.default)
    for name, f in Switches.model_fields.items()
}


class Network(Switches):
    """What is built and how it answers; sizes are (height, width) in pixels. Switches are usable alone (3.2)."""

    backbone: Literal["efficientnet_lite0", "efficientnet_lite2", "resnet50", "vgg16"] = "efficientnet_lite0"
    backbone_weights: str = "imagenet"  # "imagenet", "random" (named in every output) or a file
    clip: str = "mini"  # "mini", or an open_clip name "ViT-B-32/openai"
    clip_weights: str = ""  # a file in place of the download
    image_size: ImageSize = (128, 128)
    query_mask: Literal["pseudo", "none"] = "pseudo"
    # the supports' masks, in training and scoring: generated, the truth, or GrabCut in the truth's box
    support_masks: Literal["pseudo", "drawn", "boxes"] = "pseudo"
    use_ha: bool = True
    use_ht: bool = True
    use_hc: bool = True
    transport_reg: float = Field(0.5, ge=1e-3, le=100)  # entropic regularisation of Sinkhorn
    token_count: int = Field(50, ge=1, le=4096)  # rows: count; grid: the nearest square with the map's proportions
    width: int = Field(128, ge=8, le=2048, multiple_of=8)
    widths_4d: Widths = (16, 64, 128)
    dropout: float = Field(0.1, ge=0, le=0.95)
    # ours:
    token_skip: bool = True  # h + gain * HT(h) instead of HT(h), the gain learned per channel
    # the other image's maps are averaged, those at stride 8 over so many positions a side
    correlation_pool: Annotated[Literal[1, 2, 4], BeforeValidator(_whole)] = 4
    prototype_prior: bool = True  # cosine maps of support and query-self prototypes enter the decoder
    # mask, prototypes and network vote, with a trust chosen on base images held out from training (trust.py)
    trusted_vote: bool = True

    @model_validator(mode="after")
    def _parts_fit(self) -> Network:
        if self.use_ht and not self.use_ha:
            raise ValueError("use_ht=true needs use_ha=true: transport works on the aggregated features")
        return self


class Training(Section):
    """How the weights come about; rates are per optimizer step."""

    steps: int = Field(200, ge=0, le=10**8)
    batch: int = Field(8, ge=1, le=4096)
    lr: float = Field(4e-4, ge=0, le=10)
    weight_decay: float = Field(1e-4, ge=0, le=10)
    schedule: Literal["constant", "cosine"] = "cosine"
    flip: bool = False
    query_loss: float = Field(1.4, ge=0, le=100)
    support_loss: float = Field(0.6, ge=0, le=100)
    dice: float = Field(1.0, ge=0, le=100)  # weight of a soft Dice beside cross-entropy, which alone under-segments
    l2_all: float = Field(0.0, ge=0, le=1)  # released adds 1e-4 on one GPU only; off by default
    # ours: with supervision="image", targets are put right by prototypes of the labels; of no effect with "pixel"
    noisy_targets: Literal["none", "consensus"] = "consensus"
    # ours: share of training queries whose pseudo mask is hidden (0.5 everywhere); image: 0.97
    mask_dropout: float = Field(0.5, ge=0, le=1)
    accumulate: int = Field(1, ge=1, le=1024)
    checkpoint_every: int = Field(50, ge=1, le=10**8)  # steps
    epoch_steps: int = Field(50, ge=1, le=10**8)  # an "epoch": evaluated on base and test classes, last and best kept
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    device: str = "auto"
    devices: int = Field(1, ge=1, le=1024)
    compile: bool = False
    channels_last: bool = False
    activation_checkpointing: bool = False
    cache_features: Literal["auto", "on", "off"] = "auto"
    # of the backbone's maps: 16 takes half the disk and half the memory of a GPU
    feature_bits: Annotated[Literal[32, 16], BeforeValidator(_whole)] = 32
    # processes that read images ahead, where features are not cached
    workers: int = Field(0, ge=0, le=256)


class Evaluation(Section):
    """What is scored, and on how much."""

    eval_episodes: int = Field(1000, ge=1, le=10**6)
    # at most this many of them for several shots and for the wrong-support control
    extra_episodes: int = Field(10**6, ge=1, le=10**6)
    epoch_episodes: int = Field(100, ge=0, le=10**6)  # per-epoch curve; the final figures use eval_episodes
    eval_batch: int = Field(16, ge=1, le=4096)
    threshold: float = Field(0.5, ge=0, le=1)


SECTIONS: tuple[type[Section], ...] = (What, Network, Training, Evaluation)


class Config(Evaluation, Training, Network, What):  # pydantic lists the fields of the last base first
    """All settings of one run: the four sections in one, with flat names."""

    def replace(self, **overrides: Any) -> Config:
        """A copy with some settings changed, checked again.

        Another preset, variant or supervision brings its own values to every setting that stood as the old one's
        have it; what the caller had set to something else stays.
        """
        given, here = _by_name(overrides), self.to_dict()
        kind = {name: given.get(name, here[name]) for name in KIND}
        if any(kind[name] != here[name] for name in KIND):
            usual = make_config(**{name: here[name] for name in KIND}).to_dict()
            own = {name: value for name, value in here.items() if value != usual[name]}
            return make_config(**{**own, **given, **kind})
        return config_from_dict({**here, **given})

    def to_dict(self) -> dict[str, Any]:
        """Plain values by their names, as JSON holds them."""
        return self.model_dump(mode="json")

    def digest(self, *, without: tuple[str, ...] = ()) -> str:
        """Short hash of the settings, used to refuse a checkpoint of another config."""
        items = {k: v for k, v in self.to_dict().items() if k not in without}
        return hashlib.sha256(json.dumps(items, sort_keys=True).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        """A paragraph per section, for one screen."""
        paragraphs = []
        for section in SECTIONS:
            items = [f"{name}={_shown(getattr(self, name))}" for name in section.model_fields]
            text = f"{section.__name__.lower()}: {'  '.join(items)}"
            paragraphs.append(textwrap.fill(text, 118, subsequent_indent="  ", break_on_hyphens=False))
        return "\n".join(paragraphs)


FIELDS = Config.model_fields
NAMES = (*FIELDS, "as_released")  # what a setting may be called
RETIRED = ("late_fusion", "negatives")  # settings of older files, accepted there as 0
KIND = ("preset", "variant", "supervision")  # the names of bundles of settings


def _shown(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value) if value != "" else '""'


# What is not the paper's, switched off.
_NOTHING_OF_OURS: dict[str, Any] = dict(
    token_skip=False,
    correlation_pool=1,
    prototype_prior=False,
    trusted_vote=False,
    dice=0.0,
    support_loss=0.6,
    noisy_targets="none",
    mask_dropout=0.0,
)
# What each variant means; `extended` is the field defaults above.
VARIANT_SWITCHES: dict[str, dict[str, Any]] = {
    "extended": {},
    # What the paper describes, trained end to end, and nothing of ours (docs/design.md, 3.2).
    "corrected": _NOTHING_OF_OURS,
    "released": dict(as_released="all", transport_reg=0.5, token_count=50, **_NOTHING_OF_OURS),
    # The plain 4D encoder and decoder, without HA, HT, HC and without the mask input (docs/design.md, 3.3).
    "hsnet": dict(
        use_ha=False,
        use_ht=False,
        use_hc=False,
        query_mask="none",
        prototype_prior=False,
        trusted_vote=False,
        mask_dropout=0.0,
        correlation_pool=1,
    ),
}

# What learning from pseudo masks needs besides targets put right (noisy_targets): the query's mask is both input and
# nearly the target, and while it always lies there the network learns to copy it. With half hidden photographs
# (masks of 35 mIoU, 1,000 steps) reach 45.0 and with 0.97 46.9; mini (56) 62.3 and 61.5 (docs/ladder.md).
SUPERVISION_SWITCHES: dict[str, dict[str, Any]] = {"pixel": {}, "image": dict(mask_dropout=0.97)}

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
    novel_rows="keep",
)
PRESETS: dict[str, dict[str, Any]] = {
    # 400 episodes: each of a fold's 200 queries twice, with other supports; the same ones for every row and control
    "mini": dict(steps=250, eval_episodes=400, epoch_episodes=60, **_MINI),
    "smoke": dict(steps=4, batch=2, eval_episodes=8, epoch_episodes=4, epoch_steps=2, checkpoint_every=2, **_MINI),
    "pascal-lite": dict(
        dataset="pascal", image_size=(224, 224), steps=1000, token_count=49, epoch_steps=250, lr=1e-3, **_LITE
    ),
    "pascal": dict(dataset="pascal", **_PAPER),
    "coco": dict(
        dataset="coco", test_draw="classes", eval_episodes=5000, **{**_PAPER, "lr": 1e-4, "batch": 20, "steps": 80000}
    ),
}


def make_config(preset: str = "mini", **overrides: Any) -> Config:
    """Config of a preset with overrides; strings such as "3", "true", "128x128" are read by field type."""
    if not isinstance(preset, str) or preset not in PRESETS:
        raise TLGError(f"unknown preset '{preset}': choose one of {', '.join(PRESETS)}")
    variant = overrides.get("variant", PRESETS[preset].get("variant", "extended"))
    if not isinstance(variant, str) or variant not in VARIANT_SWITCHES:
        raise TLGError(f"unknown variant '{variant}': choose one of {', '.join(VARIANTS)}")
    supervision = SUPERVISION_SWITCHES.get(str(overrides.get("supervision", "pixel")), {})
    layers = (PRESETS[preset], supervision, VARIANT_SWITCHES[variant], overrides, {"preset": preset})
    return config_from_dict({name: value for layer in layers for name, value in _by_name(layer).items()})


def config_from_dict(values: dict[str, Any]) -> Config:
    """Config from a saved dictionary (every field present or defaulted), checked."""
    if not isinstance(values, dict):
        raise TLGError(f"a config is a mapping of names to values, not {type(values).__name__}")
    for name in RETIRED:
        if values.get(name):
            raise TLGError(
                f"{name}={values[name]!r}: this setting is gone since an older version: train again without it"
            )
    values = {name: value for name, value in values.items() if name not in RETIRED}
    unknown = sorted(str(name) for name in values if name not in NAMES)
    if unknown:
        close = difflib.get_close_matches(unknown[0], NAMES, n=1)
        hint = f": did you mean '{close[0]}'?" if close else f": the names are {', '.join(FIELDS)}"
        raise TLGError(f"unknown parameter '{unknown[0]}'{hint}")
    values = _by_name(values)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise TLGError(_one_line(error.errors(include_url=False)[0], values)) from None


def _by_name(values: dict[str, Any]) -> dict[str, Any]:
    """``as_released`` taken apart to its switches, before those that are named themselves."""
    if "as_released" not in values:
        return values
    given = values["as_released"]
    names = {"all": list(SWITCHES), "none": [], "": []}.get(given) if isinstance(given, str) else given
    names = given.split(",") if names is None else names
    if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
        raise TLGError(f"as_released={given!r}: expected names of switches with commas between, all or none")
    found = {name.strip() for name in names}
    for name in sorted(found - set(SWITCHES)):
        raise TLGError(f"as_released: no switch '{name}': choose some of {', '.join(SWITCHES)}")
    rest = {name: value for name, value in values.items() if name != "as_released"}
    return {**{name: pair[name not in found] for name, pair in SWITCHES.items()}, **rest}


_KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple[int, int]: "two whole numbers (height, width), as 128x128",
    tuple[int, int, int]: "three whole numbers, as 16,64,128",
}


def choices(name: str) -> tuple[Any, ...]:
    """The values that a field may have, () where it is not a choice."""
    annotation = FIELDS[name].annotation
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _one_line(error: Any, values: dict[str, Any]) -> str:
    """What pydantic found, in our words: the setting, its value, what it may be."""
    reason = str(error.get("ctx", {}).get("error", ""))
    if not error["loc"]:
        return reason
    name, field = error["loc"][0], FIELDS[error["loc"][0]]
    value, shown = values[name], f"{name}={values[name]}"
    if reason:
        return f"{shown}: {reason}"
    if choices(name):
        return f"{name}='{value}': choose one of {', '.join(map(str, choices(name)))}"
    if error["type"] in ("greater_than_equal", "less_than_equal"):
        low, high = (next(getattr(m, end) for m in field.metadata if hasattr(m, end)) for end in ("ge", "le"))
        return f"{shown}: must be between {low} and {high}"
    if error["type"] == "multiple_of":
        return f"{shown}: must be a multiple of {error['ctx']['multiple_of']} (attention has 8 heads)"
    return f"{name}={value!r}: expected {_KINDS[field.annotation]}"
