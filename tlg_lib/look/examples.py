"""Episodes to look at: typical ones and failures, chosen by rule and not by hand, with everything to draw them."""

from __future__ import annotations

import numpy as np

from ..data.images import resize_image
from ..episodes import Episode
from ..evaluate import Counts, predict
from ..experiment import Experiment


def episode_ious(counts: Counts, position: int = 0) -> np.ndarray:
    """Foreground IoU of each episode in percent, float [E]; position: which of the counted thresholds."""
    inter, union = counts.intersection[position, :, 1], counts.union[position, :, 1]
    return 100.0 * inter / np.maximum(union, 1)


def typical_episodes(counts: Counts) -> list[int]:
    """Per class, the episode whose IoU is nearest to the class's median: neither the best nor the worst."""
    ious, chosen = episode_ious(counts), []
    for class_id in np.unique(counts.class_ids):
        members = np.flatnonzero(counts.class_ids == class_id)
        chosen.append(int(members[np.argmin(np.abs(ious[members] - np.median(ious[members])))]))
    return chosen


def worst_episodes(counts: Counts, number: int = 4) -> list[int]:
    """The episodes of lowest IoU, at most one per class."""
    chosen: list[int] = []
    for index in np.argsort(episode_ious(counts), kind="stable"):
        if counts.class_ids[index] not in counts.class_ids[chosen]:
            chosen.append(int(index))
        if len(chosen) == number:
            break
    return chosen


def drawn(experiment: Experiment, config, predictor, episodes: list[Episode]) -> list[dict]:
    """Entries for figures.episode_rows: pictures at the network's size, masks, prediction, truth, class and IoU.

    Of several supports the first is shown; the prediction uses them all, at ``config.threshold``.
    """
    import torch

    batch = experiment.batches(config)(episodes)
    with torch.inference_mode():
        predictions = predict(predictor, batch, config.threshold).cpu().numpy()  # [B, H, W]
    truths, masks = batch.truth.cpu().numpy(), batch.query_mask[:, 0].cpu().numpy()
    entries = []
    for i, episode in enumerate(episodes):
        picture = lambda name: resize_image(experiment.data.image(name), config.image_size)  # noqa: E731
        valid = truths[i] != 255
        union = ((predictions[i] | (truths[i] == 1)) & valid).sum()
        entries.append({
            "support": picture(episode.support[0]), "query": picture(episode.query),
            "support_mask": (batch.support_mask[i, 0, 0].cpu().numpy() > 0.5).astype(np.uint8),
            "pseudo": (masks[i] > 0.5).astype(np.uint8), "prediction": predictions[i].astype(np.uint8),
            "truth": truths[i].astype(np.uint8), "label": experiment.data.classes[episode.class_id],
            "iou": 100.0 * (predictions[i] & (truths[i] == 1)).sum() / max(1, union),
        })  # fmt: skip
    return entries
