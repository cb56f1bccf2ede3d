"""Choosing between settings without the test classes: another fold's classes stand in for them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..config import Config
from .records import write_table
from .study import Row, Study, items


def compare_settings(
    folder: str | Path, config: Config, settings: dict[str, dict], folds=(0, 1, 2, 3), seeds=(0,), workers: int = 0
) -> pd.DataFrame:
    """Train every setting for every fold with the next fold's classes as validation; choices.csv, .json, the table.

    settings: name -> changes of the config. For test fold f neither its classes nor those of fold f + 1 (3 -> 0) are
    trained on, and the latter's are scored: what is chosen by this table has not seen the test classes of f. Columns:
    setting, mIoU at 0.5 of the answer, of the network alone (where there is a vote) and of the mask, means over folds
    and seeds; best first.
    """
    folder = Path(folder)
    rows = tuple(Row(name, name, items(changes)) for name, changes in settings.items())
    found = []
    for fold in folds:
        here = config.replace(validation_fold=(fold + 1) % 4, fold=fold, epoch_episodes=0)
        study = Study(folder / f"fold{fold}", here, (fold,), seeds, rows, shots=(1,))
        study.train(workers)
        found += [r for r in study.evaluate(workers) if r["threshold_from"] == "fixed"]
    table = choice_table(found, list(settings))
    write_table(folder, "choices", table, config, settings=settings, folds=list(folds), seeds=list(seeds))
    return table


def choice_table(records: list[dict], names: list[str]) -> pd.DataFrame:
    """One line per setting from records of validation classes, best answer first."""
    frame = pd.DataFrame(records)
    mean = lambda row: float(frame[frame.row == row].miou.mean())  # NaN where there is no such row
    lines = [
        {"setting": n, "answer": mean(n), "network alone": mean(f"{n}-alone"), "mask": mean("query pseudo mask")}
        for n in names
    ]
    return pd.DataFrame(lines).sort_values("answer", ascending=False, ignore_index=True, kind="stable")
