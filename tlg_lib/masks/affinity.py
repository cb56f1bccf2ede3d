"""Which patches belong together: maps spread over a doubly stochastic affinity (CLIP-ES, docs/design.md, 5)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from .cam import unit_range

ROUNDS = 3


def normalise_rounds(matrix: Tensor, rounds: int = ROUNDS) -> Tensor:
    """Sinkhorn's rounds on a positive matrix [B, N, N]: divide by the column sums, then by the row sums.

    Rows sum to 1 to rounding; columns approach 1 with the rounds (for softmax attention of spread 1: within
    5% after 3, within 1e-5 after 50).
    """
    for _ in range(rounds):
        matrix = matrix / matrix.sum(1, keepdim=True)
        matrix = matrix / matrix.sum(2, keepdim=True)
    return matrix


def patch_affinity(attention: Tensor, rounds: int = ROUNDS) -> Tensor:
    """Attention or similarity [B, N, N] -> affinity [B, N, N]: rounds, made symmetric, squared once."""
    matrix = normalise_rounds(attention.float(), rounds)
    matrix = (matrix + matrix.transpose(1, 2)) / 2
    return matrix @ matrix


def feature_similarity(features: Tensor, sharpness: float = 10.0) -> Tensor:
    """In place of attention where a tower has none: softmax over positions of sharpness x cosine.

    features [B, C, h, w] -> [B, h*w, h*w], rows sum to 1.
    """
    flat = F.normalize(features.float().flatten(2), dim=1)  # [B, C, N]
    return (sharpness * flat.transpose(1, 2) @ flat).softmax(-1)


def box_masks(cam: Tensor, threshold: float, edges: str = "closed") -> Tensor:
    """1 inside the bounding box of every connected region where a map reaches threshold x its maximum.

    cam 0..1 [B, P, h, w]; threshold 0..1 (Pascal 0.4, COCO 0.7); edges: "open" leaves the map's last row and column
    out of every box, as CLIP-ES does. Returns float {0, 1} [B, P, h, w].
    """
    boxes = np.zeros(tuple(cam.shape), np.float32)
    for index, one in enumerate(cam.cpu().numpy().reshape(-1, *cam.shape[-2:])):
        if one.max() <= 0:
            continue
        regions, _ = ndimage.label(one >= threshold * one.max(), structure=np.ones((3, 3)))
        for box in ndimage.find_objects(regions):
            boxes.reshape(-1, *cam.shape[-2:])[index][box] = 1
    if edges == "open":
        boxes[..., -1, :] = boxes[..., -1] = 0
    return torch.from_numpy(boxes).to(cam.device)


def spread(cam: Tensor, affinity: Tensor, threshold: float, edges: str = "closed", eps: float = 0.0) -> Tensor:
    """Each map spread over the affinity, from within its boxes only, and brought back to 0..1 (eps: unit_range).

    cam [B, P, h, w], affinity [B, h*w, h*w] -> [B, P, h, w].
    """
    # Zeroing an affinity's columns outside the boxes is the same as zeroing the map there before the product.
    inside = (cam * box_masks(cam, threshold, edges)).flatten(2)  # [B, P, N]
    return unit_range(torch.einsum("bnm,bpm->bpn", affinity, inside).unflatten(2, cam.shape[-2:]), eps)
