"""Pictures of the inner workings: heat maps, marked cells, transport plans, feature colours, stages of a mask.

Two kinds of pure functions: arrays to uint8 pictures by NumPy and Pillow alone (fast enough for the widgets),
and arrays to matplotlib figures in the scheme of figures.py.
"""

from __future__ import annotations

import functools
import io
import itertools
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from .figures import BLUE, GREEN, GREY, INK, ORANGE, PALE, PURPLE, VERMILLION, overlay, show_image, styled

HEAT = "cividis"  # readable with every kind of colour vision, and rising in lightness


# --- arrays to uint8 pictures


@functools.lru_cache(maxsize=4)
def _colours(name: str) -> np.ndarray:
    """uint8 [256, 3] of a matplotlib colour map."""
    return (matplotlib.colormaps[name](np.linspace(0, 1, 256))[:, :3] * 255).round().astype(np.uint8)


def resized(picture: np.ndarray, size: tuple[int, int], smooth: bool = True) -> np.ndarray:
    """uint8 [h, w(, 3)] to uint8 [*size(, 3)], bilinear or nearest."""
    way = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), way))


def heat(values: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
    """float [h, w] to uint8 [h, w, 3]; low and high (by default the extremes) get the ends of the colour map."""
    low = float(values.min()) if low is None else low
    high = float(values.max()) if high is None else high
    share = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    return _colours(HEAT)[(255 * share).round().astype(np.uint8)]


def heat_over(
    image: np.ndarray, values: np.ndarray, low: float | None = None, high: float | None = None, strength: float = 0.65
) -> np.ndarray:
    """A heat map [h, w] enlarged and laid over the greyed image uint8 [H, W, 3]. Returns uint8 [H, W, 3]."""
    colours = resized(heat(values, low, high), image.shape[:2]).astype(np.float32)
    grey = image.mean(-1, keepdims=True)
    return ((1 - strength) * grey + strength * colours).round().astype(np.uint8)


def mark_cell(image: np.ndarray, row: int, column: int, grid: tuple[int, int], colour: str = VERMILLION) -> np.ndarray:
    """Outline one cell of a grid laid over the image. Returns a copy, uint8 [H, W, 3]."""
    picture = image.copy()
    height, width = image.shape[:2]
    top, bottom = (round(height * r / grid[0]) for r in (row, row + 1))
    left, right = (round(width * c / grid[1]) for c in (column, column + 1))
    rim = max(1, round(min(height, width) / 80))
    inner = picture[top + rim : bottom - rim, left + rim : right - rim].copy()
    picture[top:bottom, left:right] = np.array(matplotlib.colors.to_rgb(colour)) * 255
    picture[top + rim : bottom - rim, left + rim : right - rim] = inner
    return picture


def png(picture: np.ndarray, width: int = 0) -> bytes:
    """PNG bytes of uint8 [H, W(, 3)], nearest-enlarged to ``width`` pixels where that is larger."""
    image = Image.fromarray(picture)
    if width > image.width:
        image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


# --- figures


def _bar(figure: Figure, axes, low: float, high: float, label: str) -> None:
    """A colour bar beside several axes whose pictures were coloured by ``heat``."""
    scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(low, high), HEAT)
    bar = figure.colorbar(scale, ax=axes, shrink=0.8, pad=0.015, aspect=18)
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)


@styled
def correlation_figure(
    query: np.ndarray,
    support: np.ndarray,
    cell: tuple[int, int],
    maps: Sequence[np.ndarray],
    strides: Sequence[int],
    title: str = "",
) -> Figure:
    """One query position and where it looks in the support, one panel per level.

    query, support uint8 [H, W, 3]; cell: (row, column) on the finest grid; maps: float [h, w] per level, fine to
    coarse; strides in pixels.
    """
    figure = Figure(figsize=(2.3 * (len(maps) + 1) + 0.9, 2.9), layout="constrained")
    axes = figure.subplots(1, len(maps) + 1)
    show_image(axes[0], mark_cell(query, *cell, maps[0].shape), "query: the position asked", VERMILLION)
    low, high = 0.0, max(float(m.max()) for m in maps)
    for ax, values, stride in zip(axes[1:], maps, strides):
        show_image(
            ax,
            heat_over(support, values, low, high),
            f"support, stride {stride} ({values.shape[0]} x {values.shape[1]})",
        )
    _bar(figure, list(axes[1:]), low, high, "cosine similarity")
    if title:
        figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
    return figure


