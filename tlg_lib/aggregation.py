"""Heterogeneous visual aggregation (HA): different layers of one backbone speak for support and query (paper, III).

The support is described by the last layer of each level, the query by the first one, so that the shared
weights see two perspectives (ResNet-50: support 3, 9, 12, query 0, 4, 10).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .capture import record

BRANCHES = ("query", "support")


def branch_layers(levels) -> dict[str, tuple[int, ...]]:
    """Indices of the low, middle and high layer that HA takes for each branch."""
    return {"query": tuple(level[0] for level in levels), "support": tuple(level[-1] for level in levels)}


def resize(x: Tensor, size) -> Tensor:
    """Bilinear with align_corners, as everywhere in the release. [B, C, h, w] -> [B, C, *size]."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


class HeterogeneousAggregation(nn.Module):
    """Reduce three layers per branch to one map, and merge that with a correlation map.

    Args: channels and levels of the backbone; width -- channels of the result; shared -- one 1x1
    convolution per input width, as released (VGG-16 then has one for all levels), instead of one per level.
    """

    def __init__(self, channels, levels, width: int = 128, shared: bool = False):
        super().__init__()
        self.layers = branch_layers(levels)
        self.keys: dict[str, list[str]] = {}
        self.reduce = nn.ModuleDict()
        for branch in BRANCHES:
            self.keys[branch] = []
            for level, layer in zip(("low", "mid", "high"), self.layers[branch]):
                key = f"{channels[layer]}" if shared else f"{level}_{channels[layer]}"
                self.keys[branch].append(key)
                if key not in self.reduce:
                    self.reduce[key] = nn.Conv2d(channels[layer], width, 1)
        self.fuse = nn.Conv2d(3 * width, width, 1)
        self.merge = nn.Conv2d(2 * width, width, 1, bias=False)

    def reduced(self, features: list[Tensor], branch: str) -> list[Tensor]:
        """The branch's three layers at their own grids: 3 x [B, width, h, w]. 1x1 first, resize later."""
        return [self.reduce[key](features[i]) for key, i in zip(self.keys[branch], self.layers[branch])]

    def middle(self, features: list[Tensor], branch: str) -> Tensor:
        """Only the reduced middle layer, [B, width, H16, W16]: what the residual of HT needs."""
        return self.reduce[self.keys[branch][1]](features[self.layers[branch][1]])

    def forward(self, reduced: list[Tensor], branch: str) -> Tensor:
        """Low, middle and high at the low grid, concatenated and fused. -> [B, width, H8, W8]."""
        low, mid, high = (resize(x, reduced[0].shape[-2:]) for x in reduced)
        for name, x in (("low", low), ("mid", mid), ("hig", high)):
            record(f"ha/{branch[0]}_{name}", x)
        fused = self.fuse(torch.cat((low, mid, high), dim=1))
        record(f"ha/{branch[0]}_cat", fused)
        return fused

    def merged(self, fused: Tensor, correlation_map: Tensor, branch: str) -> Tensor:
        """Concatenate with a correlation map [B, width, H8, W8] and merge. -> [B, width, H8, W8]."""
        out = self.merge(torch.cat((fused, correlation_map), dim=1))
        record(f"ha/{branch[0]}_merge", out)
        return out
