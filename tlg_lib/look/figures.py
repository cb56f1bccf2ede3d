"""Figures: pure functions from arrays and tables to matplotlib figures, in one colour-blind-safe scheme.

Colours are those of Okabe and Ito ("Color universal design", 2008), and each has one meaning throughout: see
ROLES (things that are drawn over a photograph) and METHODS (things that are compared). No function touches
pyplot's global state, reads a file or looks at a clock, so the same input gives the same bytes.
"""

from __future__ import annotations

import functools
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from ..data.images import tint
from ..errors import TLGError
from ..machine.paths import atomic
from ..machine.terminal import signed

MAKER = "tlg_lib"  # in the header of every picture, by which ours are known

ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE = (
    "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
INK, GREY, PALE = "#222222", "#767676", "#E4E4E4"

# What a coloured region over a photograph stands for.
ROLES = {"truth": GREEN, "pseudo": ORANGE, "prediction": BLUE, "support": PURPLE}
# What is compared: key -> (name in words, colour). Keys are those of results.json.
METHODS = {
    "extended-pixel": ("TLG extended, pixel labels", BLUE),
    "extended-image": ("TLG extended, image labels", SKY),
    "extended-pixel-alone": ("its network alone, pixel labels", "#7AA6C8"),
    "extended-image-alone": ("its network alone, image labels", "#A9D3EE"),
    "extended-nomask-alone": ("its network alone, no query mask", "#C9C9C9"),
    "released-pixel": ("TLG as released, pixel labels", VERMILLION),
    "released-image": ("TLG as released, image labels", "#F2A27A"),
    "corrected-pixel": ("TLG corrected, pixel labels", "#8C4A2F"),
    "corrected-image": ("TLG corrected, image labels", "#C99A86"),
    "rival-pixel": ("fully supervised rival: 4D encoder, drawn supports", "#8A3A8F"),
    "hsnet-pixel": ("4D encoder alone, pixel labels", PURPLE),
    "hsnet-image": ("4D encoder alone, image labels", "#E5BBD2"),
    "fusion": ("best training-free fusion", GREEN),
    "base-fusion": ("fusion against the base background", "#7FC8B0"),
    "prototype": ("cosine prototype, no training", ORANGE),
    "mask": ("query's pseudo mask alone", GREY),
    "extended-nomask": ("control: no query mask", INK),
    "wrong-support": ("control: wrong support", "#A89B00"),  # yellow, darkened to be read on white
    "wrong-support-image": ("control: wrong support, image labels", "#C9BD45"),
    "wrong-support-rival": ("control: rival, wrong support", "#C7A3CA"),
}
STYLE = {
    "text.parse_math": False,  # names of files and settings may hold dollar signs
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": PALE,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
}


def styled(function):
    """Draw with the project's style whatever the caller's matplotlib settings are."""

    @functools.wraps(function)
    def inside(*args, **kwargs):
        with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE, "backend": matplotlib.get_backend()}):
            return function(*args, **kwargs)

    return inside


@styled
def save_figure(figure: Figure, path: str | Path, alt: str, note: str = "") -> Path:
    """Write a PNG whose description is ``alt``; ``note`` (as "smoke: figures mean nothing") is drawn above.

    The file holds no date and no version, so that it is the same for the same picture.
    """
    if note:
        figure.text(0.995, 1.005, note, ha="right", va="bottom", color=VERMILLION, fontsize=9, fontweight="bold")
    path = Path(path)
    with atomic(path) as file:
        figure.savefig(
            file, format="png", dpi=120, bbox_inches="tight", pad_inches=0.12,
            metadata={"Software": MAKER, "Description": alt},
        )  # fmt: skip
    return path


