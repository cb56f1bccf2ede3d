"""Figures: every function draws what it is given, in the scheme's colours, and the same bytes each time."""

import colorsys
import inspect
import itertools

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tlg_lib.look import figures as f
from tlg_lib.look.figures_inside import paired_dots, spread_curve

GENERATOR = np.random.default_rng(0)
IMAGE = GENERATOR.integers(0, 255, (32, 32, 3), dtype=np.uint8)
MASK = np.zeros((32, 32), np.uint8)
MASK[8:20, 8:20] = 1
MASK[20:22, 8:20] = 255
ENTRY = dict(
    support=IMAGE, support_mask=MASK, query=IMAGE, pseudo=MASK, prediction=MASK, truth=MASK, label="cat", iou=61.0
)
SCORES = {"extended-pixel": {0: 50.0, 1: 52.0, 2: 48.0, 3: 55.0}, "mask": {0: 40.0, 1: 41.0}}
CLASSES = {"extended-pixel": {"cat": 50.0, "dog": 70.0}, "mask": {"cat": 40.0}}

CALLS = {
    "contact_sheet": lambda: f.contact_sheet([IMAGE] * 5, list("abcde"), columns=3),
    "picture_row": lambda: f.picture_row([IMAGE, MASK.astype(float)], ["a", "b"]),
    "task_picture": lambda: f.task_picture(IMAGE, MASK, IMAGE, MASK, MASK, "cat"),
    "episode_rows": lambda: f.episode_rows([ENTRY, ENTRY], "two"),
    "fold_chart": lambda: f.fold_chart(["a", "b", "c", "d"], [0, 1, 2, 3], {0: (1, 2)}),
    "score_dots": lambda: f.score_dots(SCORES, "t", errors={"extended-pixel": 1.5}),
    "class_bars": lambda: f.class_bars(CLASSES, "t"),
    "shot_lines": lambda: f.shot_lines({"mask": {1: 40.0, 5: 42.0}}, "t"),
    "training_curves": lambda: f.training_curves(
        {"extended-pixel fold 0": {"step": [1, 2], "loss": [1.0, 0.5], "score_step": [2], "miou": [30.0]}}
    ),
    "threshold_curve": lambda: f.threshold_curve({"mask": ([0.1, 0.9], [30.0, 20.0])}, {"mask": 0.5}, "t"),
    "dumbbells": lambda: f.dumbbells({"fold 0": (50.0, 52.0)}, ("last", "best"), "t"),
    "agreement_scatter": lambda: f.agreement_scatter(np.array([10.0, 90.0]), np.array([20.0, 80.0]), "t"),
    "paper_dots": lambda: f.paper_dots({"TLG": {"labels": "I", "1": [1.0] * 5, "5": [2.0] * 5}}, {"ours": 1.5}, "t"),
    "heat_map": lambda: f.heat_map(pd.DataFrame({"m": {"cat": 50.0}}), "IoU"),
    "interval_rows": lambda: f.interval_rows({"a": (1.0, -0.5, 2.5), "b": (-3.0, -4.0, -2.0)}, "t"),
    "quality_curve": lambda: f.quality_curve({"extended-pixel": [(20.0, 40.0), (80.0, 82.0)]}, "t"),
}


def test_every_public_figure_is_tried_here():
    drawing = {
        name
        for name, function in inspect.getmembers(f, inspect.isfunction)
        if function.__module__ == f.__name__ and inspect.signature(function).return_annotation == "Figure"
    }
    assert drawing == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_same_input_same_bytes_and_the_callers_style_is_left_alone(name, tmp_path):
    with matplotlib.rc_context({"font.size": 33, "axes.facecolor": "red"}):
        first = f.save_figure(CALLS[name](), tmp_path / "a.png", "words")
        assert matplotlib.rcParams["font.size"] == 33
    second = f.save_figure(CALLS[name](), tmp_path / "b.png", "words")
    assert first.read_bytes() == second.read_bytes()
    with Image.open(first) as picture:
        assert picture.info["Description"] == "words"
        assert np.asarray(picture.convert("RGB")).std() > 5  # something is drawn


def test_smoke_note_is_drawn(tmp_path):
    plain = f.save_figure(CALLS["dumbbells"](), tmp_path / "a.png", "x")
    noted = f.save_figure(CALLS["dumbbells"](), tmp_path / "b.png", "x", note="smoke: figures mean nothing")
    with Image.open(plain) as a, Image.open(noted) as b:
        assert b.height > a.height


def test_a_logarithmic_axis_is_marked_with_numbers():
    """Its usual labels are formulas, which would stand there as $\\mathdefault{10^{-2}}$."""
    axes = spread_curve([0.005, 0.05, 5.0], {"a": [3, 2, 1]}, {"released": 0.5}).axes[0]
    low, high = axes.get_xlim()
    shown = [label.get_text() for tick, label in zip(axes.get_xticks(), axes.get_xticklabels()) if low <= tick <= high]
    assert shown == ["0.01", "0.1", "1"]


def test_overlay_against_a_pixel_by_pixel_sum():
    drawn = f.overlay(IMAGE, MASK, "truth", strength=0.5)
    colour = np.array([int(f.GREEN[i : i + 2], 16) for i in (1, 3, 5)])
    y, x = 14, 14  # well inside: half picture, half colour
    assert np.abs(drawn[y, x].astype(int) - (0.5 * IMAGE[y, x] + 0.5 * colour)).max() <= 1
    assert (drawn[8, 8] == colour).all()  # the outline is solid
    assert (drawn[0, 0] == IMAGE[0, 0]).all()  # outside nothing changes
    with pytest.raises(ValueError):
        f.overlay(IMAGE, MASK[:16])


def test_mean_bar_only_with_four_folds():
    axes = f.score_dots(SCORES, "t").axes[0]
    means = [t.get_text() for t in axes.texts if "." in t.get_text()]
    assert means == ["51.2"]  # of the four folds of the first method; the second has two folds and no mean


@pytest.mark.parametrize("scores, joined", [({"a": [50.0], "b": [40.0]}, 0), ({"a": [50.0, 51.0], "b": [40.0]}, 2)])
def test_only_several_seeds_are_joined(scores, joined):
    axes = paired_dots(scores).axes[0]
    assert sum(line.get_color() == f.PALE for line in axes.lines) == joined
    assert [t.get_text() for t in axes.texts] == [f"{np.mean(v):.1f}" for v in scores.values()]


def _seen(colour, kind):
    """A colour as a dichromat sees it: Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB."""
    matrix = {
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    }
    rgb = np.array(matplotlib.colors.to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return np.clip(np.array(matrix[kind]) @ linear, 0, 1) if kind else linear


@pytest.mark.parametrize("kind", [None, "deutan", "protan"])
def test_roles_stay_apart_for_colour_blind_readers(kind):
    for (_, a), (_, b) in itertools.combinations(f.ROLES.items(), 2):
        assert np.linalg.norm(_seen(a, kind) - _seen(b, kind)) > 0.09, (a, b)


def test_methods_have_their_own_colours_and_names():
    names, colours = zip(*f.METHODS.values())
    assert len(set(names)) == len(names) and len(set(colours)) == len(colours)
    assert all(colorsys.rgb_to_hls(*matplotlib.colors.to_rgb(c))[1] < 0.85 for c in colours)  # readable on white
