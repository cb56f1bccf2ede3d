"""`tlg train`: train one network on one fold, resumable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as o


def command(
    preset: Annotated[str, typer.Argument(help="mini, smoke, pascal-lite, pascal or coco")] = "mini",
    out: Annotated[Path | None, typer.Option(help="folder of the run")] = None,
    fold: o.Fold = None,
    seed: o.Seed = None,
    variant: o.Variant = None,
    supervision: o.Supervision = None,
    backbone: o.Backbone = None,
    data: o.Data = None,
    settings: o.Set = None,
    curves: Annotated[str, typer.Option(help="loss, rate and scores by step: csv or tensorboard, in OUT/curves")] = "",
) -> None:
    """Train one network on the base classes of a fold. The same command goes on after an interruption."""
    config = o.config_from_options(
        preset, settings, fold=fold, seed=seed, variant=variant, supervision=supervision, backbone=backbone, data=data
    )
    from ..machine.paths import runs_home
    from ..train import train

    name = f"{config.variant}-{config.supervision}-fold{config.fold}-seed{config.seed}"
    folder = out or runs_home() / preset / "jobs" / name
    summary = train(config, folder, curves=curves)
    for row in summary["history"]:
        shown = {
            name: f"{row[name]:.1f}" + (f" ({row[f'{name}_remarks']})" if row.get(f"{name}_remarks") else "")
            for name in ("test", "base")
        }
        print(
            f"epoch {row['epoch']}: step {row['step']}, loss {row['loss']:.4f}, mIoU test {shown['test']}, "
            f"base {shown['base']} ({config.epoch_episodes} episodes each)"
        )
    print(f"trained {config.steps} steps in {summary['seconds']:.0f} s: {folder}")
    print(f"next: tlg eval {folder}")
