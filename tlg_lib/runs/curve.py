"""The mask-quality curve: what each row makes of masks, from weak ones to those of CLIP-ES's strength."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..config import Config
from ..machine.device import environment
from ..machine.paths import atomic, write_json
from .study import Row, Study

# Rows of the curve: key of a record -> name in words.
LINES = {
    "query pseudo mask": "the mask itself",
    "base-fusion": "training-free fusion",
    "released": "TLG as released",
    "extended-alone": "its network alone",
    "extended": "TLG extended",
}


def mask_curve(
    folder: str | Path, config: Config, masks: dict[str, str], folds=(0, 1, 2, 3), seeds=(0,), workers: int = 0
) -> pd.DataFrame:
    """Train and score the rows of LINES with each folder of masks; curve.csv, curve.json and curve.png.

    masks: name of a strength -> folder of pseudo masks ("" = the dataset's own). Returns long form: strength,
    supervision, row, fold, seed, miou (at 0.5) and miou_chosen (threshold from base classes), percent.
    """
    folder = Path(folder)
    rows = tuple(Row(variant, LINES[variant], (("variant", variant),)) for variant in ("extended", "released"))
    tables = []
    for strength, where in masks.items():
        study = Study(folder / strength, config.replace(masks=where, epoch_episodes=0), folds, seeds, rows, shots=(1,))
        study.train(workers)
        tables.append(curve_table(study.evaluate(workers), strength, config.supervision))
    table = pd.concat(tables, ignore_index=True)
    with atomic(folder / "curve.csv", "w") as file:
        table.to_csv(file, index=False)
    about = {"config": config.to_dict(), "masks": masks, "folds": list(folds), "seeds": list(seeds)}
    write_json(folder / "curve.json", {**about, "environment": environment(), "rows": table.to_dict("records")})
    from ..look.figures import save_figure

    save_figure(curve_figure(table), folder / "curve.png", "mIoU of every row against the mIoU of the masks")
    return table


def curve_table(records: list[dict], strength: str, supervision: str) -> pd.DataFrame:
    """Records of one strength in long form, one line per row, fold and seed."""
    frame = pd.DataFrame(records)
    frame = frame[frame.row.isin(LINES) & (frame.control == "")]
    wide = frame.pivot_table(index=["row", "fold", "seed"], columns="threshold_from", values="miou").reset_index()
    wide = wide.rename(columns={"fixed": "miou", "base classes": "miou_chosen"})
    wide.insert(0, "strength", strength)
    wide.insert(1, "supervision", supervision)
    return wide.rename_axis(columns=None)


def curve_figure(table: pd.DataFrame):
    """mIoU of each row against that of the masks (means over folds and seeds), with the diagonal of no gain."""
    import matplotlib.pyplot as plt

    means = table.groupby(["row", "strength"]).miou.mean().unstack("strength")
    order = means.loc["query pseudo mask"].sort_values()
    figure, axis = plt.subplots(figsize=(6.5, 5), layout="constrained")
    for row, label in LINES.items():
        if row in means.index:
            style = dict(ls=":", color="#767676") if row == "query pseudo mask" else dict(marker="o")
            axis.plot(order.values, means.loc[row, order.index].values, label=label, **style)
    axis.set_xlabel("mIoU of the masks, percent")
    axis.set_ylabel("mIoU of unseen classes, percent")
    axis.set_title(f"Better than its mask? Supervision {table.supervision.iloc[0]}", fontsize=11, loc="left")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure
