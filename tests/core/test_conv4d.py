"""The 4D convolution against a direct sum over all offsets, the encoder against a plain second version."""

import itertools

import pytest
import torch

from tlg_lib import layers
from tlg_lib.conv4d import CentrePivotConv4d, Encoder4d
from tlg_lib.released.parity import encode_in_release_order


def direct(conv, x):
    """Sum over all four offsets of a 4D kernel that is zero off the two centre planes."""
    stride, k = conv.stride, conv.this.kernel_size[0]
    c = k // 2
    kernel = torch.zeros(conv.this.out_channels, conv.this.in_channels, k, k, k, k, dtype=x.dtype)
    kernel[:, :, :, :, c, c] += conv.this.weight.detach()
    kernel[:, :, c, c] += conv.other.weight.detach()
    _, _, H, W, h, w = x.shape
    outputs = range(0, h, stride), range(0, w, stride)
    out = torch.zeros(x.shape[0], kernel.shape[0], H, W, len(outputs[0]), len(outputs[1]), dtype=x.dtype)
    out += (conv.this.bias + conv.other.bias).detach().view(1, -1, 1, 1, 1, 1)
    offsets = [o for o in itertools.product(range(-c, c + 1), repeat=4) if o[:2] == (0, 0) or o[2:] == (0, 0)]
    for Y, X, (i, y), (j, xx) in itertools.product(range(H), range(W), enumerate(outputs[0]), enumerate(outputs[1])):
        for a, b, d, e in offsets:
            if 0 <= Y + a < H and 0 <= X + b < W and 0 <= y + d < h and 0 <= xx + e < w:
                weight = kernel[:, :, a + c, b + c, d + c, e + c]
                out[:, :, Y, X, i, j] += x[:, :, Y + a, X + b, y + d, xx + e] @ weight.T
    return out


@pytest.mark.parametrize(
    "kernel, stride, size",
    [
        (3, 1, (3, 4, 2, 2)),
        (3, 2, (3, 2, 3, 5)),
        (5, 4, (2, 3, 6, 5)),
        (5, 4, (3, 3, 3, 4)),
        (3, 1, (2, 2, 1, 1)),
        (3, 2, (4, 3, 4, 4)),
    ],
)
def test_centre_pivot_is_the_sparse_4d_convolution(kernel, stride, size):
    torch.manual_seed(0)
    conv = CentrePivotConv4d(2, 3, kernel, stride).double()
    x = torch.randn(2, 2, *size, dtype=torch.float64)
    torch.testing.assert_close(conv(x), direct(conv, x))


def test_layout_in_memory_does_not_matter():
    torch.manual_seed(0)
    conv = CentrePivotConv4d(4, 4, 3, 2)
    x = torch.randn(2, 4, 5, 4, 6, 7)
    last = x.permute(0, 2, 3, 4, 5, 1).contiguous().permute(0, 5, 1, 2, 3, 4)
    torch.testing.assert_close(conv(last), conv(x))


@pytest.mark.parametrize("image", [(128, 128), (96, 160)])
def test_encoder_agrees_with_the_plain_order_of_operations(image):
    torch.manual_seed(0)
    encoder = Encoder4d((2, 3, 2), (4, 8, 8)).double()
    sides = [tuple(-(-n // s) for n in image) for s in (8, 16, 32)]
    pyramid = [torch.rand(2, n, *side, *side, dtype=torch.float64) for n, side in zip((2, 3, 2), sides)]
    expected = encode_in_release_order(encoder, pyramid)
    gradients = torch.autograd.grad(expected.square().sum(), list(encoder.parameters()))
    found = encoder(pyramid)
    assert found.shape == (2, 8, *sides[0])
    torch.testing.assert_close(found, expected)
    for a, b in zip(torch.autograd.grad(found.square().sum(), list(encoder.parameters())), gradients):
        torch.testing.assert_close(a, b)


def test_group_norm_is_exact_on_large_maps():
    """Against double precision, where torch's own sums over channels-last maps go wrong by 1e-4 and more."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(2, 300, 300, 8, generator=generator) + 1).permute(0, 3, 1, 2)  # [B, C, h, w], C last in memory
    pull = torch.randn(2, 8, 300, 300, generator=generator)
    assert x.shape[2] * x.shape[3] > layers.MANY_POSITIONS
    results = {}
    for dtype in (torch.float32, torch.float64):
        norm = layers.GroupNorm(4, 8)
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(0.5, 1.5, 8))
            norm.bias.copy_(torch.linspace(-1, 1, 8))
        norm = norm.to(dtype)  # in place: the parameters stay leaves
        at = x.detach().to(dtype).requires_grad_()
        y = norm(at)
        assert y.is_contiguous(memory_format=torch.channels_last)
        y.backward(pull.to(dtype))
        results[dtype] = [y.detach(), at.grad, norm.weight.grad, norm.bias.grad]
    for single, double, limit in zip(results[torch.float32], results[torch.float64], (1e-5, 1e-5, 1e-3, 1e-3)):
        assert (single.double() - double).abs().max() < limit * double.abs().max()
    native = torch.nn.functional.group_norm(x, 4, norm.weight.float(), norm.bias.float())
    assert (native.double() - results[torch.float64][0]).abs().max() > 1e-4  # else GroupNorm has had its day
