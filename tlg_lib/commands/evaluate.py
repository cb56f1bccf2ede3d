"""`tlg eval`: score a trained network beside the training-free rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as o


def command(
    folder: Annotated[Path, typer.Argument(help="folder of a training run (holds checkpoint.safetensors)")],
    shots: Annotated[str, typer.Option(help="shot counts, as 1,5")] = "1,5",
    settings: o.Set = None,
) -> None:
    """Score the last and the best epoch, the wrong-support control and the training-free rows."""
    from rich.console import Console
    from rich.table import Table

    from ..checkpoints import load_checkpoint
    from ..errors import TLGError
    from ..runs.study import TRAINING_FREE, evaluate_trained, evaluate_training_free

    try:
        counts = tuple(int(k) for k in shots.split(","))
    except ValueError:
        raise TLGError(f"--shots {shots}: write whole numbers, as 1,5") from None
    config = load_checkpoint(folder / "checkpoint.safetensors").config.replace(**o.parse_settings(settings))
    records = evaluate_trained(config.to_dict(), str(folder), config.variant, f"TLG {config.variant}", counts, True)
    records = evaluate_training_free(config.to_dict(), str(folder / TRAINING_FREE), counts) + records
    table = Table(
        title=f"{config.preset}, fold {config.fold}, seed {config.seed}, supervision {config.supervision}, "
        f"{config.eval_episodes} episodes"
    )
    for column in ("row", "shots", "epoch", "control", "threshold", "mIoU", "FB-IoU", "agrees with mask"):
        table.add_column(column)
    for r in records:
        agreement = "" if r["agreement"] is None else f"{r['agreement']:.1f}"
        table.add_row(
            r["label"],
            str(r["shots"]),
            r["epoch"],
            r["control"],
            f"{r['threshold']:.2f} {r['threshold_from']}",
            f"{r['miou']:.1f}",
            f"{r['fb_iou']:.1f}",
            agreement,
        )
    Console().print(table)
