"""The yardstick for arithmetic: how fast this machine multiplies matrices."""

from __future__ import annotations

from collections.abc import Callable

import torch

SIDE, COUNT = 2048, 4  # several products in a row, so that a measurement lasts long enough to be even
PRODUCT_OPERATIONS = COUNT * 2 * SIDE**3  # floating-point operations of one call of ``matrix_product``'s function


def matrix_product(device: str = "cpu", dtype: torch.dtype = torch.float32) -> Callable[[], None]:
    """A function that multiplies square matrices of SIDE, COUNT times. Allocates once, here.

    On a GPU float32 runs as the process allows it (TF32 off unless it was switched on).
    """
    a, b = (torch.randn(SIDE, SIDE, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)

    def run() -> None:
        for _ in range(COUNT):
            torch.mm(a, b, out=out)

    run()
    return run
