"""Prototypes: what a mask's features have in common, and where an image looks like them. Ours, not the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .aggregation import resize
from .batches import BatchMaker, EpisodeBatch
from .correlation import unit
from .data.splits import Row
from .episodes import Episode, images_by_class
from .machine.progress import track
from .metrics import IGNORE

PER_LEVEL = 4  # maps per level: support foreground, that - its background, that - the general one, self fg - bg
SHARPNESS = 20.0  # of probabilities from differences of cosines
CONFIDENT = 0.7  # a min-max normalised similarity above this (below 1 - this) counts as object (surroundings)


def masked_mean(features: Tensor, weight: Tensor) -> Tensor:
    """The prototype: mean of features [B, C, h, w] under weight [B, 1, h, w] >= 0, zeros where it is empty. [B, C]."""
    return (features * weight).sum((2, 3)) / weight.sum((2, 3)).clamp_min(1e-6)


def cosine(prototype: Tensor, features: Tensor) -> Tensor:
    """Of prototypes [B, (N,) C] of any length with every position of unit vectors [B, C, h, w]. -> [B, (N,) h, w]."""
    with torch.autocast(features.device.type, enabled=False):  # differences of cosines need their digits
        return torch.einsum("b...c,bchw->b...hw", F.normalize(prototype, dim=-1), features)


def probability_of(near: Tensor, against: Tensor) -> Tensor:
    """From likenesses, cosines of any shape, to the object and to what it may be mistaken for."""
    return torch.sigmoid(SHARPNESS * (near - against))


def contrast_probability(foreground: Tensor, background: Tensor, features: Tensor) -> Tensor:
    """Of being the foreground and not the background. [B, C], [B, C], [B, C, h, w] -> [B, h, w]."""
    return probability_of(cosine(foreground, features), cosine(background, features))


def prototype_probability(features: Tensor, mask: Tensor, query: Tensor) -> Tensor:
    """Foreground probability of every query position.

    features [B, C, h, w] and mask float 0..1 [B, 1, H, W] of the example; query [B, C, h, w]. Returns [B, h, w].
    """
    weight = F.interpolate(mask, features.shape[-2:], mode="area")  # [B, 1, h, w]
    return contrast_probability(masked_mean(features, weight), masked_mean(features, 1 - weight), query)


def min_max(x: Tensor) -> Tensor:
    """Scale each map of [B, h, w] to 0..1; a constant map becomes 0."""
    low, high = x.amin(dim=(-2, -1), keepdim=True), x.amax(dim=(-2, -1), keepdim=True)
    return (x - low) / (high - low).clamp(min=1e-6)


def prototype_prior(
    this: Tensor, other: Tensor, this_mask: Tensor | None, other_mask: Tensor | None, general: Tensor
) -> Tensor:
    """Maps of one level for this image. At least one mask must be there.

    Args: this, other -- features [B, C, h, w]; masks [B, 1, H, W] in 0..1, or None where unknown (query_mask =
    none): the unknown one is replaced by the confident pixels of its prior from the known one; general -- mean
    background feature of the base classes [C]. The map against it is not stretched to 0..1: it is
    the one that can say "nothing here looks like the support's object". Returns [B, 4, h, w] in 0..1.
    """
    this, other = unit(this), unit(other)

    def contrast(features: Tensor, source: Tensor, inside: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
        """Likeness to the object, and to it minus its surroundings, each stretched to 0..1. 2 x [B, h, w]."""
        near = cosine(masked_mean(source, inside), features)
        return min_max(near), min_max(near - cosine(masked_mean(source, outside), features))

    def split(mask: Tensor | None, features: Tensor, source: Tensor, known: Tensor | None) -> tuple[Tensor, Tensor]:
        """Weights [B, 1, h, w] of the object and of its surroundings in ``features``."""
        if mask is not None:
            return mask, 1 - mask
        assert known is not None
        prior = contrast(features, source, known, 1 - known)[1][:, None]
        return (prior - CONFIDENT).clamp(min=0), (1 - CONFIDENT - prior).clamp(min=0)

    size = this.shape[-2:]
    this_mask, other_mask = (None if m is None else resize(m, size).to(this.dtype) for m in (this_mask, other_mask))
    theirs, ours = split(other_mask, other, this, this_mask), split(this_mask, this, other, other_mask)
    near, crossed = contrast(this, other, *theirs)
    own = contrast(this, this, *ours)[1]
    inside = masked_mean(other, theirs[0])
    absolute = contrast_probability(inside, general.to(this.dtype).expand_as(inside), this)
    return torch.stack((near, crossed, absolute, own), dim=1)


def deep_features(maps: list[Tensor], levels) -> Tensor:
    """Unit-length features of the last layer of the two coarse levels, on the middle grid: [B, C3 + C4, h, w]."""
    middle, deep = maps[levels[1][-1]], maps[levels[2][-1]]
    deep = F.interpolate(deep, middle.shape[-2:], mode="bilinear", align_corners=False)
    return unit(torch.cat([unit(middle), unit(deep)], 1))


def enlarge(probability: Tensor, size) -> Tensor:
    """[B, h, w] -> [B, H, W], bilinear."""
    return F.interpolate(probability[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def soft_mask(batch: EpisodeBatch) -> Tensor:
    """The query's pseudo mask as a vote of 0.25 or 0.75: a hard 0 or 1 could not be outvoted by one prototype."""
    return 0.25 + 0.5 * query_mask_alone(batch)  # [B, K, H, W]


