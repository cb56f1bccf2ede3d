"""Learning curves of every row to convergence: a rival that was trained too briefly is none."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..config import Config
from ..errors import TLGError
from .grid import controlled
from .records import refuse_unknown_rows, score_table, write_table
from .study import Row, Study, table_rows

POINTS = 10  # of a learning curve, where its user names no other distance


def converge(
    folder: str | Path,
    config: Config,
    folds=(0, 1, 2, 3),
    seeds=(0,),
    workers: int = 0,
    own: dict[str, dict] | None = None,
    only: tuple[str, ...] = (),
) -> pd.DataFrame:
    """Train the table's rows for ``config.steps``, score them every ``epoch_steps`` and in full at the end.

    own: row -> its own settings, as a learning rate tried for it; only: names of the rows wanted, () for all. Writes
    converge.csv and .json (records.score_table of the end), curves.csv (row, label, fold, seed, step, miou at 0.5,
    miou_chosen at the threshold chosen on base classes, percent) and converge.png; returns the table of the end.
    """
    rows = own_rows(table_rows(config), own or {}, only)
    config = config.replace(extra_episodes=config.eval_episodes)
    if not config.epoch_episodes:
        raise TLGError("epoch_episodes=0: a learning curve needs episodes, as --set epoch_episodes=200")
    study = Study(folder, config, folds, seeds, controlled(rows), shots=(1,))
    curves = curve_points(study, study.train(workers))
    names = {row.name for row in rows} | {"query pseudo mask", "prototype", "base-fusion"}
    table = score_table(
        [r for r in study.evaluate(workers) if r["row"] in names and r["epoch"] in ("last", "no training")]
    )
    about = {"folds": list(folds), "seeds": list(seeds), "own": own or {}}
    write_table(Path(folder), "curves", curves, config, **about)
    write_table(Path(folder), "converge", table, config, **about)
    from ..look.figures import save_figure

    alt = "; ".join(f"{line.label}: {line.miou_chosen:.1f}" for line in table.itertuples())
    save_figure(curves_figure(curves, table, config), Path(folder) / "converge.png", alt)
    return table


def own_rows(rows: tuple[Row, ...], own: dict[str, dict], only: tuple[str, ...]) -> tuple[Row, ...]:
    """The wanted rows with settings of their own. Raises TLGError naming a row that is not in the table."""
    refuse_unknown_rows((*own, *only), [row.name for row in rows], "rows")
    wanted = [row for row in rows if not only or row.name in only]
    return tuple(Row(r.name, r.label, tuple({**dict(r.overrides), **own.get(r.name, {})}.items())) for r in wanted)


def curve_points(study: Study, trained: list[dict]) -> pd.DataFrame:
    """Long form of the epochs' scores; ``trained`` as Study.train returns it, rows turning fastest."""
    lines = [
        {
            "row": row.name,
            "label": row.label,
            "fold": fold,
            "seed": seed,
            "step": epoch["step"],
            "miou": epoch["test"],
            "miou_chosen": epoch["test_chosen"],
        }
        for (row, fold, seed), summary in zip(study.cells(), trained, strict=True)
        for epoch in summary["history"]
    ]
    return pd.DataFrame(lines)


def curves_figure(curves: pd.DataFrame, table: pd.DataFrame, config: Config):
    """Score against steps, one line a row (mean over folds and seeds), at the chosen threshold and at 0.5."""
    from matplotlib.figure import Figure

    from ..look.figures import GREY, method_colour, styled

    @styled
    def draw():
        figure = Figure(figsize=(11, 4.6), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        mask = table[table.row == "query pseudo mask"].miou
        for axis, score, words in ((axes[0], "miou_chosen", "chosen on base classes"), (axes[1], "miou", "0.5")):
            means = curves.groupby(["row", "label", "step"], sort=False)[score].mean()
            for (row, label), line in means.groupby(level=["row", "label"], sort=False):
                steps = line.index.get_level_values("step")
                axis.plot(steps, line.values, marker="o", ms=3, color=method_colour(row), label=label)
            if len(mask):
                axis.axhline(mask.iloc[0], color=GREY, ls=":", label="the query's pseudo mask")
            axis.set_title(f"threshold {words}", fontsize=10)
            axis.set_xlabel("optimizer steps")
        axes[0].set_ylabel("mIoU of unseen classes, percent")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
        figure.suptitle(f"{config.preset}, {config.epoch_episodes} episodes a fold and point", fontsize=11)
        return figure

    return draw()
