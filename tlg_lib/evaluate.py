"""Scoring a predictor on a list of episodes: counts per episode and threshold, from which every figure follows.

Keeping the counts of each episode lets two settings be compared in pairs, and lets a threshold be chosen on
base classes and applied to test classes without predicting again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .baselines import Predictor
from .batches import BatchMaker, EpisodeBatch
from .episodes import Episode
from .errors import TLGError
from .machine.loader import Groups, worker_deaths_in_one_line
from .machine.paths import atomic
from .machine.progress import track
from .metrics import Scores, class_iou, intersection_union, scores, vote
from .prototypes import Consensus

THRESHOLDS = tuple(round(0.1 + 0.05 * i, 2) for i in range(17))  # 0.1 .. 0.9


@dataclass
class Counts:
    """Per-episode counts: intersection and union int64 [T, E, 2] (background, foreground) at T thresholds;
    agreement int64 [E, 2]: intersection and union of the prediction (first threshold) with the query's pseudo mask;
    predicted: share of the pixels predicted as foreground, float32 [T, E].
    """

    thresholds: tuple[float, ...]
    intersection: np.ndarray
    union: np.ndarray
    agreement: np.ndarray
    class_ids: np.ndarray
    predicted: np.ndarray

    def scores(self, position: int = 0) -> Scores:
        return scores(self.intersection[position], self.union[position], self.class_ids)

    def miou_among(self, chosen: np.ndarray, position: int = 0) -> float | None:
        """mIoU in percent of the episodes of ``chosen``, bool [E], over the classes that they show; None of none."""
        shown = chosen & (self.union[position, :, 1] > 0)
        if not shown.any():
            return None
        inter, union = (v[position, shown, 1] for v in (self.intersection, self.union))
        return float(np.mean(list(class_iou(inter, union, self.class_ids[shown]).values())))

    def mask_agreement(self) -> float:
        """IoU in percent of the predictions with the query pseudo masks: 100 means a copy."""
        return 100.0 * float(self.agreement[:, 0].sum() / max(1, self.agreement[:, 1].sum()))

    def best_threshold(self) -> float:
        """The threshold with the highest mIoU of these episodes (the lower of equals)."""
        return self.thresholds[int(np.argmax([self.scores(t).miou for t in range(len(self.thresholds))]))]

    def remarks(self, position: int, classes: int) -> list[str]:
        """What must stand beside the score: fewer classes than the fold's, a predictor that always says the same."""
        held = len(set(self.class_ids.tolist()))
        said = [f"{held} of {classes} classes"] if held < classes else []
        shares = self.predicted[position]
        if not shares.any():
            said.append("predicts background everywhere")
        elif (shares == 1).all():
            said.append("predicts foreground everywhere")
        return said

    def save(self, path: str | Path) -> None:
        with atomic(path) as file:
            np.savez_compressed(file, **vars(self))

    @staticmethod
    def load(path: str | Path) -> Counts:
        try:
            with np.load(path, allow_pickle=False) as f:
                unknown = np.full(f["intersection"].shape[:2], 0.5)  # files of earlier versions have no shares
                found = {"predicted": unknown} | {
                    field.name: f[field.name] for field in fields(Counts) if field.name in f
                }
            return Counts(**{**found, "thresholds": tuple(found["thresholds"].tolist())})
        except Exception as error:  # zipfile, zlib and NumPy raise many kinds for a damaged archive
            raise TLGError(f"cannot read counts {path} ({error}): delete it and evaluate again", code=3) from None


class _Judged:
    """A maker whose batches are looked at once more before they are handed on."""

    def __init__(self, make: BatchMaker, judge: Callable[[EpisodeBatch], EpisodeBatch]):
        self.make, self.judge = make, judge

    def __call__(self, episodes: list[Episode]) -> EpisodeBatch:
        return self.judge(self.make(episodes))

    def each(self, groups: Groups) -> Iterator[EpisodeBatch]:
        return map(self.judge, self.make.each(groups))


def judged_by_labels(make: BatchMaker, consensus: Consensus, levels) -> _Judged:
    """A maker of batches whose ``truth`` is the pseudo mask put right by class prototypes: no drawn mask is looked at.

    With ``supervision="image"`` what is chosen (a threshold, the best epoch) may rest on nothing else. An image shows
    what it is labelled with: where nothing of that is left, its mask stands.
    """

    def judge(batch: EpisodeBatch) -> EpisodeBatch:
        found = consensus.object_in(batch, levels)  # [B, H, W]
        lost = ~found.flatten(1).any(1)[:, None, None]
        batch.truth = torch.where(lost, batch.query_mask[:, 0] >= 0.5, found).long()
        return batch

    return _Judged(make, judge)


def predict(predictor: Predictor, batch: EpisodeBatch, threshold: float = 0.5) -> Tensor:
    """Final masks bool [B, H, W]: each shot at the threshold, then the vote over shots."""
    return vote(predictor(batch) >= threshold)


def count_episodes(
    predictor: Predictor,
    episodes: list[Episode],
    make: BatchMaker | _Judged | Callable[[list[Episode]], EpisodeBatch],
    thresholds: tuple[float, ...] = (0.5,),
    batch_size: int = 16,
    label: str = "",
    progress: bool = False,
) -> Counts:
    """Run the predictor over the episodes, in order, and count. A label is needed where progress is shown.

    make: of ``experiment.batches``, or any function of a list of episodes.
    """
    return count_answers(lambda b: (predictor(b),), episodes, make, (thresholds,), batch_size, label, progress)[0]


@worker_deaths_in_one_line()
@torch.inference_mode()
def count_answers(
    answers: Callable[[EpisodeBatch], Sequence[Tensor]],
    episodes: list[Episode],
    make: BatchMaker | _Judged | Callable[[list[Episode]], EpisodeBatch],
    thresholds: Sequence[tuple[float, ...]],
    batch_size: int = 16,
    label: str = "",
    progress: bool = False,
) -> list[Counts]:
    """``count_episodes`` of several answers [B, K, H, W] that one pass gives, each at thresholds of its own."""
    found: list[list[tuple[np.ndarray, ...]]] = [[] for _ in thresholds]
    groups = [episodes[start : start + batch_size] for start in range(0, len(episodes), batch_size)]
    batches = make.each(groups) if hasattr(make, "each") else map(make, groups)
    for batch in track(batches, len(groups), label, "batches", progress):
        for probabilities, at, counted in zip(answers(batch), thresholds, found, strict=True):
            if not torch.isfinite(probabilities).all():
                raise TLGError("the predictor's output is not finite: its training diverged, train again", code=6)
            masks = torch.stack([vote(probabilities >= t) for t in at])  # [T, B, H, W]
            truth = intersection_union(masks, batch.truth)
            pseudo = intersection_union(masks[0], batch.query_mask[:, 0].long())
            agree = torch.stack([part[:, 1] for part in pseudo], 1)  # [B, 2]
            counted.append(tuple(x.cpu().numpy() for x in (*truth, agree, masks.float().mean((-2, -1)))))
    ids = np.array([e.class_id for e in episodes])
    results = []
    for at, counted in zip(thresholds, found):
        inter, union, agree, predicted = zip(*counted)
        results.append(
            Counts(
                tuple(at),
                np.concatenate(inter, 1),
                np.concatenate(union, 1),
                np.concatenate(agree),
                ids,
                np.concatenate(predicted, 1),
            )
        )
    return results
