"""Predictions without training, beside every result (docs/design.md, 3.3): masks, prototypes and their fusions.

A predictor maps an EpisodeBatch to foreground probabilities float [B, K, H, W], one map per shot.
Prototypes are masked means of unit-length features, as in PANet (Wang et al., ICCV 2019); the probability is
sigmoid(20 x (cosine to the foreground mean - cosine to the background mean)).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .batches import EpisodeBatch
from .prototypes import (
    contrast_probability,
    deep_features,
    enlarge,
    masked_mean,
    prototype_probability,
    query_mask_alone,
    soft_mask,
)

Predictor = Callable[[EpisodeBatch], Tensor]
BOTH = "mask + both prototypes"
FUSIONS = ("mask + support prototype", "mask + self prototype", BOTH)
FREE_ROWS = ("query pseudo mask", "prototype", *FUSIONS, "base-fusion")


def shot_by_shot(levels, probability: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Predictor:
    """A predictor with one map per shot from ``probability(query, query_weight, support, support_weight)``.

    It is given deep features [B, C, h, w] and masks resized to them [B, 1, h, w], and returns [B, h, w].
    """

    def predict(batch: EpisodeBatch) -> Tensor:
        query = deep_features(batch.query, levels)
        weigh = lambda mask: F.interpolate(mask, query.shape[-2:], mode="area")  # noqa: E731
        own = weigh(batch.query_mask)
        maps = [
            enlarge(
                probability(query, own, deep_features(maps, levels), weigh(batch.support_mask[:, k])),
                batch.query_mask.shape[-2:],
            )
            for k, maps in enumerate(batch.support)
        ]
        return torch.stack(maps, 1)  # [B, K, H, W]

    return predict


def prototype(levels) -> Predictor:
    """Baseline 2: cosine prototypes from the masked support features, one map per shot."""
    return shot_by_shot(levels, lambda query, own, support, theirs: prototype_probability(support, theirs, query))


def self_prototype(levels) -> Predictor:
    """Prototypes from the query's own pseudo mask: what the query's features say of its mask."""

    def predict(batch: EpisodeBatch) -> Tensor:
        query = deep_features(batch.query, levels)
        own = enlarge(prototype_probability(query, batch.query_mask, query), batch.query_mask.shape[-2:])
        return own[:, None].expand(-1, len(batch.support), -1, -1)  # [B, K, H, W]

    return predict


def fusions(levels) -> dict[str, Predictor]:
    """Baseline 6: three training-free fusions; the best of them per fold stands in the table."""
    support, own = prototype(levels), self_prototype(levels)
    predictors = (mean_of(soft_mask, support), mean_of(soft_mask, own), mean_of(soft_mask, support, own))
    return dict(zip(FUSIONS, predictors, strict=True))


def joint_prototype(levels, general: Tensor) -> Predictor:
    """One prototype of the object and one of what surrounds it from both images together.

    ``general`` [C], the base classes' mean background (prototypes.py), counts as a third image's surroundings.
    """

    def probability(query: Tensor, own: Tensor, support: Tensor, theirs: Tensor) -> Tensor:
        inside = masked_mean(query, own) + masked_mean(support, theirs)  # [B, C]
        outside = masked_mean(query, 1 - own) + masked_mean(support, 1 - theirs) + general
        return contrast_probability(inside, outside, query)

    return shot_by_shot(levels, probability)


def support_against_background(levels, general: Tensor) -> Predictor:
    """The support's object held against ``general`` [C], not against its own surroundings.

    A single support's surroundings hold parts of its object where the mask errs, and its own scene; the mean over
    hundreds of base-class images does not. It also tells a wrong support best: nothing else looks like its object.
    """

    def probability(query: Tensor, own: Tensor, support: Tensor, theirs: Tensor) -> Tensor:
        inside = masked_mean(support, theirs)  # [B, C]
        return contrast_probability(inside, general.expand_as(inside), query)

    return shot_by_shot(levels, probability)


def base_fusion(levels, general: Tensor) -> Predictor:
    """Mask, joint prototype and the support against the general background: nothing trained, but base images seen."""
    return mean_of(soft_mask, joint_prototype(levels, general), support_against_background(levels, general))


def mean_of(*predictors: Predictor) -> Predictor:
    """The predictor that averages the probabilities of several."""
    return lambda batch: torch.stack([predictor(batch) for predictor in predictors]).mean(0)


def training_free(levels, general: Tensor) -> dict[str, Predictor]:
    """All training-free rows by the names of FREE_ROWS; ``general`` [C] of prototypes.py, for the last one."""
    predictors = (query_mask_alone, prototype(levels), *fusions(levels).values(), base_fusion(levels, general))
    return dict(zip(FREE_ROWS, predictors, strict=True))
