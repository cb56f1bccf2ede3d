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


def worst_of_each_query(counts: Counts, episodes: list[Episode], number: int) -> list[int]:
    """The episodes of lowest IoU, each query once (lists wrap round), from the worst on."""
    chosen, seen = [], set()
    for index in np.argsort(episode_ious(counts), kind="stable"):
        if episodes[index].query not in seen:
            seen.add(episodes[index].query)
            chosen.append(int(index))
        if len(chosen) == number:
            break
    return chosen


REPAIRS = ("as it is", "true query mask", "true support mask")


def repaired(experiment: Experiment, config, predictor, episodes: list[Episode]) -> dict[str, np.ndarray]:
    """What heals a failure: IoU in percent [E] of the same episodes with REPAIRS, each mask replaced by the truth.

    Beside them ``object``, the object's share of the image in percent, and ``false inside``, the share of the wrongly
    marked pixels that lie inside the query's pseudo mask, in percent (nan where nothing is wrongly marked).
    """
    import torch

    from ..metrics import intersection_union

    found: dict[str, list] = {name: [] for name in (*REPAIRS, "object", "false inside")}
    for start in range(0, len(episodes), config.eval_batch):
        part = episodes[start : start + config.eval_batch]
        batch = experiment.batches(config)(part)
        drawn_masks = experiment.batches(config.replace(support_masks="drawn"))(part).support_mask
        mask, support = batch.query_mask, batch.support_mask
        true = (batch.truth == 1).float()[:, None]
        for name, given in zip(REPAIRS, ((mask, support), (true, support), (mask, drawn_masks)), strict=True):
            batch.query_mask, batch.support_mask = given
            with torch.inference_mode():
                answer = predict(predictor, batch, config.threshold)
            inter, union = intersection_union(answer, batch.truth)
            found[name] += (100.0 * inter[:, 1] / union[:, 1].clamp_min(1)).tolist()
            if name == "as it is":
                wrong = answer & (batch.truth == 0)
                inside = (wrong & (mask[:, 0] > 0.5)).flatten(1).sum(1) / wrong.flatten(1).sum(1)
                found["false inside"] += (100.0 * inside).tolist()
        found["object"] += (100.0 * true.flatten(1).mean(1)).tolist()
    return {name: np.array(values) for name, values in found.items()}


def causes(healing: dict[str, np.ndarray], heals: float = 20.0, small: float = 2.0) -> np.ndarray:
    """One cause per episode of ``repaired``, as a word of str [E].

    The mask whose true version adds more, if that is at least ``heals`` points; else a small object, of less than
    ``small`` percent of the image; else the network itself.
    """
    gains = np.stack([healing[name] - healing["as it is"] for name in REPAIRS[1:]])  # [2, E]
    by_mask = np.array(["the query's mask", "the support's mask"])[gains.argmax(0)]
    rest = np.where(healing["object"] < small, "a small object", "the network itself")
    return np.where(gains.max(0) >= heals, by_mask, rest)