@styled
def plan_figure(plans: Mapping[str, np.ndarray], title: str = "") -> Figure:
    """Matrices [N, M] side by side with their marginals as bars, all coloured on one scale, which the figure names.

    plans: label -> matrix. The bars above and at the right are the column and row sums over the uniform ones.
    """
    figure = Figure(figsize=(2.75 * len(plans) + 0.2, 3.6), layout="constrained")
    highest = max(float(plan.max()) for plan in plans.values())
    for part, (label, plan) in zip(np.atleast_1d(figure.subfigures(1, len(plans))), plans.items()):
        grid = part.subplots(2, 2, width_ratios=(5, 1), height_ratios=(1, 5))
        top, corner, main, right = grid[0, 0], grid[0, 1], grid[1, 0], grid[1, 1]
        corner.axis("off")
        main.imshow(plan, cmap=HEAT, vmin=0, vmax=highest, aspect="auto", interpolation="nearest")
        main.set(xlabel="answering token", ylabel="asking token", xticks=[], yticks=[])
        main.grid(False)
        total = plan.sum()
        columns, rows = plan.sum(0) / total * plan.shape[1], plan.sum(1) / total * plan.shape[0]
        top.bar(range(plan.shape[1]), columns, color=ORANGE, width=1.0)
        right.barh(range(plan.shape[0]), rows, color=ORANGE, height=1.0)
        top.axhline(1, color=INK, lw=0.8, ls="--")
        right.axvline(1, color=INK, lw=0.8, ls="--")
        top.set(xlim=(-0.5, plan.shape[1] - 0.5), xticks=[], yticks=[1], ylim=(0, max(1.25, columns.max())))
        right.set(ylim=(plan.shape[0] - 0.5, -0.5), yticks=[], xticks=[1], xlim=(0, max(1.25, rows.max())))
        for ax in (top, right):
            ax.grid(False)
            ax.tick_params(labelsize=7)
        part.suptitle(label, fontsize=10)
    title = f"{title}  (one scale: dark 0, bright {highest:.2g})".strip()
    figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
    return figure


@styled
def token_figure(
    asking: np.ndarray,
    answering: np.ndarray,
    token: int,
    grids: tuple[tuple[int, int], tuple[int, int]],
    shares: Mapping[str, np.ndarray],
    title: str = "",
) -> Figure:
    """Where one token's mass goes. asking, answering: uint8 pictures; shares: label -> float [rows, columns]."""
    figure = Figure(figsize=(2.3 * (len(shares) + 1) + 0.9, 2.9), layout="constrained")
    axes = figure.subplots(1, len(shares) + 1)
    row, column = divmod(token, grids[0][1])
    show_image(axes[0], mark_cell(asking, row, column, grids[0]), "the asking token", VERMILLION)
    low, high = min(float(s.min()) for s in shares.values()), max(float(s.max()) for s in shares.values())
    for ax, (label, share) in zip(axes[1:], shares.items()):
        show_image(ax, heat_over(answering, share, low, high), label)
    _bar(figure, list(axes[1:]), low, high, "share of its mass")
    if title:
        figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
    return figure


@styled
def spread_curve(
    regs: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    marks: Mapping[str, float],
    label: str = "entropy of the plan /\nentropy of the uniform plan",
    title: str = "",
) -> Figure:
    """Curves over the regularisation, on a logarithmic axis. marks: label -> reg, drawn as vertical lines."""
    figure = Figure(figsize=(6.6, 3.3), layout="constrained")
    axes = figure.subplots()
    for marker, colour, (name, values) in zip("osD", (BLUE, ORANGE, VERMILLION), curves.items()):
        axes.plot(regs, values, marker=marker, color=colour, label=name)
    axes.set(xscale="log", xlabel="regularisation", ylabel=label)
    axes.xaxis.set_major_formatter("{x:g}")  # the usual powers of ten are formulas, which STYLE turns off
    for name, reg in marks.items():
        axes.axvline(reg, color=GREY, lw=1, ls="--")
        axes.text(reg, 0.5, f" {name}", transform=axes.get_xaxis_transform(), color=GREY, fontsize=9)
    if len(curves) > 1:
        axes.legend()
    axes.set_title(title)
    return figure


