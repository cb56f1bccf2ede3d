"""Devices that keep torch exact or frugal: group norm by blocks, batch norm over processes, strided copies.

Each guards against something that was measured; the ideas that use them are in conv4d.py and transport.py.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import lru_cache

import torch
import torch.distributed as dist
from torch import Tensor, nn

BLOCK = 256  # positions
MANY_POSITIONS = 65536  # of a channels-last map: from here on torch's own sums lose digits


class Kept(torch.autograd.Function):
    """x, and a copy of the positions of the other image that a stride keeps, C last: [B, h', w', H, W, C].

    The gradients of both meet in one place and one memory order; slicing would make a tensor of zeros as large
    as x, in another order, which every later step would have to reorder.
    """

    @staticmethod
    def forward(ctx, x: Tensor, stride: int) -> tuple[Tensor, Tensor]:
        ctx.stride = stride
        return x.view_as(x), strided(x, stride)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_x: Tensor, grad_kept: Tensor):
        # In place: grad_x was made by the backward pass of the one convolution that reads x here.
        grad_x.permute(0, 4, 5, 2, 3, 1)[:, :: ctx.stride, :: ctx.stride] += grad_kept
        return grad_x, None


def made_again(kept: Tensor, x: Tensor, stride: int):
    """What autograd would save of ``kept`` inside this context is copied from ``x`` again when it is needed.

    ``x`` is saved by the other half of the convolution anyway, so a block without a stride keeps one large tensor less.
    """
    if stride > 1 or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return nullcontext()
    storage, x = kept.untyped_storage().data_ptr(), x.detach()

    def pack(saved: Tensor):
        if saved.untyped_storage().data_ptr() != storage:
            return saved
        return saved.shape, saved.stride(), saved.storage_offset()

    def unpack(packed):
        return packed if isinstance(packed, Tensor) else strided(x, stride).as_strided(*packed)

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


def strided(x: Tensor, stride: int) -> Tensor:
    """The positions of the other image that a stride keeps, C last: [B, C, H, W, h, w] -> [B, h', w', H, W, C]."""
    return x.permute(0, 4, 5, 2, 3, 1)[:, ::stride, ::stride].contiguous()


def taps(size: tuple[int, int], kernel: int, stride: int, device) -> tuple[Tensor, Tensor, Tensor]:
    """Which kernel taps join the inputs of an h x w grid to the outputs: rows [h', 1, h, 1], columns [1, w', 1, w], and
    whether they exist, bool [h', w', h, w]. Kept: on a GPU each would be a dozen starts of tiny kernels."""
    return (_grid_taps if torch.compiler.is_compiling() else _kept_taps)(size, kernel, stride, device)


def _grid_taps(size: tuple[int, int], kernel: int, stride: int, device) -> tuple[Tensor, Tensor, Tensor]:
    with torch.inference_mode(False):  # what is made in it could not take part in training later
        (rows, ys), (columns, xs) = (_taps(n, kernel, stride, device) for n in size)
        valid = ys[:, None, :, None] & xs[None, :, None, :]
        return rows[:, None, :, None], columns[None, :, None, :], valid


_kept_taps = lru_cache(maxsize=64)(_grid_taps)


def _taps(size: int, kernel: int, stride: int, device) -> tuple[Tensor, Tensor]:
    """Along one axis: tap index [o, i], and whether it exists."""
    outputs = torch.arange(0, size, stride, device=device)[:, None]
    index = torch.arange(size, device=device)[None, :] - outputs + kernel // 2
    valid = (index >= 0) & (index < kernel)
    return index.clamp(0, kernel - 1), valid


def _sums(positions: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of [B, N, C] and of its squares over the N positions, float64 [B, C] each.

    Blocks are summed in single precision and their sums in double: how a matrix product adds up 100,000 numbers
    depends on the processor, and in single precision costs up to 1e-4 where the mean is far from 0.
    """
    whole = positions.shape[1] // BLOCK * BLOCK
    sums, squares = [], []
    for image in positions:  # [N, C]
        blocks, rest = image[:whole].view(-1, BLOCK, image.shape[1]), image[whole:].double()
        sums.append(blocks.sum(1).double().sum(0) + rest.sum(0))
        products = torch.bmm(blocks.transpose(1, 2), blocks).diagonal(dim1=1, dim2=2)  # [N / BLOCK, C]
        squares.append(products.double().sum(0) + rest.square().sum(0))
    return torch.stack(sums), torch.stack(squares)


