"""Options that several commands share, and how they become a Config."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import TLGError
from ..machine.terminal import plain

if TYPE_CHECKING:
    from ..config import Config

Set = Annotated[list[str] | None, typer.Option("--set", help="any setting, as key=value; repeatable")]
Fold = Annotated[int | None, typer.Option(help="test fold 0..3")]
Seed = Annotated[int | None, typer.Option(help="random seed")]
Variant = Annotated[str | None, typer.Option(help="extended, corrected, released or hsnet")]
Supervision = Annotated[str | None, typer.Option(help="pixel or image")]
Backbone = Annotated[str | None, typer.Option(help="efficientnet_lite0 or _lite2, resnet50 or vgg16")]
Json = Annotated[bool, typer.Option("--json", help="print the figures as JSON and nothing else")]
Preset = Annotated[str, typer.Argument(help="mini, smoke, pascal-lite, pascal or coco")]
Folds = Annotated[str, typer.Option("--fold", "--folds", help="test folds, as 0,1,2,3 or all")]
Seeds = Annotated[str, typer.Option("--seed", "--seeds", help="seeds, as 0,1,2; an interval needs at least two")]
Rows = Annotated[str, typer.Option(help="trained rows wanted, with commas; default: all")]
Out = Annotated[Path | None, typer.Option(help="folder of tables and figures")]
Workers = Annotated[int, typer.Option(help="processes side by side; 0 = one per core")]
Data = Annotated[str | None, typer.Option(help="dataset folder in VOC layout")]


LONGEST = 1000  # characters of one --set


def parse_settings(settings: list[str] | None) -> dict[str, str]:
    """["a=1", "b=x"] to {"a": "1", "b": "x"}; raises TLGError on a setting without "=", or one that is no text."""
    parsed = {}
    for setting in settings or []:
        key, equals, value = setting.partition("=")
        if not setting.isprintable() or len(setting) > LONGEST:
            raise TLGError(f"--set {plain(key)[:60]}: printable text only, at most {LONGEST} characters")
        if not equals or not key.strip():
            raise TLGError(f"--set {setting}: write it as key=value, for example --set steps=500")
        parsed[key.strip()] = value.strip()
    return parsed


def cells(folds: str, seeds: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """--folds and --seeds, as "0,1" or "all" (the four folds; seed 0), each number once."""
    from ..runs.study import FOLDS, several

    return several("folds", folds, FOLDS), several("seeds", seeds, (0,))


def names(text: str) -> tuple[str, ...]:
    """--rows, as "extended,rival"."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def config_from_options(preset: str, settings: list[str] | None, **named) -> Config:
    """The preset's config with the named options that were given, then every --set."""
    from ..config import make_config

    given = {key: value for key, value in named.items() if value is not None}
    return make_config(preset, **{**given, **parse_settings(settings)})


def print_json(value) -> None:
    """For another program: sorted keys, numbers as they are."""
    import json

    print(json.dumps(value, indent=2, sort_keys=True))
