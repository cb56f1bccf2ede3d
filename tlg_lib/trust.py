"""The answer of ``extended``: network, prototypes and the query's pseudo mask vote, the mask with a chosen trust.

A network shown its mask learns to disturb it, and nothing trained on weak masks knows how good the mask at hand is. So
the mask, at full image size, votes beside what disputes it, and how much it counts is a number of the run: chosen on
base-class images held out from training, by their drawn masks with ``supervision="pixel"``, and with ``"image"``, where
no drawn mask may be read, by how well mask, class prototypes and network agree. At a trust of 1 the answer is the mask,
so that good masks are left as they are. Ours; the figures are in docs/ladder.md.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from .baselines import joint_prototype, mean_of, prototype, self_prototype, support_against_background
from .batches import BatchMaker, EpisodeBatch
from .config import Config
from .episodes import Episode
from .metrics import intersection_union, scores, vote
from .prototypes import Consensus, query_mask_alone

SHARES = (0.5, 0.625, 0.75, 1.0)  # the network's part in what disputes the mask; the rest is the prototypes'
TRUSTS = (0.0, 0.0625, 0.125, 0.1875, 0.25, 0.375, 0.5, 0.75, 1.0)
DEFAULT = (0.5, 0.125)  # share and trust before anything is chosen
WORTH = 0.5  # mIoU points that a smaller trust must bring: in doubt the mask is right
# Trust in a mask that knows nothing, and the ``reliability`` of masks that know as much as what disputes them: the pair
# that trusts most of those that lose least on held-out base images: 16 runs, four kinds of masks (docs/ladder.md).
LEAST, REACH = 0.15, 0.93
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
def reliability(model, consensus: Consensus, episodes: list[Episode], make: BatchMaker) -> float:
    """How well pseudo masks know the object, as a multiple of how well those know it that dispute them; from 0 up.

    No drawn mask is read. Three witnesses of an image, its mask, the prototypes of its class and the network with the
    mask hidden, agree by correlations r. If they erred independently, r_mp = q_m q_p and so on with q the correlation
    with the truth, so sqrt(r_mp r_mn) / r_pn is q_m / sqrt(q_p q_n). Covariances within images are averaged before they
    are divided, so that an image counts by how much it has to say.
    """
    sums = torch.zeros(3, 3, dtype=torch.float64)
    for start in range(0, len(episodes), BATCH):
        batch = make(episodes[start : start + BATCH])
        unseen = replace(batch, query_mask=torch.full_like(batch.query_mask, 0.5))
        said = consensus.probability(batch, model.levels), model.network_alone(unseen)[:, 0]  # 2 x [B, H, W]
        witnesses = torch.stack((batch.query_mask[:, 0], *((p >= 0.5).float() for p in said))).flatten(2)
        centred = witnesses - witnesses.mean(2, keepdim=True)  # [3, B, H * W]
        sums += torch.einsum("ibp,jbp->ij", centred, centred).cpu().double() / centred.shape[2]
    spread = sums.diagonal().clamp_min(1e-9).sqrt()
    r = sums / (spread[:, None] * spread)  # [3, 3]: mask, prototypes, network
    if min(r[0, 1], r[0, 2], r[1, 2]) <= 0:
        return 0.0  # a mask that goes against what its class looks like
    return float((r[0, 1] * r[0, 2]).sqrt() / r[1, 2])


def keeps_threshold(config: Config) -> bool:
    """Whether the vote's threshold stays as it is set. With image labels what would judge another, masks put right, is
    worse than good masks are, and share and trust are the choice already."""
    return config.trusted_vote and config.supervision == "image"


def trust_from(found: float) -> float:
    """Trust LEAST..1 in masks of this ``reliability``.

    A vote counts by the inverse of what it leaves unexplained, 1 / (1 - r^2). Prototypes and network see the same
    features and agree too well, so masks as good as they are come out below 1: r is ``found`` in units of REACH.
    """
    r = min(max(found, 0.0) / REACH, 1.0)
    return min(1.0, LEAST / max(1e-6, 1 - r * r))
