"""Centre-pivot 4D convolutions and the coarse-to-fine encoder made of them (HSNet: Min et al., ICCV 2021).

The idea: a correlation says for every pair of positions, one in each image, how alike they are. A match is to be
believed where its neighbours agree: positions beside it in this image match positions beside its partner in the other.
That is a convolution in four dimensions; a full k^4 kernel is too dear, so only two planes of it are kept, one k x k
over this image at the partner's position and one over the other image at this position:
y(p, q) = sum_d w1(d) x(p + d, q) + sum_d w2(d) x(p, q + d). Strides shrink the other image until one position is left.
Coarse levels are added to finer ones on the way (Encoder4d).

A 4D map has the axes [B, C, H, W, h, w]: H, W of *this* image (whose map comes out), h, w of the *other*.
In memory C stands last, so that both halves of the convolution read it without full copies.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .capture import directions, record, record_pair
from .correlation import transposed
from .layers import GroupNorm, Kept, made_again, taps


class CentrePivotConv4d(nn.Module):
    """A 4D convolution whose kernel is zero off two planes, as HSNet section 4.2 proposes.

    One plane holds the other image's position at the kernel's centre and convolves over this image
    (``this``), the second the other way round (``other``); the sum of the two is the result. ``stride``
    applies to the other image's axes only. Padding is kernel // 2. Kernel must be odd.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int):
        super().__init__()
        self.stride = stride
        self.this = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        self.other = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W, h, w] -> [B, C', H, W, ceil(h / stride), ceil(w / stride)]."""
        batch, _, height, width = x.shape[:4]
        if x.shape[4:] == (1, 1):
            return self._on_one_position(x[..., 0, 0])[..., None, None]
        # Over this image: only the positions of the other image that survive the stride are computed.
        x, kept = Kept.apply(x, self.stride)
        h, w = kept.shape[1:3]
        with made_again(kept, x, self.stride):
            a = self.this(kept.flatten(0, 2).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # [B*h'*w', H, W, C']
        a = a.unflatten(0, (batch, h, w)).permute(0, 3, 4, 1, 2, 5)  # [B, H, W, h', w', C']
        # Over the other image: a view of x when C stands last in memory (or behind W, as correlate gives it).
        b = self._over_other(x.permute(0, 2, 3, 1, 4, 5).flatten(0, 2))  # [B*H*W, C', h', w']
        b = b.unflatten(0, (batch, height, width)).permute(0, 1, 2, 4, 5, 3).contiguous()  # [B, H, W, h', w', C']
        y = b + a if torch.is_grad_enabled() else b.add_(a)
        return y.permute(0, 5, 1, 2, 3, 4)  # [B, C', H, W, h', w']

    def _on_one_position(self, x: Tensor) -> Tensor:
        """Where one position of the other image is left, only the centre of ``other`` meets it: one 2D convolution does
        both planes. [B, C, H, W] -> [B, C', H, W]."""
        centre = self.other.kernel_size[0] // 2
        pointwise = self.other.weight[:, :, centre : centre + 1, centre : centre + 1]
        weight = self.this.weight + F.pad(pointwise, (centre,) * 4)
        assert self.this.bias is not None and self.other.bias is not None
        return F.conv2d(x, weight, self.this.bias + self.other.bias, padding=centre)

    def _over_other(self, x: Tensor) -> Tensor:
        """The ``other`` convolution on [N, C, h, w]; on grids smaller than the kernel as one matrix product."""
        n, _, h, w = x.shape
        kernel = self.other.kernel_size[0]
        if h * w > kernel * kernel:
            return self.other(x)
        rows, columns, valid = taps((h, w), kernel, self.stride, x.device)
        weight = self.other.weight[:, :, rows, columns] * valid  # [C', C, h', w', h, w]
        matrix = weight.permute(4, 5, 1, 2, 3, 0).flatten(3).flatten(0, 2)  # [h*w*C, h'*w'*C']
        assert self.other.bias is not None
        bias = self.other.bias.repeat(valid.shape[0] * valid.shape[1])
        y = torch.addmm(bias, x.permute(0, 2, 3, 1).reshape(n, -1), matrix)  # [N, h'*w'*C']
        return y.view(n, *valid.shape[:2], -1).permute(0, 3, 1, 2)  # [N, C', h', w']


class Block4d(nn.Module):
    """CentrePivotConv4d, GroupNorm in 4 groups over all four axes, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int):
        super().__init__()
        self.conv = CentrePivotConv4d(inputs, outputs, kernel, stride)
        self.norm = GroupNorm(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.activate(self.conv(x))

    def activate(self, x: Tensor) -> Tensor:
        """GroupNorm and ReLU. [B, C', H, W, h', w'] -> same shape."""
        shape = x.shape
        x = x.flatten(2, 3).flatten(3, 4)  # [B, C', H*W, h'*w'], C' last in memory: "channels last"
        x = F.relu(self.norm(x), inplace=True)
        return x.view(shape[0], shape[1], *shape[2:])


# Kernel and stride of the three blocks that squeeze a level, as in HSNet, and of a level pooled to stride 32: small
# first steps, so that every position counts, and at most one position left at 400 pixels,
# so that mixing the levels is cheap.
FINE, MIDDLE, COARSE = ((5, 4), (5, 4), (3, 2)), ((5, 4), (3, 2), (3, 2)), ((3, 2), (3, 2), (3, 2))
POOLED = ((3, 2), (5, 4), (3, 2))


def _squeezing(layers: int, widths: tuple[int, int, int], steps) -> nn.Sequential:
    """Three blocks from ``layers`` correlations to widths[2] channels, with the kernels and strides of ``steps``."""
    inputs = (layers, *widths[:2])
    return nn.Sequential(*(Block4d(i, o, k, s) for i, o, (k, s) in zip(inputs, widths, steps)))


class Encoder4d(nn.Module):
    """Squeeze the other image out of the correlation pyramid, coarse to fine.

    Args: layers -- number of correlation layers at strides 8, 16, 32; widths -- channels of the three blocks
    of each level (16, 64, 128 in the release); recompute -- in training, compute the squeezing blocks again in the
    backward pass instead of keeping what they need (activation checkpointing); pool -- how the other image's maps were
    pooled (pool_levels), 1 as released. Output: [B, widths[2], H8, W8].
    """

    def __init__(
        self,
        layers: tuple[int, int, int],
        widths: tuple[int, int, int] = (16, 64, 128),
        recompute: bool = False,
        pool: int = 1,
    ):
        super().__init__()
        self.recompute = recompute
        fine, middle, coarse = layers
        c = widths[-1]
        self.squeeze4 = _squeezing(coarse, widths, COARSE)
        self.squeeze3 = _squeezing(middle, widths, POOLED if pool == 4 else MIDDLE)
        self.squeeze2 = _squeezing(fine, widths, POOLED if pool == 4 else FINE)
        self.mix43 = nn.Sequential(*(Block4d(c, c, 3, 1) for _ in range(3)))
        self.mix32 = nn.Sequential(*(Block4d(c, c, 3, 1) for _ in range(3)))

    def forward(self, correlations: list[Tensor], toward: tuple[str, ...] = ("query",)) -> Tensor:
        """Three correlations [B, L, Hq, Wq, Hs, Ws], strides 8, 16, 32 -> [B, C, Hq8, Wq8].

        toward: whose maps come out, by which names they are captured. The first is the image of the axes Hq, Wq; with
        a second the query is also squeezed out, by the same weights: [2B, C, H8, W8], the support's maps behind the
        query's (their grids must agree).
        """
        fine, middle, coarse = correlations
        with directions(*toward):
            fine = self._level(self.squeeze2, fine, toward, "2")  # [B or 2B, C, H8, W8, 2, 2] at 400 x 400
            middle = self._level(self.squeeze3, middle, toward, "3")  # [.., C, H16, W16, 2, 2]
            coarse = self._level(self.squeeze4, coarse, toward, "4")  # [.., C, H32, W32, 2, 2]

            middle = self.mix43(add_resized(middle, coarse))
            record_pair("conv4d_{}/", "mix43", middle)
            fine = self.mix32(add_resized(fine, middle))
            record_pair("conv4d_{}/", "mix432", fine)
            out = fine.mean(dim=(4, 5))  # [B or 2B, C, H8, W8]
            record_pair("after4d_{}", "", out)
        return out

    def _level(self, blocks: nn.Sequential, correlation: Tensor, toward: tuple[str, ...], level: str) -> Tensor:
        """One level, one or both directions, its blocks recomputed in the backward pass if so configured."""
        both = len(toward) > 1
        record(f"corr_{toward[0]}/l{level}", correlation)
        if self.recompute and torch.is_grad_enabled():
            x = checkpoint(_squeeze, blocks, correlation, both, level, use_reentrant=False)
        else:
            x = _squeeze(blocks, correlation, both, level)
        record_pair("conv4d_{}/", f"sqz{level}", x)
        return x


def _squeeze(blocks: nn.Sequential, correlation: Tensor, both: bool, level: str) -> Tensor:
    """[B, L, Hq, Wq, Hs, Ws] -> [B or 2B, C, H, W, h, w].

    The first convolution, whose input is large, takes the directions one by one; the rest takes them together.
    """
    first = blocks[0]
    assert isinstance(first, Block4d)
    parts = [first.conv(correlation)]
    if both:
        parts.append(_swapped_conv(first.conv, correlation, level))
    # Joined with C last, as it stands in memory: torch.cat would put it in front.
    x = torch.cat([p.permute(0, 2, 3, 4, 5, 1) for p in parts]).permute(0, 5, 1, 2, 3, 4) if both else parts[0]
    del parts
    return blocks[1:](first.activate(x))


def _swapped_conv(conv: CentrePivotConv4d, correlation: Tensor, level: str) -> Tensor:
    """``conv`` over the other direction. In training the transposed copy, the largest tensor of all, is made again in
    the backward pass instead of being kept."""

    def forward(correlation: Tensor) -> Tensor:
        swapped = transposed(correlation)
        record(f"corr_support/l{level}", swapped)
        return conv(swapped)

    if not torch.is_grad_enabled():
        return forward(correlation)
    return checkpoint(forward, correlation, use_reentrant=False, preserve_rng_state=False)


def add_resized(fine: Tensor, coarse: Tensor) -> Tensor:
    """``fine`` plus ``coarse`` resized over this image's axes (bilinear, align_corners).

    [B, C, H, W, h, w] + [B, C, H', W', h', w'] -> [B, C, H, W, h, w]. The other image's axes agree where the
    maps' sides round up (ceil of ceil is ceil); where they do not (VGG-16), ``coarse`` is pooled or repeated.
    """
    batch, channels, height, width, h, w = coarse.shape
    x = coarse.permute(0, 4, 5, 1, 2, 3).flatten(1, 3)  # [B, h'*w'*C, H', W']
    x = F.interpolate(x, size=fine.shape[2:4], mode="bilinear", align_corners=True)
    x = x.unflatten(1, (h, w, channels)).permute(0, 3, 4, 5, 1, 2)  # [B, C, H, W, h', w']
    if x.shape[4:] != fine.shape[4:]:
        x = F.adaptive_avg_pool2d(x.flatten(0, 3), (fine.shape[4], fine.shape[5])).view(fine.shape)
    return fine + x
