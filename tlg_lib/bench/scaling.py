"""Time and memory against the image size: measured, fitted by what the arithmetic predicts, and drawn."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import numpy as np
from scipy.optimize import nnls

from .cases import Case, build, make_inputs
from .measure import operation, paired_seconds, peak_memory

SIZES = (128, 224, 320, 400, 512)


def fit(sizes, values) -> dict[str, float]:
    """constant + area x (s/100)^2 + factor x (s/100)^4 with factors >= 0, least squares of relative errors.

    Convolutions grow with the area of the image, correlations and 4D convolutions with its square.
    """
    s, v = np.asarray(sizes, float) / 100, np.asarray(values, float)
    columns = np.stack([np.ones_like(s), s**2, s**4], 1)
    found, _ = nnls(columns / v[:, None], np.ones_like(v))
    worst = float(np.abs(columns @ found / v - 1).max())
    return {"constant": found[0], "area": found[1], "factor": found[2], "worst": worst}


def measure_scaling(
    backbone: str,
    network: str,
    batch: int,
    device: str,
    repeats: int,
    sizes=SIZES,
    say: Callable[[str], None] = lambda line: None,
) -> dict:
    """Forward, training step and peak memory of a training step at each size. Seconds are medians."""
    points = []
    for size in sizes:
        case = Case(backbone, size, batch, device)
        built, inputs = build(case, (network,))[network], make_inputs(case)
        runs = {"forward": operation(built, "forward1", inputs), "step": operation(built, "step", inputs)}
        for run in runs.values():
            run()
        seconds = paired_seconds(runs, repeats, device)
        point = {
            "size": size,
            **{k: statistics.median(s["wall"]) for k, s in seconds.items()},
            **{f"{k}_cpu": statistics.median(s["cpu"]) for k, s in seconds.items()},
        }
        del built, runs
        point["peak"] = peak_memory(case, network, "step")["peak"]
        points.append(point)
        say(f"{size} px: forward {point['forward']:.2f} s, step {point['step']:.2f} s, {point['peak']:.0f} MiB")
    fits = {k: fit(sizes, [p[k] for p in points]) for k in ("forward", "step", "peak")}
    return {"network": network, "backbone": backbone, "batch": batch, "device": device, "points": points, "fits": fits}


def scaling_figure(result: dict):
    """Measured points and fitted curves: seconds on the left, memory on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    sizes = np.linspace(min(p["size"] for p in result["points"]), max(p["size"] for p in result["points"]), 100)
    for axes, what, label, colour, marker in (
        (left, "forward", "forward, 1 shot", "#0072B2", "o"),
        (left, "step", "training step", "#D55E00", "s"),
        (right, "peak", "peak of a training step", "#009E73", "^"),
    ):
        f = result["fits"][what]
        curve = f["constant"] + f["area"] * (sizes / 100) ** 2 + f["factor"] * (sizes / 100) ** 4
        axes.plot(sizes, curve, color=colour, label=f"{label}, fitted")
        axes.plot(
            [p["size"] for p in result["points"]],
            [p[what] for p in result["points"]],
            marker,
            color=colour,
            label=f"{label}, measured",
        )
        axes.set_xlabel("image side (pixels)")
        axes.legend(frameon=False)
    left.set_ylabel("seconds")
    right.set_ylabel("MiB")
    figure.suptitle(f"{result['network']}, {result['backbone']}, batch {result['batch']}, {result['device']}")
    return figure
