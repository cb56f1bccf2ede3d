"""How sure a score is: intervals over seeds, and paired comparisons of two settings on the same episodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import TLGError
from ..machine.terminal import signed


@dataclass(frozen=True)
class Comparison:
    """Setting A minus setting B on the same episodes, in the unit of the score (mIoU in percent)."""

    difference: float
    low: float
    high: float
    p_value: float
    score_a: float
    score_b: float
    episodes: int
    units: int  # what was drawn: episodes, or groups of episodes

    def __str__(self) -> str:
        return (
            f"{signed(self.difference, 2)} mIoU, 95% interval [{signed(self.low, 2)}, {signed(self.high, 2)}], "
            f"p = {self.p_value:.3g} ({self.episodes} episodes)"
        )


def paired_bootstrap(
    intersections_a,
    unions_a,
    intersections_b,
    unions_b,
    class_ids,
    groups=None,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Is setting A better than setting B? Paired percentile bootstrap of the mIoU difference over episodes.

    All arrays are [E], episode e being the same (query, support, class) for both settings: foreground
    intersection and union in pixels, class id, and optionally a group (the query image, when a list wraps
    round and shows the same query several times: its episodes are then drawn together, as they are not
    independent). Each resample draws, within every class, as many units as the class has, with
    replacement, and takes the *same* units for A and B:

        d* = mIoU(A on the draw) - mIoU(B on the draw)

    The interval is the (1 ± confidence) / 2 quantiles of d*; the two-sided p value is
    ``2 min(#[d* <= 0] + 1, #[d* >= 0] + 1) / (resamples + 1)``, at most 1 (Davison and Hinkley 1997, ch. 4).
    It speaks about episodes, not about seeds: two trainings of the same setting also differ.

    Raises TLGError when lengths differ, values are negative or an intersection exceeds its union, and as
    metrics.class_iou does.
    """
    from ..metrics import class_iou

    arrays = [np.asarray(v, dtype=np.float64) for v in (intersections_a, unions_a, intersections_b, unions_b)]
    class_ids = np.asarray(class_ids)
    _check(arrays, class_ids, groups)
    generator = np.random.default_rng(seed)
    classes = np.unique(class_ids)
    gains, units = np.zeros(resamples), 0
    for c in classes:
        rows = np.flatnonzero(class_ids == c)
        values = np.stack([a[rows] for a in arrays], axis=1)  # [episodes of the class, 4]
        if groups is not None:
            _, index = np.unique(np.asarray(groups)[rows], return_inverse=True)
            summed = np.zeros((index.max() + 1, 4))
            np.add.at(summed, index, values)
            values = summed  # [groups of the class, 4]
        units += len(values)
        gains += _drawn_gains(values, resamples, generator)
    differences = 100 * gains / len(classes)
    low, high = np.quantile(differences, [(1 - confidence) / 2, (1 + confidence) / 2])
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    p_value = float(min(1.0, 2 * (tail + 1) / (resamples + 1)))
    first, second = (float(np.mean(list(class_iou(*arrays[i : i + 2], class_ids).values()))) for i in (0, 2))
    return Comparison(first - second, float(low), float(high), p_value, first, second, len(class_ids), units)


def _check(arrays: list[np.ndarray], class_ids: np.ndarray, groups) -> None:
    count = len(class_ids)
    if count == 0 or any(a.shape != (count,) for a in arrays) or (groups is not None and len(groups) != count):
        raise TLGError("a paired comparison needs the same episodes for both settings: the lengths differ")
    for inter, union in (arrays[:2], arrays[2:]):
        if not (np.isfinite(inter).all() and np.isfinite(union).all()) or (inter < 0).any() or (inter > union).any():
            raise TLGError("a paired comparison needs 0 <= intersection <= union in every episode")


def _drawn_gains(values: np.ndarray, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """IoU of A minus IoU of B on each of ``resamples`` draws of one class's units, values [units, 4]: [resamples]."""
    gains, n = np.empty(resamples), len(values)
    for start in range(0, resamples, 1000):  # in pieces: [resamples, n] of 5,000 episodes would be large
        stop = min(start + 1000, resamples)
        # How often each unit is drawn among n draws with replacement.
        sums = generator.multinomial(n, np.full(n, 1 / n), size=stop - start) @ values  # [piece, 4]
        gains[start:stop] = _ratio(sums[:, 0], sums[:, 1]) - _ratio(sums[:, 2], sums[:, 3])
    return gains


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
