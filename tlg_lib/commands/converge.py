"""`tlg converge`: learning curves of the table's rows, and their scores at the end."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options as o


def command(
    preset: o.Preset = "mini",
    steps: Annotated[int, typer.Option(min=1, help="optimizer steps of every row")] = 2000,
    every: Annotated[int, typer.Option(min=0, help="steps between two points; 0: a tenth of all")] = 0,
    rows: o.Rows = "",
    own: Annotated[
        list[str] | None, typer.Option("--for", help="a row's own settings, as ROW:key=value,key=value; repeatable")
    ] = None,
    folds: o.Folds = "0,1,2,3",
    seeds: o.Seeds = "0",
    out: o.Out = None,
    workers: o.Workers = 0,
    backbone: o.Backbone = None,
    data: o.Data = None,
    settings: o.Set = None,
) -> None:
    """Train every row to convergence, with learning curves.

    Test classes on the way and at the end; table and figure.
    """
    from ..machine.paths import runs_home
    from ..runs.converge import POINTS, converge
    from ..runs.records import shown_table

    config = o.config_from_options(preset, settings, backbone=backbone, data=data)
    config = config.replace(steps=steps, epoch_steps=every or max(1, steps // POINTS))
    named = dict(text.partition(":")[::2] for text in own or ())
    chosen = {row: o.parse_settings(changes.split(",")) for row, changes in named.items()}
    for changes in chosen.values():
        config.replace(**changes)  # a wrong name or value is told before anything is trained
    folder = out or runs_home() / f"converge-{preset}-{steps}"
    table = converge(folder, config, *o.cells(folds, seeds), workers, chosen, o.names(rows))
    print(shown_table(table))
    print(f"table, curves, figure and settings: {folder}")
