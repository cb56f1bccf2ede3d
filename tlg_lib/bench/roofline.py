"""How near the arithmetic comes to the machine: multiply-adds against the measured rate of matrix products."""

from __future__ import annotations

import time

import torch


def matrix_product_rate(device: str = "cpu", side: int = 2048, dtype: torch.dtype = torch.float32) -> float:
    """Floating-point operations per second of a square matrix product (2 x side^3 operations), best of three.

    On a GPU float32 runs as the process allows it (TF32 off unless it was switched on).
    """
    a, b = torch.randn(side, side, device=device, dtype=dtype), torch.randn(side, side, device=device, dtype=dtype)
    out = torch.empty_like(a)
    best = float("inf")
    for _ in range(3):
        if device != "cpu":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        torch.mm(a, b, out=out)
        if device != "cpu":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best
