"""One score per row, fold and seed: records, their means over folds and seeds, and the intervals of these."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..errors import TLGError

if TYPE_CHECKING:
    from ..config import Config

FOLDS = (0, 1, 2, 3)


@dataclass(frozen=True)
class Interval:
    """A mean of ``count`` values with its confidence interval [low, high]; NaN bounds when count is 1."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    def __str__(self) -> str:
        if self.count < 2:
            return f"{self.mean:.2f} (1 value, no interval)"
        return f"{self.mean:.2f} ± {self.half_width:.2f} ({self.count} values)"

    def to_dict(self) -> dict:
        """For JSON: the bounds are left out, not null, when one value gives none."""
        bounds = {} if self.count < 2 else {"low": self.low, "high": self.high}
        return {"mean": self.mean, "count": self.count, **bounds}


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of independent runs (seeds) and its Student t interval.

    With n values of mean m and sample standard deviation s (divisor n - 1), the interval is
    ``m ± t * s / sqrt(n)``, t being the (1 + confidence) / 2 quantile of Student's t with n - 1 degrees of
    freedom (4.30 for three seeds, 2.78 for five). It assumes roughly normal run-to-run noise.

    values: at least one finite number. Raises TLGError when empty, not finite, or confidence outside (0, 1).
    """
    from scipy.stats import t

    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or numbers.size == 0 or not np.isfinite(numbers).all():
        raise TLGError("an interval needs at least one value, all finite")
    if not 0 < confidence < 1:
        raise TLGError(f"confidence={confidence}: must lie between 0 and 1")
    n, mean = int(numbers.size), float(numbers.mean())
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    half = float(t.ppf((1 + confidence) / 2, n - 1) * numbers.std(ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def mean_over_folds(scores: Mapping[int, float]) -> float:
    """Mean over the four folds; NaN when one is missing, as a mean over three compares with nothing."""
    return float(np.mean([scores.get(fold, math.nan) for fold in FOLDS]))


def seed_means(rows: pd.DataFrame, score: str = "miou", folds: Sequence[int] = FOLDS) -> pd.Series:
    """seed -> mean of ``score`` over ``folds``; a seed that lacks one of them is left out."""
    rows = rows[rows.fold.isin(folds)]
    return rows.groupby("seed").filter(lambda g: set(g.fold) == set(folds)).groupby("seed")[score].mean()


def half_width(rows: pd.DataFrame, score: str = "miou") -> float:
    """Half width of the 95% interval over seeds of the mean over the four folds; NaN with fewer than two seeds."""
    values = seed_means(rows, score)
    return mean_interval(values).half_width if len(values) else math.nan


def remarks_of(rows: pd.DataFrame) -> list[str]:
    """What must stand beside a mean of these records, as "folds 0, 1: predicts background everywhere"."""
    found: dict[str, set[int]] = {}
    for fold, said in zip(rows.fold, rows.get("remarks", [])):
        for remark in filter(None, str(said).split("; ")):
            found.setdefault(remark, set()).add(int(fold))
    places = {remark: ", ".join(map(str, sorted(folds))) for remark, folds in found.items()}
    return sorted(f"fold{'s' if ',' in folds else ''} {folds}: {remark}" for remark, folds in places.items())


def score_table(records: list[dict]) -> pd.DataFrame:
    """One line a row: mIoU over folds, then seeds, percent, with half widths of 95% intervals (NaN with one seed).

    Columns: row, label; miou at 0.5, miou_chosen at the threshold chosen on base classes, miou_one and miou_several
    (queries of one class and of several, at 0.5), each with a ``_half``; these four as ``wrong_`` with the support of
    another class, and as ``cost_`` what that costs on the same queries, paired by seed (NaN where it was not scored).
    """
    frame, lines = pd.DataFrame(records), []
    folds = sorted(set(frame.fold))
    scores = {"miou": "miou", "miou_chosen": "miou", "miou_one": "miou_one", "miou_several": "miou_several"}
    for row in dict.fromkeys(frame.row):
        here = frame[frame.row == row]
        line: dict[str, object] = {"row": row, "label": here.label.iloc[0]}
        for name, column in scores.items():
            chosen = here[here.threshold_from == ("base classes" if name == "miou_chosen" else "fixed")]
            chosen = chosen.assign(value=chosen[column].astype(float)).dropna(subset="value")
            right, wrong = (seed_means(chosen[(chosen.control != "") == c], "value", folds) for c in (False, True))
            for prefix, values in (("", right), ("wrong_", wrong), ("cost_", right - wrong)):
                known = mean_interval(values.dropna()) if len(values.dropna()) else None
                line[f"{prefix}{name}"] = known.mean if known else math.nan
                line[f"{prefix}{name}_half"] = known.half_width if known else math.nan
        lines.append(line)
    return pd.DataFrame(lines)


def shown_table(table: pd.DataFrame) -> str:
    """A score_table for a terminal: the scores, what a wrong support costs, and ± where there are several seeds."""
    shown = pd.DataFrame({"row": table.row})
    for name, words in (
        ("miou_chosen", "chosen"), ("miou", "at 0.5"), ("miou_one", "one class"), ("miou_several", "several"),
        ("cost_miou_chosen", "support worth"), ("cost_miou_several", "on several"),
    ):  # fmt: skip
        shown[words] = [
            "" if math.isnan(v) else f"{v:.1f}" + ("" if math.isnan(h) else f" ± {h:.1f}")
            for v, h in zip(table[name], table[f"{name}_half"])
        ]
    return shown.to_string(index=False)


def refuse_unknown_rows(names: Sequence[str], known: Sequence[str], kind: str) -> None:
    """Raises TLGError for the first of ``names`` that is not ``known``; kind: what these are, in words."""
    for name in names:
        if name not in known:
            raise TLGError(f"no row '{name}': the {kind} are {', '.join(known)}")


def write_table(folder: Path, stem: str, table: pd.DataFrame, config: Config, **about: object) -> None:
    """<stem>.csv, and <stem>.json with the settings and the environment beside the rows; NaN there is null."""
    from ..machine.device import environment
    from ..machine.paths import atomic, write_json

    with atomic(folder / f"{stem}.csv", "w") as file:
        table.to_csv(file, index=False)
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    write_json(
        folder / f"{stem}.json", {"config": config.to_dict(), **about, "environment": environment(), "rows": rows}
    )


MASK, PROTOTYPE, FUSION, WRONG = "mask", "prototype", "fusion", "wrong-support"


def records_frame(records: list[dict]) -> pd.DataFrame:
    """Long-form table of the records with a ``key`` per method (figures.METHODS).

    The three training-free fusions become one method, the best of them on each fold: an upper bound that is
    chosen on the test classes, so that nothing trained is praised for beating a weak choice.
    """
    if not records:
        raise TLGError("no records to gather: train and evaluate first (notebooks 06 and 07)", code=3)
    frame = pd.DataFrame(records)
    frame["key"] = [_key(r) for r in records]
    fusions = frame[frame.key == FUSION]
    order = ["fold", "seed", "shots", "threshold_from"]
    best = fusions.sort_values("miou", ascending=False, kind="stable").drop_duplicates(order)
    return pd.concat([frame[frame.key != FUSION], best]).reset_index(drop=True)


def _key(record: dict) -> str:
    if record["row"] == "query pseudo mask":
        return MASK
    if record["row"].startswith("mask + "):
        return FUSION
    if record["control"]:
        names = {"extended-pixel": WRONG, "extended-image": f"{WRONG}-image", "rival-pixel": f"{WRONG}-rival"}
        return names.get(record["row"], f"{record['row']}, {record['control']}")
    return record["row"]


def fold_table(
    frame: pd.DataFrame, shots: int = 1, epoch: str = "last", threshold_from: str = "fixed", score: str = "miou"
) -> pd.DataFrame:
    """Methods by folds (mean over seeds), with ``mean`` only where all four folds are there, and ``± 95%``.

    epoch: "last" or "best by test classes" for trained rows; rows without training are always included.
    """
    chosen = frame[
        (frame.shots == shots) & (frame.threshold_from == threshold_from) & frame.epoch.isin([epoch, "no training"])
    ]
    table = chosen.pivot_table(index="key", columns="fold", values=score, sort=False)
    halves = {key: half_width(chosen[chosen.key == key], score) for key in table.index}
    table["mean"] = [mean_over_folds(line) for _, line in table.iterrows()]
    table["± 95%"] = pd.Series(halves)
    order = {key: i for i, key in enumerate(_order())}
    return table.loc[sorted(table.index, key=lambda k: order.get(k, len(order)))]


def as_scores(table: pd.DataFrame, mean: bool = False) -> dict:
    """A fold_table as {key: {fold: score}} for figures, or with ``mean`` {key: mean}, without missing entries."""
    if mean:
        return {key: float(v) for key, v in table["mean"].items() if not math.isnan(v)}
    folds = [column for column in table.columns if column in FOLDS]
    return {key: {f: float(row[f]) for f in folds if not math.isnan(row[f])} for key, row in table.iterrows()}


def half_widths(table: pd.DataFrame) -> dict[str, float]:
    """{key: half width of the 95% interval} of a fold_table, where there are several seeds."""
    return {key: float(v) for key, v in table["± 95%"].items() if not math.isnan(v)}


def _order() -> list[str]:
    from ..look.figures import METHODS

    return list(METHODS)


def score_of(frame: pd.DataFrame, key: str, **which) -> float | None:
    """Mean over the four folds of one method, None unless all four are there."""
    table = fold_table(frame, **which)
    value = table["mean"].get(key, math.nan)
    return None if math.isnan(value) else float(value)


def per_class(
    frame: pd.DataFrame, key: str, shots: int = 1, epoch: str = "last", threshold_from: str = "fixed"
) -> dict[str, float]:
    """class name -> IoU in percent (mean over seeds), each class from the fold that holds it out."""
    rows = frame[
        (frame.key == key)
        & (frame.shots == shots)
        & (frame.threshold_from == threshold_from)
        & frame.epoch.isin([epoch, "no training"])
    ]
    found: dict[str, list[float]] = {}
    for scores in rows.per_class:
        for name, value in scores.items():
            found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}
