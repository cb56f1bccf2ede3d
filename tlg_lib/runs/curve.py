"""The mask-quality curve: what each row makes of masks, from weak ones to those of CLIP-ES's strength."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..config import Config
from .records import refuse_unknown_rows, write_table
from .study import RIVAL, Row, Study, items

# Rows of the curve: key of a record -> name in words. The rival reads no mask: its score is the same everywhere.
LINES = {
    "query pseudo mask": "the mask itself",
    "base-fusion": "training-free fusion",
    "released": "TLG as released",
    "corrected": "TLG corrected",
    "extended-alone": "extended, its network alone",
    "extended": "TLG extended",
    "rival": "fully supervised rival",
}
# Under which name of look/figures a line has its colour, whichever of them a panel shows.
COLOURS = {
    "base-fusion": "base-fusion",
    "released": "released-pixel",
    "corrected": "corrected-pixel",
    "extended-alone": "extended-pixel-alone",
    "extended": "extended-pixel",
    "rival": "rival-pixel",
}
VARIANTS = ("extended", "corrected", "released")


def mask_curve(
    folder: str | Path,
    config: Config,
    masks: dict[str, str],
    folds=(0, 1, 2, 3),
    seeds=(0,),
    workers: int = 0,
    supervisions=("pixel", "image"),
    only: tuple[str, ...] = (),
) -> pd.DataFrame:
    """Train and score the rows of LINES with each folder of masks; curve.csv, curve.json and curve.png.

    masks: name of a strength -> folder of pseudo masks ("" = the dataset's own). Returns long form: strength,
    supervision (of the rival: pixel), row, fold, seed, miou (at 0.5) and miou_chosen (threshold from base classes),
    percent. The rival is trained once, with the first masks in view as the query's prompt that it does not read.
    only: trained rows wanted, () for all. Raises TLGError for a row that is not known.
    """
    folder, wanted = Path(folder), wanted_rows(only)
    config = config.replace(epoch_episodes=0)
    first = config.replace(masks=next(iter(masks.values())))
    of_rival = []
    if "rival" in wanted:
        rival = Study(folder / "rival", first, folds, seeds, (Row("rival", LINES["rival"], items(RIVAL)),), shots=(1,))
        rival.train(workers)
        of_rival = [r for r in rival.evaluate(workers) if r["row"] == "rival"]
    tables = []
    for strength, where in masks.items():
        rows = tuple(
            Row(f"{v}-{targets}", f"{LINES[v]}, {targets}", items({"variant": v, "supervision": targets}))
            for targets in supervisions
            for v in VARIANTS
            if v in wanted
        )
        study = Study(folder / strength, config.replace(masks=where), folds, seeds, rows, shots=(1,))
        study.train(workers)
        records = study.evaluate(workers)
        tables += [curve_table(records + of_rival, strength, targets) for targets in supervisions]
    table = pd.concat(tables, ignore_index=True)
    write_table(folder, "curve", table, config, masks=masks, folds=list(folds), seeds=list(seeds))
    from ..look.figures import save_figure

    save_figure(curve_figure(table), folder / "curve.png", "mIoU of every row against the mIoU of the masks")
    return table


def wanted_rows(only: tuple[str, ...]) -> tuple[str, ...]:
    """The trained rows that are asked for, all where none is named. Raises TLGError naming one that is not known."""
    known = (*VARIANTS, "rival")
    refuse_unknown_rows(only, known, "trained rows of the curve")
    return only or known


def curve_table(records: list[dict], strength: str, supervision: str) -> pd.DataFrame:
    """Records of one strength in long form, one line per row, fold and seed: the trained rows with these targets (named
    as ``extended-pixel``), and what reads no target."""
    frame = pd.DataFrame(records)
    frame["row"] = frame.row.str.replace(f"-{supervision}", "", regex=False)
    frame = frame[frame.row.isin(LINES) & (frame.control == "")]
    wide = frame.pivot_table(index=["row", "fold", "seed"], columns="threshold_from", values="miou").reset_index()
    wide = wide.rename(columns={"fixed": "miou", "base classes": "miou_chosen"})
    wide.insert(0, "strength", strength)
    wide.insert(1, "supervision", supervision)
    return wide.rename_axis(columns=None)


def curve_figure(table: pd.DataFrame):
    """mIoU of each row against that of the masks (means over folds and seeds), with the diagonal of no gain; one panel
    a supervision. The vote is cut at 0.5, the others where base classes chose: at 0.5 what cross-entropy alone has
    trained marks next to nothing."""
    from matplotlib.figure import Figure

    from ..look.figures import GREY, method_colour, styled

    @styled
    def draw():
        supervisions = list(dict.fromkeys(table.supervision))
        figure = Figure(figsize=(6 * len(supervisions), 4.8), layout="constrained")
        for axis, supervision in zip(
            figure.subplots(1, len(supervisions), squeeze=False, sharey=True)[0], supervisions
        ):
            here = table[table.supervision == supervision]
            means = here.groupby(["row", "strength"]).miou_chosen.mean().unstack("strength")
            order = means.loc["query pseudo mask"].sort_values()
            for row, label in LINES.items():
                if row in means.index:
                    mask = row == "query pseudo mask"
                    style = dict(ls=":", color=GREY) if mask else dict(marker="o", color=method_colour(COLOURS[row]))
                    axis.plot(order.values, means.loc[row, order.index].values, label=label, **style)
            axis.set_xlabel("mIoU of the masks, percent")
            axis.set_title(f"targets: {supervision}", fontsize=10)
        figure.axes[0].set_ylabel("mIoU of unseen classes, percent")
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        figure.suptitle("Better than its mask? The vote cut at 0.5, the others where base classes chose", fontsize=11)
        return figure

    return draw()