class _NormInGroups(torch.autograd.Function):
    """GroupNorm of [B, C, h, w], C last in memory, its sums from blocks."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        batch, channels, h, w = x.shape
        positions = x.permute(0, 2, 3, 1).flatten(1, 2)  # [B, h*w, C], as it stands in memory
        count = h * w * channels // groups
        mean, squares = (part.view(batch, groups, -1).sum(2) / count for part in _sums(positions))  # [B, G], float64
        rstd = ((squares - mean.square()).clamp_min(0) + eps).rsqrt().to(x.dtype)
        mean = mean.to(x.dtype)
        scale = weight.view(groups, -1) * rstd[..., None]  # [B, G, C/G]
        shift = bias.view(groups, -1) - mean[..., None] * scale
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.groups = groups
        return torch.addcmul(shift.view(batch, channels, 1, 1), x, scale.view(batch, channels, 1, 1))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor):
        x, weight, mean, rstd = ctx.saved_tensors
        batch, channels, h, w = x.shape
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        gradients = torch.ops.aten.native_group_norm_backward(
            gradient, x, mean, rstd, weight, batch, channels, h * w, ctx.groups, ctx.needs_input_grad[:3]
        )
        return *gradients, None, None


class _NormChannelsLast(torch.autograd.Function):
    """GroupNorm of [B, C, h, w], C last in memory, whose result and gradient stand so too, in x's own precision.

    On a GPU torch brings such a map into the other order and, under autocast, into 32 bits: six times the traffic of a
    layer that does nothing but wait for memory. Sums are of 32 bits here as there.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        batch, channels, h, w = x.shape
        positions = x.permute(0, 2, 3, 1).reshape(batch, h * w, groups, channels // groups)  # as it stands in memory
        wide = torch.promote_types(x.dtype, torch.float32)
        count = h * w * channels // groups
        mean = positions.sum((1, 3), dtype=wide) / count  # [B, G]
        squares = torch.linalg.vector_norm(positions, dim=(1, 3), dtype=wide).square() / count
        rstd = ((squares - mean.square()).clamp_min(0) + eps).rsqrt()
        scale = weight.to(wide).view(groups, -1) * rstd[..., None]  # [B, G, C/G]
        shift = bias.to(wide).view(groups, -1) - mean[..., None] * scale
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.groups = groups
        scale, shift = (v.view(batch, channels, 1, 1).to(x.dtype) for v in (scale, shift))
        return torch.addcmul(shift, x, scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor):
        x, weight, mean, rstd = ctx.saved_tensors
        batch, channels, h, w = x.shape
        groups, wide, count = ctx.groups, mean.dtype, h * w * channels // ctx.groups
        per_channel = lambda v: v.repeat_interleave(channels // groups, 1)  # noqa: E731  [B, G] -> [B, C]
        sums = gradient.sum((2, 3), dtype=wide)  # [B, C]
        products = (gradient * x).sum((2, 3), dtype=wide)
        mean, rstd, w_wide = per_channel(mean), per_channel(rstd), weight.to(wide)
        in_group = lambda v: per_channel((v * w_wide).view(batch, groups, -1).sum(2))  # noqa: E731  [B, C]
        along = (in_group(sums) * mean - in_group(products)) * rstd**3 / count  # of x in x's gradient
        rest = -along * mean - in_group(sums) * rstd / count
        a, b, c = (v[..., None, None].to(x.dtype) for v in (w_wide * rstd, along, rest))
        grad_x = torch.addcmul(torch.addcmul(c, x, b), gradient, a)
        grad_weight = ((products - sums * mean) * rstd).sum(0).to(weight.dtype)
        return grad_x, grad_weight, sums.sum(0).to(weight.dtype), None, None


class GroupNorm(nn.GroupNorm):
    """nn.GroupNorm that is exact to rounding on large maps too, and keeps the order of memory on a GPU.

    On a CPU torch sums a map whose channels stand last position by position: over the 422,500 positions at 400 pixels
    and stride 8 the result is wrong by 1e-4, and by 1e-3 where the mean is far from 0. Sums of blocks take as long.
    """

    def forward(self, x: Tensor) -> Tensor:
        arguments = (x, self.weight, self.bias, self.num_groups, self.eps)
        if x.device.type != "cpu" and x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
            with torch.autocast(x.device.type, enabled=False):
                return _NormChannelsLast.apply(*arguments)
        large = x.dim() == 4 and x.shape[2] * x.shape[3] > MANY_POSITIONS
        if large and x.device.type == "cpu" and x.dtype == torch.float32:
            return _NormInGroups.apply(*arguments)
        return super().forward(x)


class _SumOverProcesses(torch.autograd.Function):
    """Sum a tensor over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return _SumOverProcesses.apply(grad)


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm2d whose statistics in training are those of the whole batch, also when processes share it.

    So that several processes learn what one would. Their shares must be equally large. PyTorch's SyncBatchNorm
    does this on GPUs only.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(x)
        count = dist.get_world_size() * x.numel() // x.shape[1]
        mean = _SumOverProcesses.apply(x.sum(dim=(0, 2, 3), keepdim=True)) / count  # [1, C, 1, 1]
        centred = x - mean
        variance = _SumOverProcesses.apply(centred.square().sum(dim=(0, 2, 3), keepdim=True)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.flatten(), self.momentum)
            self.running_var.lerp_(variance.flatten() * (count / (count - 1)), self.momentum)
        scale = self.weight.view(1, -1, 1, 1) * torch.rsqrt(variance + self.eps)
        return centred * scale + self.bias.view(1, -1, 1, 1)
