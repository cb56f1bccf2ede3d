"""Predictions without training, to stand beside every result (DESIGN 3.3): masks, prototypes and their fusions.

A predictor maps an EpisodeBatch to foreground probabilities float [B, K, H, W], one map per shot.
Prototypes are masked means of unit-length features, as in PANet (Wang et al., ICCV 2019); the probability is
sigmoid(20 x (cosine to the foreground mean - cosine to the background mean)).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .correlation import unit
from .data.batches import EpisodeBatch
from .prior import SHARPNESS

Predictor = Callable[[EpisodeBatch], Tensor]
BOTH = "mask + both prototypes"
FUSIONS = ("mask + support prototype", "mask + self prototype", BOTH)
FREE_ROWS = ("query pseudo mask", "prototype", *FUSIONS, "base-fusion")


def query_mask_alone(batch: EpisodeBatch) -> Tensor:
    """Baseline 1: the query's pseudo mask is the answer."""
    return batch.query_mask.expand(-1, len(batch.support), -1, -1)  # [B, K, H, W]


def deep_features(maps: list[Tensor], levels) -> Tensor:
    """Unit-length features of the last layer of the two coarse levels, on the middle grid: [B, C3 + C4, h, w]."""
    middle, deep = maps[levels[1][-1]], maps[levels[2][-1]]
    deep = F.interpolate(deep, middle.shape[-2:], mode="bilinear", align_corners=False)
    return unit(torch.cat([unit(middle), unit(deep)], 1))


def masked_mean(features: Tensor, weight: Tensor) -> Tensor:
    """Mean of features [B, C, h, w] under weight [B, 1, h, w] >= 0; zeros where it is empty. -> [B, C]."""
    return (features * weight).sum((2, 3)) / weight.sum((2, 3)).clamp_min(1e-6)


def contrast_probability(foreground: Tensor, background: Tensor, query: Tensor) -> Tensor:
    """sigmoid(SHARPNESS x (cosine with foreground - cosine with background)) of every query position.

    foreground, background [B, C] of any length; query [B, C, h, w] of unit vectors. Returns [B, h, w].
    """
    near, far = (torch.einsum("bc,bchw->bhw", F.normalize(p, dim=1), query) for p in (foreground, background))
    return torch.sigmoid(SHARPNESS * (near - far))


def prototype_probability(features: Tensor, mask: Tensor, query: Tensor) -> Tensor:
    """Foreground probability of every query position.

    features [B, C, h, w] and mask float 0..1 [B, 1, H, W] of the example; query [B, C, h, w]. Returns [B, h, w].
    """
    weight = F.interpolate(mask, features.shape[-2:], mode="area")  # [B, 1, h, w]
    return contrast_probability(masked_mean(features, weight), masked_mean(features, 1 - weight), query)


def enlarge(probability: Tensor, size) -> Tensor:
    """[B, h, w] -> [B, H, W], bilinear."""
    return F.interpolate(probability[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def shot_by_shot(levels, probability: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Predictor:
    """A predictor with one map per shot from ``probability(query, query_weight, support, support_weight)``.

    It is given deep features [B, C, h, w] and masks resized to them [B, 1, h, w], and returns [B, h, w].
    """

    def predict(batch: EpisodeBatch) -> Tensor:
        query = deep_features(batch.query, levels)
        weigh = lambda mask: F.interpolate(mask, query.shape[-2:], mode="area")  # noqa: E731
        own = weigh(batch.query_mask)
        maps = [
            enlarge(probability(query, own, deep_features(maps, levels), weigh(batch.support_mask[:, k])),
                    batch.query_mask.shape[-2:])
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

    ``general`` [C], the base classes' mean background (consensus.py), counts as a third image's surroundings.
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


def late_fusion(network: Predictor, levels, with_mask: bool, share: float, general: Tensor | None = None) -> Predictor:
    """The network's answer and, with weight ``share``, that of mask and prototypes (no mask: the support's alone).

    A network fits the base classes better than the hidden ones; what needs no training does not. With ``general``,
    the base classes' mean background [C] that a trained network carries, the prototypes are those held against it;
    without (a network fresh from its seed) those of baseline 6. The shares in config.py are a compromise between
    base-class scores of mini and of photographs (docs/ladder.md).
    """
    if general is None:
        free = fusions(levels)[BOTH] if with_mask else prototype(levels)
    elif with_mask:
        free = base_fusion(levels, general)
    else:  # the map against the general background marks too little on its own (mini: 61 for 66 mIoU)
        free = mean_of(prototype(levels), support_against_background(levels, general))
    return lambda batch: torch.lerp(network(batch), free(batch), share)


def soft_mask(batch: EpisodeBatch) -> Tensor:
    """The query's pseudo mask as a vote of 0.25 or 0.75: a hard 0 or 1 could not be outvoted by one prototype."""
    return 0.25 + 0.5 * query_mask_alone(batch)  # [B, K, H, W]


def mean_of(*predictors: Predictor) -> Predictor:
    """The predictor that averages the probabilities of several."""
    return lambda batch: torch.stack([predictor(batch) for predictor in predictors]).mean(0)


@torch.no_grad()
def rectified_targets(batch: EpisodeBatch, levels) -> Tensor:
    """Pseudo targets of a training batch put right by prototypes: the fusion of both, long {0, 1, 255} [B, H, W].

    Neighbouring features outvote a mask where they agree against it (prototype rectification: Zhang et al.,
    ProDA, CVPR 2021); negatives and pixels marked 255 stay as they are. No drawn mask is involved.
    """
    return put_right(batch, fusions(levels)[BOTH](batch)[:, 0] >= 0.5)


def put_right(batch: EpisodeBatch, foreground: Tensor) -> Tensor:
    """The batch's targets with ``foreground`` bool [B, H, W] in their place, save for negatives and 255."""
    negative = torch.tensor([e.support_class != e.class_id for e in batch.episodes], device=foreground.device)
    keep = negative[:, None, None] | (batch.query_target == 255)
    return torch.where(keep, batch.query_target, foreground.long())


def training_free(levels, general: Tensor) -> dict[str, Predictor]:
    """All training-free rows by the names of FREE_ROWS; ``general`` [C] of consensus.py, for the last one."""
    predictors = (query_mask_alone, prototype(levels), *fusions(levels).values(), base_fusion(levels, general))
    return dict(zip(FREE_ROWS, predictors, strict=True))
