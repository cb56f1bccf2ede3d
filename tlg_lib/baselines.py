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

Predictor = Callable[[EpisodeBatch], Tensor]
SHARPNESS = 20.0


def query_mask_alone(batch: EpisodeBatch) -> Tensor:
    """Baseline 1: the query's pseudo mask is the answer."""
    return batch.query_mask.expand(-1, len(batch.support), -1, -1)  # [B, K, H, W]


def deep_features(maps: list[Tensor], levels) -> Tensor:
    """Unit-length features of the last layer of the two coarse levels, on the middle grid: [B, C3 + C4, h, w]."""
    middle, deep = maps[levels[1][-1]], maps[levels[2][-1]]
    deep = F.interpolate(deep, middle.shape[-2:], mode="bilinear", align_corners=False)
    return unit(torch.cat([unit(middle), unit(deep)], 1))


def prototype_probability(features: Tensor, mask: Tensor, query: Tensor) -> Tensor:
    """Foreground probability of every query position.

    features [B, C, h, w] and mask float 0..1 [B, 1, H, W] of the example; query [B, C, h, w]. Returns [B, h, w].
    """
    weight = F.interpolate(mask, features.shape[-2:], mode="area")  # [B, 1, h, w]

    def similarity(w: Tensor) -> Tensor:
        mean = (features * w).sum((2, 3)) / w.sum((2, 3)).clamp_min(1e-6)  # [B, C]
        return torch.einsum("bc,bchw->bhw", F.normalize(mean, dim=1), query)

    return torch.sigmoid(SHARPNESS * (similarity(weight) - similarity(1 - weight)))


def _enlarge(probability: Tensor, size) -> Tensor:
    return F.interpolate(probability[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def prototype(levels) -> Predictor:
    """Baseline 2: cosine prototypes from the masked support features, one map per shot."""

    def predict(batch: EpisodeBatch) -> Tensor:
        query = deep_features(batch.query, levels)
        size = batch.query_mask.shape[-2:]
        maps = [
            _enlarge(prototype_probability(deep_features(s, levels), batch.support_mask[:, k], query), size)
            for k, s in enumerate(batch.support)
        ]
        return torch.stack(maps, 1)  # [B, K, H, W]

    return predict


def self_prototype(levels) -> Predictor:
    """Prototypes from the query's own pseudo mask: what the query's features say of its mask."""

    def predict(batch: EpisodeBatch) -> Tensor:
        query = deep_features(batch.query, levels)
        own = _enlarge(prototype_probability(query, batch.query_mask, query), batch.query_mask.shape[-2:])
        return own[:, None].expand(-1, len(batch.support), -1, -1)  # [B, K, H, W]

    return predict


def fusions(levels) -> dict[str, Predictor]:
    """Baseline 6: three training-free fusions; the best of them per fold stands in the table."""
    support, own = prototype(levels), self_prototype(levels)
    return {
        "mask + support prototype": mean_of(soft_mask, support),
        "mask + self prototype": mean_of(soft_mask, own),
        "mask + both prototypes": mean_of(soft_mask, support, own),
    }


def late_fusion(network: Predictor, levels, with_mask: bool, share: float) -> Predictor:
    """The network's answer and, with weight ``share``, that of mask and both prototypes (no mask: the support's alone).

    A network fits the base classes better than the hidden ones; what needs no training does not. The shares in
    config.py are a compromise between base-class scores of mini and of photographs (docs/ladder.md).
    """
    free = fusions(levels)["mask + both prototypes"] if with_mask else prototype(levels)
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
    fused = fusions(levels)["mask + both prototypes"](batch)[:, 0] >= 0.5  # [B, H, W]
    negative = torch.tensor([e.support_class != e.class_id for e in batch.episodes], device=fused.device)
    keep = negative[:, None, None] | (batch.query_target == 255)
    return torch.where(keep, batch.query_target, fused.long())


def training_free(levels) -> dict[str, Predictor]:
    """All training-free rows by the name they carry in tables."""
    return {"query pseudo mask": query_mask_alone, "prototype": prototype(levels), **fusions(levels)}
