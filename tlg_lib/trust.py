"""The answer of ``extended``: network, prototypes and the query's pseudo mask vote, the mask with a chosen trust.

A network shown its mask learns to disturb it, and nothing trained on weak masks knows how good the mask at hand is. So
the mask, at full image size, votes beside what disputes it, and how much it counts is a number of the run: chosen on
base-class images held out from training, by their drawn masks with ``supervision="pixel"``, and with ``"image"``, where
no drawn mask may be read, by how well masks and the prototypes of their classes agree. At a trust of 1 the answer is
the mask, so that good masks are left as they are. Cut at 0.5, where the voices are even: a threshold chosen on base
classes as well moved the answer off good masks and gained nothing. Ours; the figures are in docs/ladder.md.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .baselines import joint_prototype, mean_of, prototype, self_prototype, support_against_background
from .batches import BatchMaker, EpisodeBatch
from .episodes import Episode
from .metrics import intersection_union, scores, vote
from .prototypes import Consensus, query_mask_alone

SHARES = (0.5, 0.625, 0.75, 1.0)  # the network's part in what disputes the mask; the rest is the prototypes'
TRUSTS = (0.0, 0.0625, 0.125, 0.1875, 0.25, 0.375, 0.5, 0.75, 1.0)
DEFAULT = (0.5, 0.125)  # share and trust before anything is chosen
WORTH = 0.5  # mIoU points that a smaller trust must bring: in doubt the mask is right
# Trust in a mask that knows nothing, and the ``agreement`` that counts as complete: chosen on held-out base images of
# 24 networks, photographs and mini, three kinds of masks each (docs/ladder.md).
LEAST, REACH = 0.12, 0.57
BATCH = 16


def votes(model, batch: EpisodeBatch) -> Tensor:
    """Foreground probabilities [3, B, K, H, W] of the network, the prototypes and the query's pseudo mask.

    Without the query's mask the third is 0.5 everywhere: it has no vote.
    """
    levels, seen = model.levels, model.with_mask
    if not model.background.any():  # zeros before training: a network fresh from its seed knows no base classes
        pair = (prototype(levels), self_prototype(levels)) if seen else (prototype(levels),)
    else:
        against = support_against_background(levels, model.background)
        pair = (joint_prototype(levels, model.background) if seen else prototype(levels), against)
    network = model.network_alone(batch)  # [B, K, H, W]
    mask = query_mask_alone(batch) if seen else torch.full_like(network, 0.5)
    return torch.stack((network, mean_of(*pair)(batch).to(network.dtype), mask.to(network.dtype)))


def combine(voices: Tensor, share, trust) -> Tensor:
    """One probability from ``votes`` [3, ...]: 0.5 is where share, 1 - share and trust, as votes of ±1, are even."""
    return _weigh(2 * voices - 1, share, trust)


def _weigh(signed: Tensor, share, trust) -> Tensor:
    """``combine`` of votes of -1..1."""
    network, free, mask = signed
    return (1 + (share * network + (1 - share) * free + trust * mask) / (1 + trust)) / 2


def answer(model, batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
    """What is scored, the vote with the model's own share and trust, and the network's own part in it.

    Float 0..1 [B, K, H, W] each.
    """
    share, trust = model.trust.tolist()
    voices = votes(model, batch)
    return combine(voices, share, trust if model.with_mask else 0.0), voices[0]


@torch.inference_mode()
def choose(model, episodes: list[Episode], make: BatchMaker) -> tuple[float, float]:
    """Share and trust with the highest mIoU of held-out base episodes by their drawn masks.

    Of those within WORTH of the best the greatest trust is taken: a few dozen images cannot tell them apart, and the
    answer must not fall below its mask.
    """
    grid = [(s, t) for s in SHARES for t in (TRUSTS if model.with_mask else (0.0,))]
    found = []
    for start in range(0, len(episodes), BATCH):
        batch = make(episodes[start : start + BATCH])
        signed = 2 * votes(model, batch) - 1
        masks = torch.stack([vote(_weigh(signed, *pair) >= 0.5) for pair in grid])  # [G, B, H, W]
        found.append([counts.cpu().numpy() for counts in intersection_union(masks, batch.truth)])
    inter, union = (np.concatenate(part, 1) for part in zip(*found))  # [G, E, 2]
    ids = np.array([e.class_id for e in episodes])
    reached = [scores(i, u, ids).miou for i, u in zip(inter, union)]
    good = [(trust, miou, share) for (share, trust), miou in zip(grid, reached) if miou >= max(reached) - WORTH]
    trust, _, share = max(good)
    return share, trust


@torch.inference_mode()
def agreement(consensus: Consensus, episodes: list[Episode], make: BatchMaker, levels) -> float:
    """Correlation, -1..1, of the queries' pseudo masks with what the prototypes of their class call the object.

    No drawn mask is read. Covariances within images are averaged before they are divided, so that an image counts by
    how much it has to say.
    """
    sums = torch.zeros(2, 2, dtype=torch.float64)
    for start in range(0, len(episodes), BATCH):
        batch = make(episodes[start : start + BATCH])
        likely = (consensus.probability(batch, levels) >= 0.5).float()
        witnesses = torch.stack((batch.query_mask[:, 0], likely)).flatten(2)  # [2, B, H * W]
        centred = witnesses - witnesses.mean(2, keepdim=True)
        sums += torch.einsum("ibp,jbp->ij", centred, centred).cpu().double() / centred.shape[2]
    return float(sums[0, 1] / (sums[0, 0] * sums[1, 1]).sqrt().clamp_min(1e-9))


def trust_from(found: float) -> float:
    """Trust LEAST..1 in masks with this ``agreement``.

    A vote counts by the inverse of what it leaves unexplained, 1 / (1 - r^2). Prototypes are weak witnesses, so good
    masks, too, agree with them by half only: r is ``found`` in units of REACH.
    """
    r = min(max(found, 0.0) / REACH, 1.0)
    return min(1.0, LEAST / max(1e-6, 1 - r * r))
