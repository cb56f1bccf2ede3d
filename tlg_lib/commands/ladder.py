"""`tlg ladder`: what every step from released by way of corrected to extended is worth, measured."""

from __future__ import annotations

from . import options as o


def command(
    preset: o.Preset = "mini",
    rows: o.Rows = "",
    folds: o.Folds = "0,1,2,3",
    seeds: o.Seeds = "0,1,2",
    out: o.Out = None,
    workers: o.Workers = 0,
    supervision: o.Supervision = None,
    backbone: o.Backbone = None,
    data: o.Data = None,
    settings: o.Set = None,
) -> None:
    """Train from released to extended, one switch at a time. Then each switch alone off; table and figure."""
    from ..machine.paths import runs_home
    from ..runs.ladder import run_ladder

    config = o.config_from_options(preset, settings, supervision=supervision, backbone=backbone, data=data)
    folder = out or runs_home() / f"ladder-{preset}-{config.supervision}"
    table = run_ladder(folder, config, *o.cells(folds, seeds), workers, o.names(rows))
    print(table.round(1).to_string(index=False))
    print(f"table, figure and settings: {folder}")
