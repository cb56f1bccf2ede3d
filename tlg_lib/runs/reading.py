"""Reading a finished run: its rows compared in pairs on the same queries, and what may be believed after it.

Names of methods are those of ``records.records_frame``: a trained row, the same with ``-alone`` (the network before
the vote), "mask", "prototype" and "base-fusion" (nothing trained), or a control of CONTROLS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import TLGError
from ..evaluate import Counts
from ..machine.terminal import signed
from .notebook import SMOKE_NOTE
from .records import Interval, mean_interval
from .statistics import Comparison, paired_bootstrap

CHOSEN = -1  # place of the threshold chosen on base classes in a file of counts; 0.5 stands first
BEGUN = 1.0  # mIoU in percent of a training that marks something
FREE = {"mask": "query_pseudo_mask", "prototype": "prototype", "base-fusion": "base-fusion"}
CONTROLS = {
    "wrong-support": "extended-pixel",
    "wrong-support-image": "extended-image",
    "wrong-support-rival": "rival-pixel",
}


def counts_file(run, method: str, fold: int, seed: int, shots: int = 1) -> Path:
    """Where the counts per episode of a method lie. run: notebook.Run."""
    from .study import TRAINING_FREE

    study = run.study()
    if method in FREE:
        return study.job_folder(TRAINING_FREE, fold, seed) / FREE[method] / f"counts-{shots}shot.npz"
    row, ending = CONTROLS.get(method, method), "-wrong" if method in CONTROLS else ""
    if method.endswith("-alone"):
        row, ending = method.removesuffix("-alone"), "-alone"
    return study.job_folder(row, fold, seed) / f"counts-{shots}shot{ending}.npz"


def has(run, method: str, shots: int = 1) -> bool:
    """Whether a method was scored on every fold and seed of the run."""
    return all(counts_file(run, method, f, s, shots).is_file() for f in run.folds for s in run.seeds)


def compare(run, first: str, second: str, shots: tuple[int, int] = (1, 1), resamples: int = 2000) -> Comparison:
    """First method minus second, in mIoU points over the run's folds, on the episodes that both answered.

    Each is cut at the threshold that base classes chose for it, as at 0.5 a network that was trained briefly marks
    little; a vote with the mask keeps its own.
    The list of queries wraps round, so the same picture is asked several times: its episodes, of all seeds, are drawn
    together (statistics.paired_bootstrap). Where one method was scored on fewer episodes, the other's first ones are
    taken; supports of 1 and 5 shots are nested, so the queries are the same. shots: of the first and of the second.
    """
    parts: list[tuple[Counts, Counts, list[str]]] = []
    for seed in run.seeds:
        for fold in run.folds:
            one, two = (
                Counts.load(counts_file(run, m, fold, seed, k)) for m, k in zip((first, second), shots, strict=True)
            )
            config = run.config.replace(fold=fold, seed=seed, shots=1)
            episodes = run.inputs.open(config).test_episodes(config)
            both = min(len(one.class_ids), len(two.class_ids))
            if not np.array_equal(one.class_ids[:both], two.class_ids[:both]):
                raise TLGError(f"{first} and {second} answered other episodes on fold {fold}: evaluate them again")
            parts.append((one, two, [f"{fold}/{e.query}" for e in episodes[:both]]))
    arrays = [
        np.concatenate([getattr(part[i], name)[CHOSEN, : len(part[2]), 1] for part in parts])
        for i in (0, 1)
        for name in ("intersection", "union")
    ]
    classes = np.concatenate([part[0].class_ids[: len(part[2])] for part in parts])
    queries = [query for part in parts for query in part[2]]
    return paired_bootstrap(*arrays, classes, groups=queries, resamples=resamples)


def fold_gains(run, first: str, second: str) -> dict[int, Comparison]:
    """``compare`` on each fold by itself."""
    from dataclasses import replace

    return {fold: compare(replace(run, folds=(fold,)), first, second) for fold in run.folds}


def card_gain(card: dict[str, Sequence[float]], first: str, second: str) -> Interval | None:
    """First row of the score card minus the second, seed by seed; None where one of them is missing.

    Also where a training ended near 0: it has not begun to mark anything, and a lead on it says nothing of a part.
    """
    if not (card.get(first) and card.get(second)) or min(*card[first], *card[second]) < BEGUN:
        return None
    before, after = card[second], card[first]
    if len(before) == 1:  # nothing trained, so no seeds
        before = list(before) * len(after)
    return mean_interval([a - b for a, b in zip(after, before)])


def row_with(run, **settings) -> str:
    """Name of the first row of the run whose config has these settings; "" where there is none."""
    from .study import row_config

    for row in run.rows:
        config = row_config(run.config, row, run.folds[0], run.seeds[0])
        if all(getattr(config, name) == value for name, value in settings.items()):
            return row.name
    return ""


@dataclass(frozen=True)
class Belief:
    """A claim, what was measured for it, and the difference that decides: positive speaks for the claim."""

    claim: str
    measured: str
    difference: Comparison | Interval | None

    @property
    def verdict(self) -> str:
        """Holds or is contradicted where the 95% interval is clear of zero; else open."""
        if self.difference is None:
            return "not measured in this run"
        low, high = self.difference.low, self.difference.high
        if np.isnan(low):
            return "open: one value has no interval"
        return "holds here" if low > 0 else "contradicted here" if high < 0 else "open: the interval holds zero"

    @property
    def figure(self) -> str:
        """The difference with its interval."""
        if self.difference is None:
            return ""
        middle = getattr(self.difference, "difference", None)
        middle = self.difference.mean if middle is None else middle
        low, high = self.difference.low, self.difference.high
        return signed(middle) + ("" if np.isnan(low) else f" [{signed(low)}, {signed(high)}]")


def believed(beliefs: Sequence[Belief], smoke: bool = False) -> str:
    """A Markdown table: claim, what was measured, its figure and the verdict, which a smoke run cannot give."""
    lines = ["| claim | measured | points [95%] | verdict |", "|---|---|---|---|"]
    said = [SMOKE_NOTE if smoke else b.verdict for b in beliefs]
    lines += [f"| {b.claim} | {b.measured} | {b.figure} | **{s}** |" for b, s in zip(beliefs, said)]
    return "\n".join(lines)


def by_mask_quality(
    masks: np.ndarray, counts: dict[str, Counts], bins: int = 5
) -> dict[str, list[tuple[float, float]]]:
    """The answers, cut where base classes chose, on episodes sorted by how good their query's mask is, in equal bins.

    masks: IoU of each episode's mask with the truth in percent, [E]; counts: method -> Counts of the same episodes.
    Returns method -> per bin (mean IoU of its masks, IoU of the method with pixels pooled over the bin), percent.
    """
    order = np.array_split(np.argsort(masks, kind="stable"), min(bins, len(masks)))
    found = {}
    for method, c in counts.items():
        inter, union = c.intersection[CHOSEN, :, 1], c.union[CHOSEN, :, 1]
        found[method] = [(float(masks[p].mean()), float(100 * inter[p].sum() / max(1, union[p].sum()))) for p in order]
    return found
