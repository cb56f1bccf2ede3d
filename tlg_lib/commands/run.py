"""`tlg run`: the notebooks by papermill, from a preset to a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as o


def command(
    preset: Annotated[str, typer.Argument(help="a preset, or the name of a file in notebooks/params")] = "mini",
    out: Annotated[Path | None, typer.Option(help="run folder; by default runs/<preset>")] = None,
    fold: Annotated[
        str | None, typer.Option("--fold", "--folds", help="test fold 0..3, several as 0,2, or all")
    ] = None,
    seed: Annotated[str | None, typer.Option("--seed", "--seeds", help="random seed, several as 0,1,2")] = None,
    variant: Annotated[str | None, typer.Option(help="extended, corrected, released, hsnet or all")] = None,
    supervision: Annotated[str | None, typer.Option(help="pixel, image or all")] = None,
    backbone: o.Backbone = None,
    shots: Annotated[int | None, typer.Option(help="support images, scored beside 1-shot")] = None,
    data: o.Data = None,
    settings: o.Set = None,
) -> None:
    """Execute notebooks 00..11 and write a report. Leaves executed copies, figures, results.json and report.html."""
    from ..errors import TLGError
    from ..runs.notebooks import run_notebooks

    named = dict(
        fold=fold, seed=seed, variant=variant, supervision=supervision, backbone=backbone, shots=shots, data=data
    )
    given = {name: value for name, value in named.items() if value is not None}
    pairs = o.parse_settings(settings)
    if out and pairs.get("out"):
        raise TLGError("the run folder is named twice, by --out and by --set out: keep one")
    folder = run_notebooks(preset, given, pairs, out or "")
    print(f"report: {folder / 'report.html'}")
    print(f"results: {folder / 'results.json'}")
