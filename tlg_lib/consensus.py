"""What the training images of a class agree on: prototypes over many images instead of one.

A pseudo mask errs image by image; over dozens of images of one class the errors differ and the object stays. So the
mean feature inside (outside) the masks of a class says better than any single mask what the object (its surroundings)
looks like. Only image-level labels and pseudo masks of base classes are used. Ours, after the class prototypes of
ProDA (Zhang et al., CVPR 2021). Two uses: targets for ``supervision="image"``, and the general background against
which a support's object is held, in the decoder's prior maps (prior.py) and the late fusion (baselines.late_fusion).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .baselines import contrast_probability, deep_features, enlarge, masked_mean, put_right, soft_mask
from .data.batches import BatchMaker, EpisodeBatch
from .episodes import Episode, Row, images_by_class
from .progress import track

IMAGES = 60  # per class at most: more moves the means no further
BATCH = 16


@dataclass(frozen=True)
class Consensus:
    """foreground, background: mean unit features inside and outside the pseudo masks, [classes, C], row = class id
    (zeros where a class has no training image). general: the mean over all these images of their own mean outside, [C]."""

    foreground: Tensor
    background: Tensor
    general: Tensor

    def probability(self, batch: EpisodeBatch, levels) -> Tensor:
        """Foreground probability of each query by its class's prototypes alone, [B, H, W]."""
        query, ids = deep_features(batch.query, levels), batch.class_ids
        inside = contrast_probability(self.foreground[ids], self.background[ids], query)  # [B, h, w]
        return enlarge(inside, batch.query_mask.shape[-2:])

    def targets(self, batch: EpisodeBatch, levels) -> Tensor:
        """Training targets: mask and class prototypes at equal weight, long {0, 1, 255} [B, H, W].

        Negatives and pixels marked 255 stay as they are.
        """
        fused = (soft_mask(batch)[:, 0] + self.probability(batch, levels)) / 2 >= 0.5  # [B, H, W]
        return put_right(batch, fused)


@torch.no_grad()
def find_consensus(rows: list[Row], make: BatchMaker, levels, classes: int, progress: bool = False) -> Consensus:
    """Prototypes over ``rows`` of (image, class): up to IMAGES images of each class, evenly spread over its list."""
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

    return Consensus(table(inside), table(outside), torch.cat(general).mean(0))


def base_consensus(config, experiment, progress: bool = False) -> Consensus:
    """find_consensus over the training rows of the config's fold; experiment as of experiment.open_experiment."""
    return find_consensus(experiment.sampler(config).rows, experiment.batches(config), experiment.backbone.levels,
                          len(experiment.data.classes), progress)
