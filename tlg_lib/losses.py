"""Training losses: the release's cross-entropy, and a soft Dice term beside it.

With ``supervision="image"`` the targets are pseudo masks. Treating them as true teaches the network their mistakes, so
with ``noisy_targets="consensus"`` they are put right by class prototypes before they come here (prototypes.py).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import Config
from .metrics import IGNORE


def remedy(config: Config) -> str:
    """How this training copes with noisy targets: ``noisy_targets`` where pseudo masks are the targets, else "none"."""
    return config.noisy_targets if config.supervision == "image" else "none"


def odds(logits: Tensor) -> Tensor:
    """Foreground minus background logit, [B, 2, H, W] -> [B, H, W]: all that a softmax of two depends on."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # losses are computed in 32 bits
    signs = torch.arange(-1, 2, 2, dtype=logits.dtype, device=logits.device)  # made there, so that nothing waits
    return (logits * signs.view(2, 1, 1)).sum(1)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over images of the mean over pixels, so that a batch split over devices has the same loss.

    logits [B, 2, H, W]; target long {0, 1, 255} [B, H, W], pixels of 255 are not counted.
    """
    x = odds(logits)
    counted = (target != IGNORE).to(x.dtype)
    losses = F.binary_cross_entropy_with_logits(x, (target == 1).to(x.dtype), reduction="none")  # [B, H, W]
    return ((losses * counted).sum((1, 2)) / counted.sum((1, 2)).clamp_min(1.0)).mean()


def soft_dice(logits: Tensor, target: Tensor) -> Tensor:
    """1 - (2 sum p t + 1) / (sum p + sum t + 1) per image over counted pixels, averaged over images; 0 for an empty t.

    Overlap with nothing is no measure: an empty target, as of a pseudo mask that found nothing in an image labelled
    with the class, would pull all of p to background with the strength of a whole object.

    p is the foreground probability, t the target (long {0, 1, 255}). Cross-entropy alone weighs
    every pixel alike, so small objects are under-segmented early in training (Milletari et al., V-Net, 3DV 2016).
    """
    x = odds(logits)
    t = (target == 1).to(x.dtype)
    p = x.sigmoid() * (target != IGNORE)  # [B, H, W]
    overlap, size = (p * t).sum((1, 2)), t.sum((1, 2))  # [B]
    return ((1 - (2 * overlap + 1) / (p.sum((1, 2)) + size + 1)) * (size > 0)).mean()


def prepare_target(target: Tensor, config: Config) -> Tensor:
    """255 counts as background in the release, and is ignored here (switch ``ignore_255``)."""
    return torch.where(target == IGNORE, 0, target) if "ignore_255" in config.as_released else target


def query_loss(logits: Tensor, target: Tensor, config: Config) -> Tensor:
    """Cross-entropy plus ``dice`` x soft Dice; logits [B, 2, H, W], target long {0, 1, 255} [B, H, W]."""
    target = prepare_target(target, config)
    loss = cross_entropy(logits, target)
    return loss + config.dice * soft_dice(logits, target) if config.dice else loss


def l2_of_everything(parameters) -> Tensor:
    """Sum of un-squared L2 norms, the release's extra term on a single GPU (docs/design.md, 3.1)."""
    return torch.stack([p.norm() for p in parameters]).sum()


def total_loss(output, batch, config: Config, parameters) -> Tensor:
    """1.4 x query + 0.6 x support cross-entropy by default, plus ``l2_all`` x the norms of all parameters."""
    loss = config.query_loss * query_loss(output.query_logits, batch.query_target, config)
    if output.support_logits is not None:
        target = prepare_target(batch.support_target[:, 0], config)
        loss = loss + config.support_loss * cross_entropy(output.support_logits, target)
    if config.l2_all:
        loss = loss + config.l2_all * l2_of_everything(parameters)
    return loss
