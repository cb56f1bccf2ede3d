"""Pictures of a widget computed beforehand: every setting, in order, and the widget as it was."""

import base64
import io

import ipywidgets
import numpy as np
import pytest
from PIL import Image

from tlg_lib.errors import TLGError
from tlg_lib.look.grids import MIME, SIDE, Axis, precomputed, shown_with
from tlg_lib.look.widgets import Picture


class Shade(ipywidgets.VBox):
    """Grey as bright as the product of two sliders."""

    def __init__(self):
        self.a, self.b = (ipywidgets.IntSlider(value=1, min=0, max=3) for _ in range(2))
        self.picture = Picture()
        for slider in (self.a, self.b):
            slider.observe(self.update, names="value")
        self.update()
        super().__init__([self.a, self.b, self.picture])

    def update(self, *_):
        value = 25 * self.a.value * self.b.value
        self.picture.show(np.full((8, 8, 3), value, np.uint8), "grey", f"{self.a.value} times {self.b.value}")


def frames(grid):
    sprite = np.asarray(Image.open(io.BytesIO(base64.b64decode(grid["sprite"]))).convert("L"))
    assert sprite.shape[1] == SIDE * grid["panels"]
    return sprite.reshape(-1, SIDE, sprite.shape[1]).mean((1, 2))


def test_frames_follow_the_axes_the_last_turning_fastest():
    shade = Shade()
    grid = precomputed(
        [Axis("a", shade.a, "value", (1, 2, 3)), Axis("b", shade.b, "value", (0, 1))], [shade.picture], "x"
    )
    assert grid["captions"] == ["1 times 0", "1 times 1", "2 times 0", "2 times 1", "3 times 0", "3 times 1"]
    assert frames(grid) == pytest.approx([0, 25, 0, 50, 0, 75], abs=3)
    assert grid["axes"][1] == {"label": "b", "texts": ["0", "1"], "start": 1}


def test_the_widget_stands_as_it_was_also_after_an_error():
    shade = Shade()
    shade.a.value = 2
    precomputed([Axis("a", shade.a, "value", (0, 3))], [shade.picture], "x")
    assert (shade.a.value, shade.picture.caption) == (2, "2 times 1")
    with pytest.raises(Exception, match="no such picture"):
        precomputed([Axis("a", shade.a, "value", (0, 3))], [type("P", (), {"data": property(_raise)})()], "x")
    assert shade.a.value == 2


def _raise(_):
    raise ValueError("no such picture")


def test_a_start_between_two_values_is_the_nearest_and_texts_may_be_given():
    shade = Shade()
    grid = precomputed([Axis("a", shade.a, "value", (0, 3), ("none", "all"))], [shade.picture] * 2, "x")
    assert grid["axes"] == [{"label": "a", "texts": ["none", "all"], "start": 0}] and grid["panels"] == 2


def test_the_chosen_cell_is_outlined():
    shade = Shade()
    shade.picture.pickable, shade.picture.rows, shade.picture.columns = True, 2, 2
    grid = precomputed([Axis("row", shade.picture, "row", (0, 1))], [shade.picture], "x")
    sprite = np.asarray(Image.open(io.BytesIO(base64.b64decode(grid["sprite"]))).convert("RGB")).astype(int)
    marked = (sprite[..., 0] - sprite[..., 2] > 100).reshape(2, 2, SIDE // 2, SIDE).any((2, 3))  # frame, half
    assert marked.tolist() == [[True, False], [False, True]]


def test_more_than_one_image_can_hold_is_refused():
    shade = Shade()
    with pytest.raises(TLGError, match="too large"):
        precomputed([Axis("a", shade.a, "value", tuple(range(200)))], [shade.picture], "x")


def test_the_grid_travels_beside_the_widget(monkeypatch):
    shown = {}
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: shown.update(bundle))
    shown_with(Shade(), {"alt": "x"})
    assert shown[MIME] == {"alt": "x"} and "application/vnd.jupyter.widget-view+json" in shown