@styled
def heat_row(
    maps: Mapping[str, np.ndarray],
    image: np.ndarray | None = None,
    unit: str = "",
    title: str = "",
    shared: bool = True,
    first: tuple[str, np.ndarray] | None = None,
) -> Figure:
    """Maps side by side, over an image where one is given.

    maps: label -> float [h, w]; shared: one colour scale for all, with a bar; first: a picture before them.
    """
    count = len(maps) + (first is not None)
    figure = Figure(figsize=(min(11.0, 2.1 * count + (0.9 if shared else 0)), 2.75), layout="constrained")
    axes = list(np.atleast_1d(figure.subplots(1, count)))
    if first is not None:
        show_image(axes.pop(0), first[1], first[0])
    low, high = min(float(m.min()) for m in maps.values()), max(float(m.max()) for m in maps.values())
    for ax, (label, values) in zip(axes, maps.items()):
        ends = (low, high) if shared else (None, None)
        show_image(ax, heat(values, *ends) if image is None else heat_over(image, values, *ends), label)
    if shared:
        _bar(figure, axes, low, high, unit)
    if title:
        figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
    return figure


@styled
def paired_dots(scores: Mapping[str, Sequence[float]], metric: str = "mIoU, percent", title: str = "") -> Figure:
    """Runs that differ only in the seed: a dot each, their mean as a bar, a row per setting; several seeds are joined.

    scores: label -> one score per seed, in the same order of seeds; a row may have fewer.
    """
    labels = list(scores)
    figure = Figure(figsize=(7.4, 0.62 * len(labels) + 1.25), layout="constrained")
    axes = figure.subplots()
    lines = {label: len(labels) - 1 - i for i, label in enumerate(labels)}  # the first on top
    seeds = max(map(len, scores.values()))
    for seed in range(seeds) if seeds > 1 else ():  # of a single one a line would only look like a trend
        joined = [(scores[label][seed], line) for label, line in lines.items() if len(scores[label]) > seed]
        axes.plot(*zip(*joined), color=PALE, lw=2, zorder=1)
    colours = itertools.cycle((GREY, BLUE, ORANGE, VERMILLION, GREEN, PURPLE))
    for (label, line), colour in zip(lines.items(), colours):
        axes.scatter(scores[label], [line] * len(scores[label]), color=colour, s=55, zorder=3, ec="white", lw=0.7)
        mean = float(np.mean(scores[label]))
        axes.plot([mean, mean], [line - 0.28, line + 0.28], color=colour, lw=3, zorder=2)
        axes.text(
            mean, line + 0.3, f"{mean:.1f}", ha="center", va="bottom", fontsize=9, fontweight="bold", color=colour
        )
    axes.set_yticks(list(lines.values()), labels)
    axes.set(xlabel=metric, ylim=(-0.55, len(labels) - 0.25))
    axes.margins(x=0.15)
    axes.grid(axis="y", visible=False)
    axes.set_title(title or "dots: seeds, joined; bar: their mean")
    return figure


@styled
def mask_stages_figure(
    image: np.ndarray, maps: Mapping[str, np.ndarray], mask: np.ndarray, truth: np.ndarray | None, title: str = ""
) -> Figure:
    """From an image to its pseudo mask: the image, each stage's map over it, the mask, and the truth where known."""
    count = 2 + len(maps) + (truth is not None)
    figure = Figure(
        figsize=(min(11.0, 2.0 * count), min(2.0, 11.0 / count) + 0.3 + 0.35 * bool(title)), layout="constrained"
    )
    axes = iter(figure.subplots(1, count))
    show_image(next(axes), image, "image")
    for label, values in maps.items():
        show_image(next(axes), heat_over(image, values, 0.0, 1.0), label)
    show_image(next(axes), overlay(image, mask, "pseudo"), "pseudo mask", ORANGE)
    if truth is not None:
        show_image(next(axes), overlay(image, truth, "truth"), "truth (scoring only)", INK)
    if title:
        figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
    return figure


@styled
def support_sheet(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    probabilities: np.ndarray,
    query: np.ndarray,
    truth: np.ndarray,
    voted: np.ndarray,
    scores: Sequence[float],
    total: float,
    title: str = "",
) -> Figure:
    """Each support with what it says of the query, and the vote of all.

    images uint8 [H, W, 3] and pseudo masks per support; probabilities float [K, H, W]; scores: IoU per shot.
    """
    shots = len(images)
    figure = Figure(figsize=(min(11.0, 2.0 * (shots + 1)), 4.6), layout="constrained")
    grid = figure.subplots(2, shots + 1)
    for k in range(shots):
        show_image(grid[0, k], overlay(images[k], masks[k], "pseudo"), f"support {k + 1}")
        show_image(grid[1, k], heat_over(query, probabilities[k], 0.0, 1.0), f"its say, IoU {scores[k]:.0f}")
    show_image(grid[0, shots], overlay(query, truth, "truth"), "query with truth")
    show_image(grid[1, shots], overlay(query, voted, "prediction"), f"the vote, IoU {total:.0f}", BLUE)
    if title:
        figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
    return figure
