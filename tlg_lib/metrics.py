"""Intersection over union as the field counts it: sums per class over all episodes, then the mean over classes.

mIoU = mean_c ( sum_e I_ce / sum_e U_ce ),  FB-IoU = mean over {background, foreground} of the same sums pooled
over classes (docs/design.md, 2; HSNet, Min et al., ICCV 2021). Pixels marked 255 in the truth are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .errors import TLGError

IGNORE = 255


def intersection_union(prediction: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Counts of one or more predictions against the truth.

    prediction: bool or {0, 1} [..., H, W]; truth: integer {0, 1, 255} [..., H, W] (broadcast).
    Returns (intersection, union), int64 [..., 2]: background, foreground.
    """
    valid = truth != IGNORE
    foreground, true = prediction.bool() & valid, (truth == 1) & valid
    both, predicted, actual, pixels = (_count(x) for x in (foreground & true, foreground, true, valid))
    union = predicted + actual - both
    # Background: pixels that neither calls foreground, and those that at least one calls background.
    return torch.stack([pixels - union, both], -1), torch.stack([pixels - both, union], -1)  # [..., 2]


def _count(x: Tensor) -> Tensor:
    """How many are true, bool [..., H, W] -> int64 [...]; summed in 32 bits, in a third of the time of 64 on a CPU."""
    return x.flatten(-2).sum(-1, dtype=torch.int32).long()


@dataclass(frozen=True)
class Scores:
    """Figures of one evaluation, in percent; ``per_class`` is keyed by class id."""

    miou: float
    fb_iou: float
    per_class: dict[int, float]
    episodes: int


def class_iou(intersection: np.ndarray, union: np.ndarray, class_ids: np.ndarray) -> dict[int, float]:
    """IoU in percent by class id: summed intersection over summed union of the class's episodes, all [E].

    The mean of the values is the mIoU. Raises TLGError when there is no episode, or when a class has no pixel, true or
    predicted, at all.
    """
    intersection, union, class_ids = np.asarray(intersection), np.asarray(union), np.asarray(class_ids)
    if len(class_ids) == 0:
        raise TLGError("no episodes to score", code=3)
    found = {}
    for class_id in np.unique(class_ids):
        chosen = class_ids == class_id
        total = union[chosen].sum()
        if total == 0:
            raise TLGError(
                f"class number {class_id} has neither true nor predicted pixels in "
                f"{chosen.sum()} episodes: its masks are empty (tlg data verify)",
                code=3,
            )
        found[int(class_id)] = 100.0 * float(intersection[chosen].sum() / total)
    return found


def scores(intersection: np.ndarray, union: np.ndarray, class_ids: np.ndarray) -> Scores:
    """Scores from per-episode counts: intersection, union int [E, 2] (background, foreground), class_ids [E].

    Raises TLGError as class_iou does.
    """
    intersection, union = (np.asarray(v).reshape(-1, 2) for v in (intersection, union))
    per_class = class_iou(intersection[:, 1], union[:, 1], class_ids)
    pooled = intersection.sum(0) / np.maximum(union.sum(0), 1)
    return Scores(float(np.mean(list(per_class.values()))), 100.0 * float(pooled.mean()), per_class, len(class_ids))


def vote(predictions: Tensor) -> Tensor:
    """HSNet's K-shot rule: votes divided by the largest vote count (at least 1), foreground from 0.5 on.

    predictions: bool [B, K, H, W], the K single-shot predictions. Returns bool [B, H, W].
    """
    if predictions.shape[1] == 1:
        return predictions[:, 0].bool()  # what the rule says of one vote
    votes = predictions.sum(1)  # [B, H, W]
    most = votes.amax((-2, -1), keepdim=True).clamp_min(1)
    return votes * 2 >= most