def refuse_overwriting(path: str | Path) -> None:
    """Raise TLGError where there is a file that save_figure did not write."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            ours = picture.info.get("Software") == MAKER
    except FileNotFoundError:
        return
    except Exception:  # Pillow raises many kinds for what is no picture
        ours = False
    if not ours:
        raise TLGError(f"{path} is there already and was not drawn here: name another file with --out")


def method_name(key: str) -> str:
    return METHODS[key][0] if key in METHODS else key


def method_colour(key: str) -> str:
    return METHODS[key][1] if key in METHODS else GREY


# --- pictures with masks


def overlay(image: np.ndarray, mask: np.ndarray | None, role: str = "prediction", strength: float = 0.5) -> np.ndarray:
    """An image with a mask drawn in its role's colour and a solid outline.

    image: uint8 [H, W, 3]; mask: {0, 1, 255} or bool [H, W] (255 is drawn grey); returns uint8 [H, W, 3].
    """
    if mask is None:
        return image
    return tint(image, mask, tuple(round(255 * c) for c in matplotlib.colors.to_rgb(ROLES[role])), strength)


def show_image(axes, image: np.ndarray, title: str = "", colour: str = INK, size: float = 9) -> None:
    axes.imshow(image, interpolation="nearest" if max(image.shape[:2]) < 64 else "antialiased")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for side in axes.spines.values():
        side.set_visible(False)
    if title:
        axes.set_title(title, fontsize=size, color=colour, fontweight="normal", loc="center")


@styled
def contact_sheet(images: Sequence[np.ndarray], titles: Sequence[str], columns: int = 10, title: str = "") -> Figure:
    """Many small pictures. images: uint8 [H, W, 3] each; one title each."""
    rows = math.ceil(len(images) / columns)
    figure = Figure(figsize=(min(11.0, 1.15 * columns), 1.35 * rows + 0.3 * bool(title)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, image, label in zip(grid.flat, images, titles):
        show_image(axes, image, label, size=8)
    if title:
        figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
    return figure


@styled
def picture_row(images: Sequence[np.ndarray], titles: Sequence[str], title: str = "", height: float = 2.2) -> Figure:
    """A few pictures side by side. images: uint8 [H, W, 3] or float [H, W] maps; one title each."""
    figure = Figure(figsize=(min(11.0, height * len(images)), height + 0.35 + 0.3 * bool(title)), layout="constrained")
    for axes, image, label in zip(np.atleast_1d(figure.subplots(1, len(images))), images, titles):
        show_image(axes, image, label)
    if title:
        figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
    return figure


@styled
def task_picture(
    support: np.ndarray,
    support_mask: np.ndarray,
    query: np.ndarray,
    query_mask: np.ndarray,
    prediction: np.ndarray,
    class_name: str,
    knows: str = "only the image-level label",
) -> Figure:
    """The task in one picture: support and label on the left, query and its mask, an arrow, the prediction.

    Images uint8 [H, W, 3], masks {0, 1, 255} [H, W]; the masks are the pseudo masks.
    """
    figure = Figure(figsize=(10, 4.5))
    places = [
        (0.02, 0.475, support, None, "support image", INK),
        (0.24, 0.475, support, (support_mask, "pseudo"), "its pseudo mask", ROLES["pseudo"]),
        (0.02, 0.0, query, None, "query image", INK),
        (0.24, 0.0, query, (query_mask, "pseudo"), "its pseudo mask", ROLES["pseudo"]),
    ]
    for left, bottom, image, mask, label, colour in places:
        picture = overlay(image, *mask) if mask else image
        show_image(figure.add_axes((left, bottom, 0.19, 0.40)), picture, label, colour)
    show_image(
        figure.add_axes((0.66, 0.08, 0.33, 0.73)),
        overlay(query, prediction, "prediction"),
        f"“{class_name}”, found in the query",
        ROLES["prediction"],
        11,
    )
    for start in (0.67, 0.20):
        figure.add_artist(FancyArrowPatch(
            (0.445, start), (0.515, 0.46), transform=figure.transFigure, color=GREY, arrowstyle="-|>",
            mutation_scale=16, connectionstyle="arc3,rad=0.0",
        ))  # fmt: skip
    figure.add_artist(
        FancyArrowPatch(
            (0.605, 0.45), (0.655, 0.45), transform=figure.transFigure, color=GREY, arrowstyle="-|>", mutation_scale=16
        )
    )
    figure.text(
        0.56, 0.45, "TLG", ha="center", va="center", fontsize=17, fontweight="bold", color="white",
        bbox=dict(boxstyle="round,pad=0.5", facecolor=BLUE, edgecolor="none"),
    )  # fmt: skip
    figure.text(0.56, 0.30, "one shared network,\ntwo perspectives", ha="center", va="center", fontsize=8.5, color=GREY)
    figure.text(
        0.02, 0.985, f"A class never seen in training: “{class_name}”. Known: {knows}.", ha="left", va="top",
        fontsize=11, fontweight="bold",
    )  # fmt: skip
    return figure


@styled
def episode_rows(episodes: Sequence[Mapping], title: str = "") -> Figure:
    """One row per episode: support, query, pseudo mask, prediction, truth.

    Each entry: support, query uint8 [H, W, 3]; support_mask, pseudo, prediction, truth {0, 1, 255} [H, W];
    label (class name) and iou in percent.
    """
    figure = Figure(figsize=(9.2, 1.86 * len(episodes) + 0.35 + 0.3 * bool(title)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    grid = figure.subplots(len(episodes), 5, squeeze=False)
    heads = (
        ("support + pseudo mask", INK),
        ("query", INK),
        ("its pseudo mask", ROLES["pseudo"]),
        ("prediction", ROLES["prediction"]),
        ("truth (scoring only)", ROLES["truth"]),
    )
    for line, (axes, entry) in enumerate(zip(grid, episodes)):
        query = entry["query"]
        pictures = (
            overlay(entry["support"], entry.get("support_mask"), "pseudo"),
            query,
            overlay(query, entry["pseudo"], "pseudo"),
            overlay(query, entry["prediction"], "prediction"),
            overlay(query, entry["truth"], "truth"),
        )
        for column, (ax, picture, (head, colour)) in enumerate(zip(axes, pictures, heads)):
            show_image(ax, picture, head if line == 0 else "", colour)
            if column == 0:
                ax.set_ylabel(textwrap.fill(entry["label"], 14), fontsize=9, fontweight="bold")
            if column == 3:
                ax.text(
                    0.03, 0.97, f"IoU {entry['iou']:.0f}", transform=ax.transAxes, va="top", fontsize=8, color="white",
                    bbox=dict(boxstyle="round,pad=0.25", facecolor=INK, alpha=0.75, edgecolor="none"),
                )  # fmt: skip
    if title:
        figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
    return figure


# --- data


@styled
def fold_chart(names: Sequence[str], fold_of: Sequence[int], counts: Mapping[int, tuple[int, int]]) -> Figure:
    """Classes as tiles in four fold columns. fold_of: fold per class; counts: class -> (training, test) rows."""
    figure = Figure(figsize=(9.2, 0.46 * max(list(fold_of).count(f) for f in range(4)) + 0.7), layout="constrained")
    axes = figure.subplots()
    colours = (BLUE, ORANGE, GREEN, PURPLE)
    deepest = 0
    for fold in range(4):
        members = [c for c, f in enumerate(fold_of) if f == fold]
        deepest = max(deepest, len(members))
        for line, c in enumerate(members):
            axes.add_patch(matplotlib.patches.FancyBboxPatch(
                (fold + 0.05, -line - 0.86), 0.88, 0.72, boxstyle="round,pad=0.0,rounding_size=0.06",
                facecolor=colours[fold], alpha=0.18, edgecolor=colours[fold],
            ))  # fmt: skip
            train, test = counts.get(c, (0, 0))
            axes.text(fold + 0.1, -line - 0.5, f"{c}  {names[c]}", va="center", fontsize=9.5)
            axes.text(fold + 0.88, -line - 0.5, f"{train} / {test}", va="center", ha="right", fontsize=8, color=GREY)
        axes.text(fold + 0.05, 0.1, f"fold {fold} holds out", color=INK, fontweight="bold", va="bottom")
    axes.set(xlim=(0, 4), ylim=(-deepest, 0.55))
    axes.axis("off")
    return figure


# --- scores


@styled
def score_dots(
    table: Mapping[str, Mapping[int, float]],
    title: str,
    metric: str = "mIoU, percent",
    errors: Mapping[str, float] | None = None,
) -> Figure:
    """Methods as lines, folds as numbered dots, the mean (of all four folds only) as a bar with its figure.

    table: method key -> {fold: score}; errors: method key -> half width of the mean's 95% interval over seeds.
    """
    keys = list(table)
    figure = Figure(figsize=(9.2, 0.52 * len(keys) + 1.1), layout="constrained")
    axes = figure.subplots()
    for line, key in enumerate(reversed(keys)):
        scores = table[key]
        colour = method_colour(key)
        if len(scores) == 4:
            mean = float(np.mean(list(scores.values())))
            axes.barh(line, mean, color=colour, alpha=0.28, height=0.62)
            axes.plot([mean, mean], [line - 0.31, line + 0.31], color=colour, lw=3)
            if errors and key in errors:
                axes.errorbar(mean, line, xerr=errors[key], color=INK, capsize=3, lw=1)
            axes.text(1.5, line, f"{mean:.1f}", va="center", fontweight="bold", fontsize=10)
        for place, (fold, score) in enumerate(scores.items()):  # one above the other, so that none is hidden
            axes.text(
                score, line + 0.065 * (len(scores) - 1 - 2 * place), str(fold), va="center", ha="center", fontsize=7,
                fontweight="bold", color="white",
                bbox=dict(boxstyle="circle,pad=0.2", facecolor=colour, edgecolor="white", lw=0.6),
            )  # fmt: skip
    axes.set_yticks(range(len(keys)), [method_name(k) for k in reversed(keys)])
    most = max((s for v in table.values() for s in v.values()), default=1.0)
    axes.set(xlim=(0, max(10.0, min(100.0, most * 1.12))), ylim=(-0.6, len(keys) - 0.4), xlabel=metric)
    axes.grid(axis="y", visible=False)
    axes.set_title(f"{title}  (bar: mean of the four folds; dots: folds)", fontsize=10.5)
    return figure


@styled
def class_bars(table: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """IoU per class. table: method key -> {class name: IoU in percent}; classes sorted by the first method."""
    keys = list(table)
    names = sorted(table[keys[0]], key=lambda n: table[keys[0]][n])
    figure = Figure(figsize=(9.2, max(2.6, 0.30 * len(names) + 1.2)), layout="constrained")
    axes = figure.subplots()
    for line, name in enumerate(names):
        values = [table[k][name] for k in keys if name in table[k]]
        axes.plot([min(values), max(values)], [line, line], color=PALE, lw=3, zorder=1, solid_capstyle="round")
    for marker, key in zip("osD^vP", keys):
        places = [(table[key][n], i) for i, n in enumerate(names) if n in table[key]]
        axes.scatter(
            *zip(*places), color=method_colour(key), marker=marker, s=46, label=method_name(key), zorder=3,
            edgecolor="white", lw=0.6,
        )  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.set(xlim=(0, 100), ylim=(-0.7, len(names) - 0.3), xlabel="IoU, percent")
    axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@styled
def shot_lines(table: Mapping[str, Mapping[int, float]], title: str) -> Figure:
    """mIoU over the number of support images. table: method key -> {shots: mIoU}."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.subplots()
    shots = sorted({s for scores in table.values() for s in scores})
    for marker, (key, scores) in zip("osD^vPX*", table.items()):
        axes.plot(
            [shots.index(s) for s in sorted(scores)],
            [scores[s] for s in sorted(scores)],
            marker=marker,
            color=method_colour(key),
            label=method_name(key),
        )
    axes.set_xticks(range(len(shots)), [f"{s}-shot" for s in shots])
    axes.set(ylabel="mIoU, percent", xlim=(-0.3, len(shots) - 0.7))
    axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@styled
