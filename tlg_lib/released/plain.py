"""The released network (docs/design.md, 3.1) in its plainest form: the yardstick of ``tlg bench``, never to predict.

Nothing is shared, skipped or reordered: both correlations are computed, the 4D encoder runs once per direction
on copies in the order that each convolution wants, Sinkhorn comes from POT one sample at a time, and every
branch is computed at test too. Weights carry the names of the release's checkpoints.
"""

from __future__ import annotations

import math

import ot
import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEADS = 8


class CentrePivotConv(nn.Module):
    """``conv1`` over this image's axes, ``conv2`` over the other's, each on a copy in its own order; summed."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int):
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        self.conv2 = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W, h, w] -> [B, C', H, W, ceil(h / stride), ceil(w / stride)]."""
        batch, channels, height, width, h, w = x.shape
        rows, columns = (torch.arange(0, n, self.stride, device=x.device) for n in (h, w))
        kept = x.index_select(4, rows).index_select(5, columns)  # [B, C, H, W, h', w']
        kept = kept.permute(0, 4, 5, 1, 2, 3).contiguous().view(-1, channels, height, width)
        a = self.conv1(kept).view(batch, len(rows), len(columns), -1, height, width)
        a = a.permute(0, 3, 4, 5, 1, 2).contiguous()  # [B, C', H, W, h', w']
        b = self.conv2(x.permute(0, 2, 3, 1, 4, 5).contiguous().view(-1, channels, h, w))
        b = b.view(batch, height, width, -1, *b.shape[-2:]).permute(0, 3, 1, 2, 4, 5).contiguous()
        return a + b