def query_mask_alone(batch: EpisodeBatch) -> Tensor:
    """Baseline 1: the query's pseudo mask is the answer."""
    return batch.query_mask.expand(-1, len(batch.support), -1, -1)  # [B, K, H, W]


IMAGES = 60  # per class at most: more moves the means no further
BATCH = 16


@dataclass(frozen=True)
class Consensus:
    """foreground, background: mean unit features inside and outside the pseudo masks, [classes, C], row = class id
    (zeros where a class has no training image). general: the mean over all these images of their own mean outside,
    [C]. labels: image -> base classes that it shows, by its image-level labels."""

    foreground: Tensor
    background: Tensor
    general: Tensor
    labels: dict[str, list[int]]

    def probability(self, batch: EpisodeBatch, levels, labelled: bool = False) -> Tensor:
        """Foreground probability of each query by its class's prototypes, [B, H, W].

        labelled: also by its other image-level labels. What looks more like another class that the image shows is not
        this one then; prototypes alone call every object of such an image the object, as objects look more like each
        other than like their surroundings.
        """
        query, ids = deep_features(batch.query, levels), batch.class_ids  # [B, C, h, w]
        against = cosine(self.background[ids], query)  # [B, h, w]
        if labelled and any(others := self._others(batch)):
            likeness = cosine(self.foreground.expand(len(query), -1, -1), query)  # [B, classes, h, w]
            rivals = torch.zeros(likeness.shape[:2], dtype=torch.bool)
            for row, classes in zip(rivals, others):
                row[classes] = True
            rivals = rivals.to(query.device, non_blocking=True)[..., None, None]
            against = torch.maximum(against, likeness.masked_fill(~rivals, -1).amax(1))
        inside = probability_of(cosine(self.foreground[ids], query), against)  # [B, h, w]
        return enlarge(inside, batch.query_mask.shape[-2:])

    def _others(self, batch: EpisodeBatch) -> list[list[int]]:
        """The classes that each query is labelled with besides its own."""
        return [[c for c in self.labels.get(e.query, ()) if c != e.class_id] for e in batch.episodes]

    def object_in(self, batch: EpisodeBatch, levels) -> Tensor:
        """What mask and prototypes of the image's labels at equal weight call the object, bool [B, H, W]."""
        return (soft_mask(batch)[:, 0] + self.probability(batch, levels, labelled=True)) / 2 >= 0.5

    def targets(self, batch: EpisodeBatch, levels) -> Tensor:
        """Training targets put right: ``object_in``, long {0, 1, 255} [B, H, W]; pixels marked 255 stay as they are."""
        return torch.where(batch.query_target == IGNORE, IGNORE, self.object_in(batch, levels).long())


@torch.no_grad()
def find_consensus(
    rows: list[Row], make: BatchMaker, levels, classes: int, labelled: Sequence[Row] = (), progress: bool = False
) -> Consensus:
    """Prototypes over ``rows`` of (image, class): up to IMAGES images of each class, evenly spread over its list.

    labelled: further rows, of images held out from training, whose labels are known as well.
    """
    inside, outside, general = {}, {}, []
    by_class = images_by_class(rows)
    for class_id, images in track(by_class.items(), len(by_class), "class prototypes", "classes", show=progress):
        step = max(1, len(images) // IMAGES)
        chosen = images[::step][:IMAGES]
        means = []
        for start in range(0, len(chosen), BATCH):
            batch = make([Episode(image, (image,), class_id) for image in chosen[start : start + BATCH]])
            features = deep_features(batch.query, levels)  # [B, C, h, w]
            weight = F.interpolate(batch.query_mask, features.shape[-2:], mode="area")  # [B, 1, h, w]
            means.append([(features * w).sum((2, 3)) for w in (weight, 1 - weight)])  # 2 x [B, C]
            general.append(masked_mean(features, 1 - weight))
        # Sums over pixels, not means of means: an image counts by what it shows of the class.
        inside[class_id], outside[class_id] = (torch.cat(part).sum(0) for part in zip(*means))
    empty = torch.zeros_like(next(iter(inside.values())))

    def table(found: dict[int, Tensor]) -> Tensor:
        return F.normalize(torch.stack([found.get(c, empty) for c in range(classes)]), dim=1)  # [classes, C]

    labels: dict[str, list[int]] = {}
    for image, class_id in dict.fromkeys((*rows, *labelled)):
        labels.setdefault(image, []).append(class_id)
    return Consensus(table(inside), table(outside), torch.cat(general).mean(0), labels)


def base_consensus(config, experiment, progress: bool = False) -> Consensus:
    """find_consensus over the training rows of the config's fold; experiment as of experiment.open_experiment."""
    return find_consensus(
        experiment.sampler(config).rows,
        experiment.batches(config),
        experiment.backbone.levels,
        len(experiment.data.classes),
        experiment.choice_rows(config),
        progress,
    )