def training_curves(histories: Mapping[str, Mapping[str, Sequence[float]]], title: str = "") -> Figure:
    """Loss and mIoU while training, one line per run; folds of one method share a colour.

    histories: "<method key> fold N" -> {"step": [...], "loss": [...], "score_step": [...], "miou": [...]}.
    """
    figure = Figure(figsize=(9.2, 3.4), layout="constrained")
    loss, score = figure.subplots(1, 2)
    named = set()
    for label, history in histories.items():
        key = label.split(" fold ")[0]
        name = method_name(key) if key not in named else None
        named.add(key)
        loss.plot(history["step"], history["loss"], color=method_colour(key), alpha=0.8, lw=1.3, label=name)
        score.plot(
            history["score_step"], history["miou"], color=method_colour(key), alpha=0.8, lw=1.3, marker="o", ms=3
        )
    loss.set(xlabel="step", ylabel="training loss")
    loss.set_title("loss")
    score.set(xlabel="step", ylabel="mIoU on hidden classes")
    score.set_title("score in percent (short list of episodes)")
    figure.legend(loc="outside lower center", ncols=2)
    if title:
        figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
    return figure


@styled
def threshold_curve(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], chosen: Mapping[str, float], title: str
) -> Figure:
    """mIoU over the probability threshold. curves: method key -> (thresholds, mIoU); chosen: key -> threshold."""
    figure = Figure(figsize=(6.8, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0.5, color=GREY, lw=1, ls="--")
    axes.text(0.5, 1.0, " 0.5", transform=axes.get_xaxis_transform(), va="top", color=GREY, fontsize=9)
    for marker, (key, (thresholds, scores)) in zip("osD^vP", curves.items()):
        axes.plot(thresholds, scores, color=method_colour(key), label=method_name(key))
        if key in chosen:
            axes.plot(
                chosen[key], np.interp(chosen[key], thresholds, scores), marker, color=method_colour(key), ms=9,
                markeredgecolor="white",
            )  # fmt: skip
    axes.set(xlabel="foreground from this probability on", ylabel="mIoU, percent", xlim=(0, 1))
    axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@styled
def dumbbells(
    pairs: Mapping[str, tuple[float, float]], names: tuple[str, str], title: str, metric: str = "mIoU, percent"
) -> Figure:
    """Two figures per line joined by a bar, with their difference. pairs: label -> (first, second)."""
    figure = Figure(figsize=(8.2, 0.44 * len(pairs) + 1.5), layout="constrained")
    axes = figure.subplots()
    labels = list(pairs)[::-1]
    for line, label in enumerate(labels):
        first, second = pairs[label]
        axes.plot([first, second], [line, line], color=PALE, lw=5, solid_capstyle="round", zorder=1)
        axes.text(max(first, second), line, f"   {signed(second - first)}", va="center", fontsize=9, color=INK)
    for index, (colour, marker) in enumerate(((BLUE, "o"), (ORANGE, "D"))):
        axes.scatter(
            [pairs[name][index] for name in labels], range(len(labels)), color=colour, marker=marker, s=60, zorder=3,
            label=names[index], edgecolor="white", lw=0.6,
        )  # fmt: skip
    values = [v for pair in pairs.values() for v in pair]
    spread = max(2.0, max(values) - min(values))
    axes.set(
        xlim=(max(0, min(values) - 0.15 * spread), max(values) + 0.3 * spread),
        ylim=(-0.6, len(labels) - 0.4),
        xlabel=metric,
    )
    axes.set_yticks(range(len(labels)), labels)
    axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@styled
def interval_rows(
    differences: Mapping[str, tuple[float, float, float]], title: str, unit: str = "mIoU, points"
) -> Figure:
    """Differences with their intervals beside a line at zero. differences: label -> (difference, low, high)."""
    figure = Figure(figsize=(8.2, 0.44 * len(differences) + 1.2), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=GREY, lw=1, ls="--")
    labels = list(differences)[::-1]
    for line, label in enumerate(labels):
        middle, low, high = differences[label]
        colour = GREY if low <= 0 <= high else BLUE if low > 0 else VERMILLION
        axes.plot([low, high], [line, line], color=colour, lw=3, solid_capstyle="butt")
        axes.plot(middle, line, "o", color=colour, ms=8, markeredgecolor="white")
        axes.text(high, line, f"  {signed(middle)}", va="center", fontsize=9)
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel=f"{unit} (bar: 95% interval)", ylim=(-0.6, len(labels) - 0.4))
    axes.margins(x=0.12)
    axes.grid(axis="y", visible=False)
    axes.set_title(title)
    return figure


