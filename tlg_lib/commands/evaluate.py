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
    """Score a trained network, its control and the baselines.

    Last and best epoch, wrong support, training-free rows.
    """
    from ..checkpoints import load_checkpoint
    from ..config import Evaluation
    from ..errors import TLGError
    from ..inputs import Inputs
    from ..machine.code import code_digest
    from ..machine.paths import read_sealed
    from ..runs.study import TRAINING_FREE, evaluate_trained, evaluate_training_free, several

    counts = several("shots", shots, (1, 5))
    saved = load_checkpoint(folder / "checkpoint.safetensors")
    trained = saved.config
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
    records = evaluate_trained(after, str(folder), config.variant, label, counts, True, inputs=inputs)
    records = evaluate_training_free(after, str(folder / TRAINING_FREE), counts, inputs) + records
    if json:
        o.print_json(records)
        return
    if saved.about.get("code") != code_digest():
        print(f"note: trained by other code (commit {saved.about.get('commit', 'unknown')}) than what scores it here")
    if saved.about["data"] != read_sealed(folder / "records.json")["stamp"]["data"]:
        print("note: scored on other data than it was trained with, or they changed since")
    print(
        f"{config.preset}, fold {config.fold}, seed {config.seed}, supervision {config.supervision}, "
        f"{config.eval_episodes} episodes"
    )
    print(_table(records))
    print("base: chosen on base classes; mask: IoU of the prediction with the query's pseudo mask, in percent")
    for remark in dict.fromkeys(
        f"{r['label']}, {r['shots']} shots: {r['remarks']}" for r in records if r.get("remarks")
    ):
        print(f"note: {remark}")


SHORT = {"no training": "", "best by test classes": "best*"}


def _table(records: list[dict]) -> str:
    """One line a record, short enough for 80 columns, whole in a pipe."""
    width = max(len(r["label"]) for r in records)
    lines = [f"{'row':{width}}  shots  epoch     threshold   mIoU  FB-IoU   mask"]
    for r in records:
        epoch = "wrong" if r["control"] else SHORT.get(r["epoch"], r["epoch"])
        threshold = f"{r['threshold']:.2f} {'base' if r['threshold_from'] == 'base classes' else r['threshold_from']}"
        agreement = "" if r["agreement"] is None else f"{r['agreement']:.1f}"
        mark = "*" if r.get("remarks") else " "
        scores = f"{r['miou']:5.1f}{mark} {r['fb_iou']:6.1f}  {agreement:>5}"
        lines.append(f"{r['label']:{width}}  {r['shots']:5}  {epoch:8}  {threshold:10}  {scores}")
    return "\n".join([*lines, "wrong: the support shows another class; best*: the epoch chosen by test classes"])
