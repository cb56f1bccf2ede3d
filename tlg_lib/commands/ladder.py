"""`tlg ladder`: what every step from released by way of corrected to extended is worth, measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as o


def command(
    preset: Annotated[str, typer.Argument(help="mini, smoke, pascal-lite, pascal or coco")] = "mini",
    folds: Annotated[str, typer.Option("--fold", "--folds", help="test folds, as 0,1,2,3")] = "0,1,2,3",
    seeds: Annotated[
        str, typer.Option("--seed", "--seeds", help="seeds, as 0,1,2; an interval needs at least two")
    ] = "0,1,2",
    out: Annotated[Path | None, typer.Option(help="folder of the ladder")] = None,
    workers: Annotated[int, typer.Option(help="processes side by side; 0 = one per core")] = 0,
    supervision: o.Supervision = None,
    backbone: o.Backbone = None,
    data: o.Data = None,
    settings: o.Set = None,
) -> None:
    """Train released to extended one switch at a time, and each switch alone off; table and figure."""
    from ..errors import TLGError

    config = o.config_from_options(preset, settings, supervision=supervision, backbone=backbone, data=data)
    try:
        chosen = [tuple(int(n) for n in text.split(",")) for text in (folds, seeds)]
    except ValueError:
        raise TLGError(f"--folds {folds} --seeds {seeds}: write whole numbers, as 0,1,2") from None
    from ..machine.paths import runs_home
    from ..runs.ladder import run_ladder

    folder = out or runs_home() / f"ladder-{preset}-{config.supervision}"
    table = run_ladder(folder, config, *chosen, workers)
    print(table.round(1).to_string(index=False))
    print(f"table, figure and settings: {folder}")