@styled
def quality_curve(curves: Mapping[str, Sequence[tuple[float, float]]], title: str) -> Figure:
    """Methods over the quality of the masks that went in, with the diagonal of no gain.

    curves: method key -> (IoU of the masks, IoU of the method) per bin, percent.
    """
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color=GREY, lw=1, ls=":")
    for marker, (key, points) in zip("osD^vPX*", curves.items()):
        axes.plot(*zip(*points), marker=marker, color=method_colour(key), label=method_name(key))
    axes.set(
        xlim=(0, 100), ylim=(0, 100), xlabel="IoU of the query's mask, percent", ylabel="IoU of the answer, percent"
    )
    axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@styled
def agreement_scatter(with_mask: np.ndarray, with_truth: np.ndarray, title: str) -> Figure:
    """Is the prediction a copy of the mask? One dot per episode: IoU with the pseudo mask, IoU with the truth."""
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color=GREY, lw=1, ls="--")
    axes.scatter(with_mask, with_truth, s=9, color=BLUE, alpha=0.35, lw=0)
    axes.set(
        xlim=(0, 100),
        ylim=(0, 100),
        xlabel="IoU of prediction and pseudo mask",
        aspect="equal",
        ylabel="IoU of prediction and truth",
    )
    axes.set_title(title, fontsize=10)
    return figure


