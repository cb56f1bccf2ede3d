"""`tlg eval`: score a trained network beside the training-free rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as o

# What may differ between training and scoring, beside how much is scored: where things lie, what computes.
ELSEWHERE = ("seed", "shots", "test_draw", "data", "masks", "support_masks", "device", "cache_features", "workers")


def command(
    folder: Annotated[Path, typer.Argument(help="folder of a training run (holds checkpoint.safetensors)")],
    shots: Annotated[str, typer.Option(help="shot counts, as 1,5")] = "1,5",
    settings: o.Set = None,
    json: o.Json = False,
) -> None:
    """Score the last and the best epoch, the wrong-support control and the training-free rows."""
    from rich.console import Console
    from rich.table import Table

    from ..checkpoints import load_checkpoint
    from ..config import Evaluation
    from ..errors import TLGError
    from ..inputs import Inputs
    from ..runs.study import TRAINING_FREE, evaluate_trained, evaluate_training_free

    try:
        counts = tuple(int(k) for k in shots.split(","))
    except ValueError:
        raise TLGError(f"--shots {shots}: write whole numbers, as 1,5") from None
    trained = load_checkpoint(folder / "checkpoint.safetensors").config
    config, inputs = trained.replace(**o.parse_settings(settings)), Inputs()
    before, after = trained.to_dict(), config.to_dict()
    free = (*Evaluation.model_fields, *ELSEWHERE)
    changed = [name for name in after if after[name] != before[name] and name not in free]
    if changed:
        raise TLGError(
            f"--set {changed[0]}={after[changed[0]]}: {folder} was trained with {before[changed[0]]}, a score under "
            f"another name would be wrong: train again, or set one of {', '.join(free)}"
        )
    label = f"TLG {config.variant}"
    if config.support_masks != "pseudo":
        label += f", supports {config.support_masks}"
    records = evaluate_trained(after, str(folder), config.variant, label, counts, True, inputs)
    records = evaluate_training_free(after, str(folder / TRAINING_FREE), counts, inputs) + records
    if json:
        o.print_json(records)
        return
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
            f"{r['miou']:.1f}{'*' if r.get('remarks') else ''}",
            f"{r['fb_iou']:.1f}",
            agreement,
        )
    Console().print(table)
    for remark in dict.fromkeys(
        f"{r['label']}, {r['shots']} shots: {r['remarks']}" for r in records if r.get("remarks")
    ):
        print(f"note: {remark}")
