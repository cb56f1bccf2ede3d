"""Prototype priors: where does this image look like the other one's object? Training-free maps for the decoder.

Ours, not the paper's. A prototype is the mean of unit feature vectors over a mask (as in PANet, Wang et al., ICCV
2019); the query's own prototype follows the self-support idea (Fan et al., ECCV 2022).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .aggregation import resize
from .correlation import unit

PER_LEVEL = 4  # maps per level: support foreground, that - its background, that - the general one, self fg - bg
SHARPNESS = 20.0  # of probabilities from differences of cosines
CONFIDENT = 0.7  # a min-max normalised similarity above this (below 1 - this) counts as object (surroundings)


def min_max(x: Tensor) -> Tensor:
    """Scale each map of [B, 1, h, w] to 0..1; a constant map becomes 0."""
    low, high = x.amin(dim=(-2, -1), keepdim=True), x.amax(dim=(-2, -1), keepdim=True)
    return (x - low) / (high - low).clamp(min=1e-6)


def similarity(features: Tensor, source: Tensor, weight: Tensor) -> Tensor:
    """Cosine of every position of ``features`` with the weighted mean of ``source``.

    Both [B, C, h, w] of unit vectors, weight [B, 1, h, w] >= 0. -> [B, 1, h, w], 0 where the weight is empty.
    """
    prototype = unit((source * weight).sum(dim=(-2, -1), keepdim=True))  # [B, C, 1, 1]
    return (features * prototype).sum(dim=1, keepdim=True)


def contrast(features: Tensor, source: Tensor, foreground: Tensor, background: Tensor) -> tuple[Tensor, Tensor]:
    """Min-max normalised similarity to the object, and to the object minus its surroundings. 2 x [B, 1, h, w]."""
    near = similarity(features, source, foreground)
    return min_max(near), min_max(near - similarity(features, source, background))


def confident(prior: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of the sure object and the sure surroundings in a normalised map [B, 1, h, w]."""
    return (prior - CONFIDENT).clamp(min=0), (1 - CONFIDENT - prior).clamp(min=0)


def prototype_prior(
    this: Tensor, other: Tensor, this_mask: Tensor | None, other_mask: Tensor | None, general: Tensor,
) -> Tensor:
    """Maps of one level for this image. At least one mask must be there.

    Args: this, other -- features [B, C, h, w]; masks [B, 1, H, W] in 0..1, or None where unknown (query_mask =
    none): the unknown one is replaced by the confident pixels of its prior from the known one; general -- mean
    background feature of the base classes [C] (consensus.py). The map against it is not stretched to 0..1: it is
    the one that can say "nothing here looks like the support's object". Returns [B, 4, h, w] in 0..1.
    """
    this, other = unit(this), unit(other)

    def split(mask, features, source, known):
        if mask is not None:
            return mask, 1 - mask
        return confident(contrast(features, source, known, 1 - known)[1])

    size = this.shape[-2:]
    this_mask, other_mask = (None if m is None else resize(m, size).to(this.dtype) for m in (this_mask, other_mask))
    theirs = split(other_mask, other, this, this_mask)
    ours = split(this_mask, this, other, other_mask)
    near, crossed = contrast(this, other, *theirs)
    own = contrast(this, this, *ours)[1]
    elsewhere = torch.einsum("bchw,c->bhw", this, F.normalize(general.to(this.dtype), dim=0))[:, None]
    absolute = torch.sigmoid(SHARPNESS * (similarity(this, other, theirs[0]) - elsewhere))
    return torch.cat((near, crossed, absolute, own), dim=1)
