"""`tlg grid`: what support masks, query mask and targets are each worth, beside the fully supervised rival."""

from __future__ import annotations

from . import options as o


def command(
    preset: o.Preset = "mini",
    folds: o.Folds = "0,1,2,3",
    seeds: o.Seeds = "0",
    out: o.Out = None,
    workers: o.Workers = 0,
    backbone: o.Backbone = None,
    data: o.Data = None,
    settings: o.Set = None,
) -> None:
    """Ask who drew what, and what is shown.

    Trains {supports pseudo, drawn} x {query mask pseudo, none} x {targets pixel, image}, and the rival.
    """
    from ..machine.paths import runs_home
    from ..runs.grid import guidance_grid
    from ..runs.records import shown_table

    config = o.config_from_options(preset, settings, backbone=backbone, data=data)
    folder = out or runs_home() / f"grid-{preset}"
    table = guidance_grid(folder, config, *o.cells(folds, seeds), workers)
    print(shown_table(table))
    print(f"table, figure and settings: {folder}")
