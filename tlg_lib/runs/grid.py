"""The guidance grid: what support masks, query mask and targets are each worth, beside the fully supervised rival."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pandas as pd

from ..config import Config
from .records import score_table, write_table
from .study import RIVAL, Row, Study, items

RIVAL_ROW = Row("rival", "fully supervised rival: 4D encoder, drawn supports and targets", items(RIVAL))


def grid_rows() -> tuple[Row, ...]:
    """{support masks pseudo, drawn} x {query mask pseudo, none} x {targets pixel, image}, and the rival."""
    rows = [
        Row(
            f"{support}-{query}-{targets}",
            f"supports {support}, query mask {query}, targets {targets}",
            (("query_mask", query), ("supervision", targets), ("support_masks", support)),
        )
        for support, query, targets in product(("pseudo", "drawn"), ("pseudo", "none"), ("pixel", "image"))
    ]
    return (*rows, RIVAL_ROW)


def guidance_grid(folder: str | Path, config: Config, folds=(0, 1, 2, 3), seeds=(0,), workers: int = 0) -> pd.DataFrame:
    """Train and score every cell of the grid, with its wrong-support control on the same queries.

    Writes grid.csv, grid.json and grid.png; returns records.score_table.
    """
    config = config.replace(epoch_episodes=0, extra_episodes=config.eval_episodes)
    study = Study(folder, config, folds, seeds, controlled(grid_rows()), shots=(1,))
    study.train(workers)
    names = {row.name for row in study.rows} | {"query pseudo mask", "prototype", "base-fusion"}
    table = score_table([r for r in study.evaluate(workers) if r["row"] in names])
    write_table(Path(folder), "grid", table, config, folds=list(folds), seeds=list(seeds))
    from ..look.figures import save_figure

    title = f"Guidance grid: {config.preset}, {config.steps} steps, {config.eval_episodes} episodes a fold"
    alt = "; ".join(f"{line.label}: {line.miou:.1f}" for line in table.itertuples())
    save_figure(grid_figure(table, title), Path(folder) / "grid.png", alt)
    return table


def controlled(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """The rows, each with its wrong-support control and nothing else beside its score."""
    return tuple(Row(row.name, row.label, row.overrides, wrong=True) for row in rows)


def grid_figure(table: pd.DataFrame, title: str):
    """Three panels, all queries, those of one class, those of several: each row's score and, hollow, with the support
    of another class; the line between is what the support is worth."""
    from matplotlib.figure import Figure

    from ..look.figures import BLUE, GREY, VERMILLION, styled

    @styled
    def draw():
        figure = Figure(figsize=(12.5, 0.36 * len(table) + 1.6), layout="constrained")
        panels = (("miou", "all queries"), ("miou_one", "one class"), ("miou_several", "several classes"))
        axes = figure.subplots(1, 3, sharey=True)
        for axis, (name, words) in zip(axes, panels):
            for y, line in enumerate(table.to_dict("records")):
                wrong, colour = line[f"wrong_{name}"], VERMILLION if line["row"] == "rival" else BLUE
                if pd.notna(wrong):
                    axis.plot([wrong, line[name]], [y, y], color=GREY, lw=1)
                    axis.plot(wrong, y, "o", mfc="white", mec=colour)
                half = line[f"{name}_half"]
                axis.errorbar(line[name], y, xerr=None if pd.isna(half) else half, fmt="o", color=colour)
            axis.set_title(words, fontsize=10)
            axis.set_xlabel("mIoU of unseen classes, percent")
        axes[0].set_yticks(range(len(table)), table.label)
        axes[0].invert_yaxis()
        figure.suptitle(f"{title}; hollow: the support shows another class", fontsize=11)
        return figure

    return draw()
