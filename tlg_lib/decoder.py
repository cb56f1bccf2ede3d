"""From a map at stride 8 to two logits per image pixel, with its pseudo mask beside them (docs/design.md, 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .aggregation import resize
from .capture import record


class Decoder(nn.Module):
    """Two 3x3 stages, doubled between them, then a small per-pixel network that also sees the pseudo mask.

    Args: width -- channels of the map; mask -- whether a pseudo mask is given; prior -- number of prior maps,
    which enter both at stride 8 (where convolutions can judge their shape) and at the last, per-pixel stage.
    """

    def __init__(self, width: int, mask: bool, prior: int = 0):
        super().__init__()
        half = width // 2
        self.stage1 = nn.Sequential(
            nn.Conv2d(width + prior, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, half, 3, padding=1), nn.ReLU()
        )
        self.stage2 = nn.Sequential(nn.Conv2d(half, half, 3, padding=1), nn.ReLU(), nn.Conv2d(half, 2, 3, padding=1))
        self.res = nn.Sequential(nn.Conv2d(2 + mask + prior, 10, 1), nn.GELU(), nn.Conv2d(10, 2, 1))

    def forward(self, x: Tensor, mask: Tensor | None, prior: Tensor | None, image_size, branch: str) -> Tensor:
        """x [B, C, H8, W8], mask [B, 1, H, W], prior [B, P, H8, W8] -> logits [B, 2, H, W]."""
        b = branch[0]
        record(f"dec/{b}_in", x)
        x = self.stage1(x if prior is None else torch.cat((x, prior), dim=1))
        record(f"dec/{b}_dec1", x)
        size = (2 * x.shape[-2], 2 * x.shape[-1])
        x = self.stage2(resize(x, size))  # [B, 2, 2*H8, 2*W8]
        record(f"dec/{b}_dec2", x)
        beside = [resize(extra.to(x.dtype), size) for extra in (mask, prior) if extra is not None]
        x = self.res(torch.cat((x, *beside), dim=1))
        record(f"dec/{b}_res", x)
        return resize(x.contiguous(), image_size)  # [B, 2, H, W]; two channels last would take twice the time
