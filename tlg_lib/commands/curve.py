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
    rows: o.Rows = "",
    folds: o.Folds = "0,1,2,3",
    seeds: o.Seeds = "0",
    out: o.Out = None,
    workers: o.Workers = 0,
    supervision: o.Supervision = None,
    backbone: o.Backbone = None,
    data: o.Data = None,
    settings: o.Set = None,
) -> None:
    """Train and score every row with each folder of masks. With pixel and image targets, and the rival."""
    from ..config import SUPERVISIONS
    from ..machine.paths import runs_home
    from ..runs.curve import LINES, mask_curve

    config = o.config_from_options(preset, settings, supervision=supervision, backbone=backbone, data=data)
    supervisions = (supervision,) if supervision else SUPERVISIONS
    folder = out or runs_home() / f"curve-{preset}"
    table = mask_curve(
        folder, config, o.parse_settings(masks) or {"own": config.masks}, *o.cells(folds, seeds), workers,
        supervisions, o.names(rows),
    )  # fmt: skip
    for targets, here in table.groupby("supervision", sort=False):
        means = here.groupby(["row", "strength"], sort=False).miou.mean().unstack("strength")
        print(f"targets: {targets}")
        print(means.reindex([row for row in LINES if row in means.index]).rename(index=LINES).round(1).to_string())
    print(f"table, figure and settings: {folder}")
