"""Cosine correlation of every query position with every support position, level by level (docs/design.md, 3.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-5  # added to the norm, as in the release
TINY = 1e-30
ROWS = 512  # query positions per matrix product: a result of a few MB, which stays in the cache until it is clamped


def unit(features: Tensor) -> Tensor:
    """Divide each position's channel vector by (its norm + 1e-5). [B, C, H, W] -> same shape."""
    # On a CPU a tenth of the time of norm(dim=1); TINY keeps the gradient of the root of 0 finite.
    return features / (features.square().sum(dim=1, keepdim=True).add(TINY).sqrt() + EPS)


def mask_features(features: list[Tensor], mask: Tensor) -> list[Tensor]:
    """Multiply maps [B, C, h, w] by a mask [B, 1, H, W] in 0..1, resized bilinearly to each map.

    This is how HSNet (Min et al., ICCV 2021, section 4.1) hides the support image's background before
    correlating; there the mask is true, here it is the pseudo mask.
    """
    resized = {}
    for feature in features:
        size = feature.shape[-2:]
        if size not in resized:
            resized[size] = F.interpolate(mask, size=size, mode="bilinear", align_corners=True)
    return [feature * resized[feature.shape[-2:]].to(feature.dtype) for feature in features]


def pool_levels(levels: list[list[Tensor]], factor: int) -> list[list[Tensor]]:
    """Average-pool the maps of several levels, fine to coarse, toward one grid: ``factor``, then half of it, ...

    With 4, maps at strides 8, 16 and 32 all come to stride 32; with 2, only those at stride 8 are pooled. Correlating
    with a map pooled over n x n positions costs n squared times less, and so do the 4D convolutions behind it, which
    squeeze that image's axes out anyway. [B, C, h, w] -> [B, C, ceil(h / n), ceil(w / n)].
    """
    sides = [max(1, factor >> i) for i in range(len(levels))]
    return [[F.avg_pool2d(x, n, ceil_mode=True) if n > 1 else x for x in maps] for maps, n in zip(levels, sides)]


def correlate(query: list[Tensor], support: list[Tensor]) -> Tensor:
    """Clamped cosine similarity of the layers of one level.

    Args: L query maps [B, C, Hq, Wq] and L support maps [B, C, Hs, Ws]; C may differ between layers. Without
    gradient one of the two may come K times as often, [K * B, ...] shot by shot: every shot meets the same B images.
    Returns [B, L, Hq, Wq, Hs, Ws], values 0..1 (negative similarities are set to 0). The other direction is
    the same numbers seen the other way round: ``transposed(correlate(query, support))``.
    In memory L stands behind Wq, the order in which the 4D encoder reads it.
    """
    (hq, wq), (hs, ws) = query[0].shape[-2:], support[0].shape[-2:]
    batch, step = (size(len(query[0]), len(support[0])) for size in (max, min))
    learning = torch.is_grad_enabled() and any(f.requires_grad for f in (*query, *support))
    if learning or torch.compiler.is_compiling():  # which writes things to their places itself, and no ``out``
        layers = []  # L x [B, Hq*Wq, Hs*Ws]
        for pair in zip(query, support):
            q, s = (unit(x).flatten(2) for x in pair)  # [B, C, Hq*Wq], [B, C, Hs*Ws]
            q, s = (x if len(x) == batch else x.repeat(batch // len(x), 1, 1) for x in (q, s))
            layers.append(torch.bmm(q.transpose(1, 2), s))
        similarity = torch.stack(layers, dim=2).clamp(min=0)  # [B, Hq*Wq, L, Hs*Ws]
    else:
        # The usual case, frozen features: each product is written to its place, nothing is stacked or copied, and
        # clamped while the processor still has it at hand. Lengths are of 32 bits; under autocast the products are of
        # 16, summed in 32 (an ``out`` is not cast by itself).
        kind, dtype = query[0].device.type, query[0].dtype
        if torch.is_autocast_enabled(kind) and dtype == torch.float32:
            dtype = torch.get_autocast_dtype(kind)
        similarity = query[0].new_empty(batch, hq * wq, len(query), hs * ws, dtype=dtype)
        for layer, (q, s) in enumerate(zip(query, support)):
            q, s = (unit(x).to(dtype).flatten(2) for x in (q, s))
            q = q.transpose(1, 2)  # [B, Hq*Wq, C]; s: [B, C, Hs*Ws]
            if hq * wq <= ROWS or kind != "cpu":
                for shot, place in enumerate(similarity[:, :, layer].split(step)):
                    torch.bmm(*(x if len(x) == step else x.split(step)[shot] for x in (q, s)), out=place)
                    place.clamp_(min=0)
                continue
            for b in range(batch):
                rows, columns = q[b % len(q)], s[b % len(s)]
                for place, some in zip(similarity[b, :, layer].split(ROWS), rows.split(ROWS)):
                    torch.mm(some, columns, out=place)
                    place.clamp_(min=0)
    similarity = similarity.view(batch, hq, wq, len(query), hs, ws)
    return similarity.permute(0, 3, 1, 2, 4, 5)  # [B, L, Hq, Wq, Hs, Ws]


def transposed(correlation: Tensor) -> Tensor:
    """Swap the roles of the images: [B, L, Hq, Wq, Hs, Ws] -> [B, L, Hs, Ws, Hq, Wq].

    A copy, as one transposition of the matrix in memory, after which L stands last: the order in which the 4D
    encoder's convolutions read this direction.
    """
    batch, layers, hq, wq, hs, ws = correlation.shape
    matrix = correlation.permute(0, 2, 3, 1, 4, 5).reshape(batch, hq * wq * layers, hs * ws)  # as correlate left it
    if matrix.requires_grad:
        swapped = matrix.transpose(1, 2).contiguous()  # [B, Hs*Ws, Hq*Wq*L]
    else:
        swapped = matrix.new_empty(batch, hs * ws, hq * wq * layers)
        for target, source in zip(swapped, matrix):
            target.copy_(source.t())  # of one matrix PyTorch transposes in blocks, more than twice as fast
    return swapped.view(batch, hs, ws, hq, wq, layers).permute(0, 5, 1, 2, 3, 4)
