"""`tlg choose`: compare settings on base classes that stand in for the test classes."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options as o


def command(
    preset: o.Preset = "mini",
    tries: Annotated[
        list[str] | None, typer.Option("--try", help="a setting to compare, as key=value,key=value; repeatable")
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
    """Compare settings without the test classes.

    Each is trained without the test fold's and the next fold's classes, and scored on the latter, best first.
    """
    from ..machine.paths import runs_home
    from ..runs.choices import compare_settings

    config = o.config_from_options(preset, settings, supervision=supervision, backbone=backbone, data=data)
    compared = {"as it is": {}} | {text: o.parse_settings(text.split(",")) for text in tries or ()}
    for changes in compared.values():
        config.replace(**changes)  # a wrong name or value is told before anything is trained
    folder = out or runs_home() / f"choices-{preset}-{config.supervision}"
    table = compare_settings(folder, config, compared, *o.cells(folds, seeds), workers)
    print(table.round(1).to_string(index=False))
    print(f"table and settings: {folder}")
