"""`tlg curve`: what the rows make of masks of several strengths."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options as o


def command(
    preset: o.Preset = "mini",
    masks: Annotated[
        list[str] | None, typer.Option("--masks", help="name=FOLDER of pseudo masks; repeatable; default: own=")
    ] = None,
    folds: o.Folds = "0,1,2,3",
    seeds: o.Seeds = "0",
    out: o.Out = None,
    workers: o.Workers = 0,
    supervision: o.Supervision = None,
    backbone: o.Backbone = None,
    data: o.Data = None,
    settings: o.Set = None,
) -> None:
    """Train and score with each folder of masks: mask, training-free fusion, released, network alone, extended."""
    from ..machine.paths import runs_home
    from ..runs.curve import LINES, mask_curve

    config = o.config_from_options(preset, settings, supervision=supervision, backbone=backbone, data=data)
    folder = out or runs_home() / f"curve-{preset}-{config.supervision}"
    table = mask_curve(
        folder, config, o.parse_settings(masks) or {"own": config.masks}, o.whole_numbers("--folds", folds),
        o.whole_numbers("--seeds", seeds), workers,
    )  # fmt: skip
    means = table.groupby(["row", "strength"], sort=False).miou.mean().unstack("strength")
    print(means.reindex([row for row in LINES if row in means.index]).rename(index=LINES).round(1).to_string())
    print(f"table, figure and settings: {folder}")
