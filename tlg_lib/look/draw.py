"""Draw the mask of an object on a photograph: a box round it, or scribbles on it and beside it, cut out by GrabCut.

What is drawn is kept as text, the same that ``tlg predict --support-mask`` takes, so that it can be typed, changed and
copied as well; the keyboard needs nothing else.
"""

from __future__ import annotations

import base64

import ipywidgets
import numpy as np
import traitlets
from PIL import Image, ImageDraw

from ..errors import TLGError
from ..masks.drawn import drawn_mask, parse_shapes
from ..predict import as_photograph
from .figures import overlay
from .figures_inside import resized
from .widgets import LABELS, Picture, heading, reporting
from .widgets import WIDTH as NARROWEST

WIDTH = 420  # pixels of the photograph on the screen
SHARP = 640  # pixels that it is drawn with
BOX, INSIDE, OUTSIDE = "a box round the object", "scribbles on the object", "scribbles beside it"
APART = 30  # a scribble's points lie a side's length / APART from each other
COLOURS = {BOX: (213, 94, 0), INSIDE: (0, 158, 115), OUTSIDE: (213, 94, 0)}  # RGB


class Canvas(Picture):
    """A picture on which a drag draws. size: (width, height) of the photograph in pixels; boxed: whether a drag is
    shown as a box or as a line; stroke: {"points": [[x, y], ...], "at": time} of the last drag."""

    size = traitlets.List([1, 1]).tag(sync=True)
    boxed = traitlets.Bool(True).tag(sync=True)
    stroke = traitlets.Dict({}).tag(sync=True)


class MaskDrawer(ipywidgets.VBox):
    """A photograph and what is drawn on it.

    image: what ``as_photograph`` takes; value: what is there to begin with, as masks/drawn.py reads it. Controls:
    ``tool`` (Dropdown), ``text`` (Text), ``clear`` (Button), ``canvas``. ``value`` is the text of now, for
    ``FewShotPredictor.support(images, masks=[drawer.value])``; ``mask`` uint8 {0, 1} [H, W], or None where nothing is
    drawn or the widget says what is wrong with it.
    """

    def __init__(self, image, value: str = ""):
        self.image = as_photograph(image)
        self.mask: np.ndarray | None = None
        height, width = self.image.shape[:2]
        self.tool = ipywidgets.Dropdown(
            description="draw", options=[BOX, INSIDE, OUTSIDE], style=LABELS, layout={"width": "350px"}
        )
        self.text = ipywidgets.Text(
            value, description="as text", continuous_update=False, style=LABELS, layout={"width": "430px"}
        )
        self.clear = ipywidgets.Button(description="clear")
        self.canvas = Canvas(size=[width, height], width=min(WIDTH, max(NARROWEST, width)))
        self.message = ipywidgets.HTML()
        self.tool.observe(lambda change: setattr(self.canvas, "boxed", change["new"] == BOX), names="value")
        self.canvas.observe(lambda change: self._take(change["new"].get("points", [])), names="stroke")
        self.clear.on_click(lambda _: setattr(self.text, "value", ""))
        self.text.observe(self.update, names="value")
        self.update()
        help_text = "Drag a box round the object; scribbles on it and beside it put right what the cut got wrong."
        super().__init__(
            [
                heading("What is the object?", help_text),
                ipywidgets.HBox([self.tool, self.clear]),
                self.canvas,
                self.text,
                self.message,
            ]
        )

    @property
    def value(self) -> str:
        return self.text.value.strip()

    def _repr_mimebundle_(self, **options):
        """As a still picture too, for readers without a kernel."""
        still = base64.b64encode(self.canvas.data).decode()
        return {**super()._repr_mimebundle_(**options), "image/png": still}, {"image/png": {"alt": self.canvas.alt}}

    def _shapes(self) -> tuple[list, list, list] | None:
        """Boxes, points inside and outside; None where the text names a mask's file or cannot be read."""
        try:
            return parse_shapes(self.value, "the text")
        except TLGError:
            return None

    def _items(self) -> list[str]:
        """The text of these, one by one."""
        return self.value.replace(";", " ").split() if self._shapes() else []

    def _take(self, points: list) -> None:
        """A drag: a box takes the place of the boxes before, a scribble is added as points."""
        height, width = self.image.shape[:2]
        line = np.clip(np.asarray(points, dtype=float).reshape(-1, 2), 0, (width, height))
        if not len(line):
            return
        if self.tool.value == BOX:
            (x0, y0), (x1, y1) = line.min(0), line.max(0)
            others = [item for item in self._items() if item.count(",") == 1]
            if min(x1 - x0, y1 - y0) >= 2:  # less is a click
                self.text.value = " ".join([f"{x0:.0f},{y0:.0f},{x1:.0f},{y1:.0f}", *others])
            return
        kept: list[np.ndarray] = []
        for point in np.minimum(line, (width - 1, height - 1)):
            if not kept or np.abs(point - kept[-1]).max() >= max(height, width) / APART:
                kept.append(point)
        sign = "-" if self.tool.value == OUTSIDE else ""
        self.text.value = " ".join([*self._items(), *(f"{sign}{x:.0f},{y:.0f}" for x, y in kept)])

    def update(self, *_) -> None:
        self.mask = None
        self._cut()
        self._show()

    @reporting
    def _cut(self) -> None:
        if self.value:
            self.mask = drawn_mask(self.image, self.value)

    def _show(self) -> None:
        height, width = self.image.shape[:2]
        scale = SHARP / max(SHARP, height, width)
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        mask = None if self.mask is None else resized(self.mask, size, smooth=False)
        picture = Image.fromarray(overlay(resized(self.image, size), mask, "support"))
        if self.mask is not None and (shapes := self._shapes()):
            _draw(picture, shapes, scale)
        covers = "nothing is drawn yet" if mask is None else f"the object covers {100 * np.mean(self.mask):.0f}%"
        self.canvas.show(np.asarray(picture), f"The photograph; {covers}.", covers, WIDTH)


def _draw(picture: Image.Image, shapes: tuple[list, list, list], scale: float) -> None:
    """Boxes, points inside and points outside on the picture."""
    pen = ImageDraw.Draw(picture)
    for kind, found in zip((BOX, INSIDE, OUTSIDE), shapes):
        for numbers in found:
            at = [number * scale for number in numbers]
            if kind == BOX:
                pen.rectangle(at, outline=COLOURS[kind], width=2)
            else:
                pen.ellipse([at[0] - 4, at[1] - 4, at[0] + 4, at[1] + 4], fill=COLOURS[kind], outline="white")