def blocks(widths: tuple[int, ...], kernels: tuple[int, ...], strides: tuple[int, ...]) -> nn.Sequential:
    """Convolution, GroupNorm(4), ReLU for each step of ``widths``; keys 0, 1, (2), 3, 4, (5), 6, 7 as released."""
    layers: list[nn.Module] = []
    for inputs, outputs, kernel, stride in zip(widths, widths[1:], kernels, strides):
        layers += [CentrePivotConv(inputs, outputs, kernel, stride), nn.GroupNorm(4, outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """HSNet's encoder: three levels squeezed over the other image's axes, mixed coarse to fine."""

    def __init__(self, layers: tuple[int, int, int], widths: tuple[int, int, int]):
        super().__init__()
        c = widths[-1]
        self.encoder_layer4 = blocks((layers[2], *widths), (3, 3, 3), (2, 2, 2))
        self.encoder_layer3 = blocks((layers[1], *widths), (5, 3, 3), (4, 2, 2))
        self.encoder_layer2 = blocks((layers[0], *widths), (5, 5, 3), (4, 4, 2))
        self.encoder_layer4to3 = blocks((c, c, c, c), (3, 3, 3), (1, 1, 1))
        self.encoder_layer3to2 = blocks((c, c, c, c), (3, 3, 3), (1, 1, 1))

    def forward(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> Tensor:
        """Correlations [B, L, H, W, h, w] at strides 8, 16, 32 -> [B, C, H8, W8]."""
        fine, middle, coarse = self.encoder_layer2(fine), self.encoder_layer3(middle), self.encoder_layer4(coarse)
        middle = self.encoder_layer4to3(middle + enlarge(coarse, middle.shape[2:4]))
        fine = self.encoder_layer3to2(fine + enlarge(middle, fine.shape[2:4]))
        return fine.mean(dim=(4, 5))


def enlarge(x: Tensor, size) -> Tensor:
    """Resize this image's axes. [B, C, H, W, h, w] -> [B, C, *size, h, w]."""
    batch, channels, height, width, h, w = x.shape
    x = x.permute(0, 4, 5, 1, 2, 3).contiguous().view(-1, channels, height, width)
    x = resize(x, size).view(batch, h, w, channels, *size)
    return x.permute(0, 3, 4, 5, 1, 2).contiguous()


def resize(x: Tensor, size, align_corners: bool = True) -> Tensor:
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=align_corners)


class SelfAttention(nn.Module):
    """Eight heads; even tokens of ``kv`` are the keys, odd ones the values. [B, N, C] -> [B, N, C]."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.q, self.kv = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.proj, self.dropout = nn.Linear(width, width), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        batch, count, width = x.shape
        split = lambda t: t.reshape(batch, -1, HEADS, width // HEADS).permute(0, 2, 1, 3)  # noqa: E731
        kv = self.kv(x)
        q, k, v = split(self.q(x)), split(kv[:, 0::2]), split(kv[:, 1::2])  # [B, 8, N or N/2, C/8]
        weights = (q @ k.transpose(2, 3) / math.sqrt(width // HEADS)).softmax(-1)
        return self.dropout(self.proj((weights @ v).permute(0, 2, 1, 3).reshape(batch, count, width)))


class CrossAttention(nn.Module):
    """Attention whose matrix is replaced by a transport plan from POT, sample by sample. [B, N, C] each."""

    def __init__(self, width: int, reg: float, dropout: float):
        super().__init__()
        self.q_fc, self.k_fc, self.v_fc, self.proj = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.reg, self.dropout = reg, nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = self.q_fc(x), self.k_fc(context), self.v_fc(context)
        cost = 1 - (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1)  # [B, N, N]
        uniform = torch.full((cost.shape[-1],), 1 / cost.shape[-1], device=x.device)
        plan = torch.stack([ot.sinkhorn(uniform, uniform, c.detach(), self.reg) for c in cost])
        return self.dropout(self.proj(plan @ v))


class Straightforward(nn.Module):
    """All of `released` after the backbone.

    Args: channels, levels, grids -- of the backbone (grids: (height, width) at strides 8, 16, 32); text -- three
    float [classes, D]: name, attribute, background; widths_4d, width, token_count, reg, dropout as in Config.
    """

    def __init__(
        self, channels, levels, grids, text, *, width=128, widths_4d=(16, 64, 128), token_count=50, reg=0.5, dropout=0.1
    ):
        super().__init__()
        self.levels, self.grids = levels, grids
        positions = grids[0][0] * grids[0][1]
        self.hpn_learner = Encoder(tuple(len(level) for level in levels), widths_4d)
        for inputs in sorted({channels[level[i]] for level in levels for i in (0, -1)}):
            setattr(self, f"conv_{inputs}_128", nn.Conv2d(inputs, width, 1))
        self.final_cat = nn.Conv2d(3 * width, width, 1)
        self.merge = nn.Sequential(nn.Conv2d(2 * width, width, 1, bias=False))
        self.SelfAttention = SelfAttention(width, dropout)
        self.CrossAttention = CrossAttention(width, reg, dropout)
        self.pool = nn.AdaptiveAvgPool1d(token_count)
        self.proj = nn.Linear(token_count, positions, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.linear_512_625 = nn.Linear(text[0].shape[1], grids[1][0] * grids[1][1])
        self.conv_2_1 = nn.Conv2d(2, 1, 1)
        half = width // 2
        self.decoder1 = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, half, 3, padding=1), nn.ReLU()
        )
        self.decoder2 = nn.Sequential(nn.Conv2d(half, half, 3, padding=1), nn.ReLU(), nn.Conv2d(half, 2, 3, padding=1))
        self.res = nn.Sequential(nn.Conv2d(3, 10, 1), nn.GELU(), nn.Conv2d(10, 2, 1))
        for name, vectors in zip(("name", "attribute", "background"), text):
            self.register_buffer(f"text_{name}", vectors, persistent=False)

    def forward(self, query, support, query_mask, support_mask, class_ids):
        """Maps (lists of [B, C, h, w]), pseudo masks [B, 1, H, W], class ids [B] -> logits of query and support,
        [B, 2, H, W] each."""
        pyramid_q = self.correlation(query, support)
        pyramid_s = self.correlation(support, query)
        map_q, map_s = self.encode(pyramid_q), self.encode(pyramid_s)  # [B, C, H8, W8]
        with torch.no_grad():
            s, q = self.aggregate(support, -1, map_q), self.aggregate(query, 0, map_s)
            middle = support[self.levels[1][-1]]
            s, q = self.transport(s, middle, F.max_pool2d), self.transport(q, middle, F.avg_pool2d)
            s, q = self.text(s, q, class_ids)
        size = query_mask.shape[-2:]
        return self.decode(q + map_q, query_mask, size), self.decode(s + map_s, support_mask, size)

    def correlation(self, this: list[Tensor], other: list[Tensor]) -> list[Tensor]:
        """Per level [B, L, H, W, h, w]: clamped cosines, L2 norms plus 1e-5."""
        pyramid = []
        for level in self.levels:
            layers = []
            for i in level:
                a = this[i] / (this[i].norm(dim=1, keepdim=True) + 1e-5)
                b = other[i] / (other[i].norm(dim=1, keepdim=True) + 1e-5)
                c = torch.bmm(a.flatten(2).transpose(1, 2), b.flatten(2))  # [B, H*W, h*w]
                layers.append(c.view(len(c), *a.shape[2:], *b.shape[2:]).clamp(min=0))
            pyramid.append(torch.stack(layers, dim=1).contiguous())
        return pyramid

    def encode(self, pyramid: list[Tensor]) -> Tensor:
        return self.hpn_learner(*pyramid)

    def aggregate(self, maps: list[Tensor], pick: int, correlation_map: Tensor) -> Tensor:
        """HA of one branch (pick: first or last layer of each level), merged with a correlation map."""
        reduced = [getattr(self, f"conv_{maps[level[pick]].shape[1]}_128")(maps[level[pick]]) for level in self.levels]
        fused = self.final_cat(torch.cat([resize(x, self.grids[0]) for x in reduced], dim=1))
        return self.merge(torch.cat((fused, correlation_map), dim=1))

    def transport(self, x: Tensor, middle: Tensor, pool) -> Tensor:
        """HT of one branch; ``middle``: the support's middle layer, whose resized and pooled map is the residual."""
        tokens = self.pool(x.flatten(2)).transpose(1, 2)  # [B, N, C]
        tokens = self.CrossAttention(self.SelfAttention(tokens), tokens)
        spread = self.proj(tokens.transpose(1, 2)).view(x.shape)  # [B, C, H8, W8]
        large = resize(middle, (2 * self.grids[0][0], 2 * self.grids[0][1]))
        residual = pool(getattr(self, f"conv_{middle.shape[1]}_128")(large), 2)
        return F.relu(self.bn(spread) + residual)

    def text(self, s: Tensor, q: Tensor, class_ids: Tensor) -> tuple[Tensor, Tensor]:
        """HC: multiply on the middle grid by maps made of words, and go back (both resizes by pixel areas)."""
        name, attribute, background = (
            self.linear_512_625(vectors[class_ids]).view(-1, 1, *self.grids[1])
            for vectors in (self.text_name, self.text_attribute, self.text_background)
        )
        merged = self.conv_2_1(torch.cat((name, background), dim=1))
        s, q = resize(s, self.grids[1], False) * attribute, resize(q, self.grids[1], False) * merged
        return resize(s, self.grids[0], False), resize(q, self.grids[0], False)

    def decode(self, x: Tensor, mask: Tensor, size) -> Tensor:
        """[B, C, H8, W8] and a pseudo mask [B, 1, H, W] -> logits [B, 2, *size]."""
        x = self.decoder1(x)
        x = self.decoder2(resize(x, (2 * x.shape[-2], 2 * x.shape[-1])))  # [B, 2, 2*H8, 2*W8]
        return resize(self.res(torch.cat((x, resize(mask, x.shape[-2:])), dim=1)), size)