@styled
def paper_dots(published: Mapping[str, Mapping], ours: Mapping[str, float], title: str) -> Figure:
    """The paper's table as dots: name -> {"labels": "P" or "I", "1": [four folds, mean], "5": ...}.

    ours: label -> 1-shot mean mIoU of comparable runs, drawn as lines; empty where none is comparable.
    """
    names = sorted(published, key=lambda n: published[n]["1"][-1])
    figure = Figure(figsize=(8.2, 0.34 * len(names) + 1.5), layout="constrained")
    axes = figure.subplots()
    for line, name in enumerate(names):
        entry = published[name]
        colour = BLUE if entry["labels"] == "P" else ORANGE
        axes.plot(entry["1"][-1], line, "o", color=colour, ms=8, markeredgecolor="white")
        if "5" in entry:
            axes.plot(entry["5"][-1], line, "D", color=colour, ms=7, markerfacecolor="none")
    for label, score in ours.items():
        axes.axvline(score, color=GREEN, lw=2)
        axes.text(score, len(names) - 0.45, f" {label}", color=GREEN, fontsize=8.5, va="bottom")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="mean mIoU of the four folds, percent", ylim=(-0.6, len(names) + 0.1))
    axes.set_title(title)
    handles = [
        matplotlib.lines.Line2D([], [], ls="", marker=m, color=c, markerfacecolor=f, label=name)
        for m, c, f, name in (
            ("o", BLUE, BLUE, "pixel labels, 1-shot"),
            ("D", BLUE, "none", "pixel labels, 5-shot"),
            ("o", ORANGE, ORANGE, "image labels, 1-shot"),
            ("D", ORANGE, "none", "image labels, 5-shot"),
        )
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


@styled
def heat_map(table, label: str) -> Figure:
    """A pandas table of scores 0..100 (rows: classes, columns: methods) as a heat map with its figures."""
    import seaborn

    # As wide as its columns' names need side by side.
    figure = Figure(figsize=(max(9.2, 2.4 + 0.82 * len(table.columns)), 0.3 * len(table) + 1.9), layout="constrained")
    axes = figure.subplots()
    named = table.rename(columns=lambda name: textwrap.fill(name, 13))
    seaborn.heatmap(
        named, ax=axes, cmap="cividis", vmin=0, vmax=100, annot=True, fmt=".0f", linewidths=0.5, annot_kws={"size": 8},
        cbar_kws={"label": label, "shrink": 0.6},
    )  # fmt: skip
    axes.grid(False)
    axes.set(xlabel="", ylabel="")
    axes.tick_params(axis="x", labelsize=8, rotation=0, length=0)
    axes.tick_params(axis="y", labelsize=9, rotation=0, length=0)
    return figure
