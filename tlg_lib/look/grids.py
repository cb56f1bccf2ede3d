"""A widget without a kernel: its pictures for every setting of some controls, computed beforehand, in one image.

``shown_with(widget, precomputed(...))`` displays the widget and hands the grid along under a type of its own; a
notebook shows the widget, and the pages (runs/docs.py) show sliders that choose among the pictures.
"""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..errors import TLGError
from .figures_inside import mark_cell

MIME = "application/vnd.tlg.grid+json"
SIDE = 128  # pixels of a picture in the grid
TALLEST = 16383  # pixels that WebP allows
QUALITY = 62


@dataclass(frozen=True)
class Axis:
    """One control of a grid: values that a trait of an object takes in turn. texts: what a reader sees of them.

    A "row" and a "column" axis together are chosen by a click on the first picture.
    """

    label: str
    owner: object
    trait: str
    values: tuple
    texts: tuple[str, ...] = ()


def precomputed(axes: Sequence[Axis], pictures: Sequence, alt: str, line=None) -> dict:
    """The pictures (widgets.Picture) at every combination of the axes, the last turning fastest.

    line: a widget whose ``value`` is a line of figures below the pictures. The controls are put back as they were.
    Returns {"sprite": WebP in base64, frames one below the other, "panels", "axes": [{"label", "texts",
    "start"}], "captions", "alt"}. Raises TLGError where there are more frames than one image can hold.
    """
    frames: list[np.ndarray] = []
    captions: list[str] = []
    before = [getattr(axis.owner, axis.trait) for axis in axes]
    if np.prod([len(axis.values) for axis in axes]) * SIDE > TALLEST:
        raise TLGError(f"a grid of {[len(axis.values) for axis in axes]} settings is too large: leave some out")
    try:
        for setting in itertools.product(*(axis.values for axis in axes)):
            for axis, value in zip(axes, setting):
                setattr(axis.owner, axis.trait, value)
            frames.append(np.concatenate([_square(picture) for picture in pictures], axis=1))
            told = [picture.caption for picture in pictures] + ([line.value] if line is not None else [])
            captions.append(" | ".join(text for text in told if text))
    finally:
        for axis, value in zip(axes, before):
            setattr(axis.owner, axis.trait, value)
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(frames)).save(buffer, "WEBP", quality=QUALITY, method=4)
    described = [
        {"label": axis.label, "texts": [*(axis.texts or map(str, axis.values))], "start": _nearest(axis.values, value)}
        for axis, value in zip(axes, before)
    ]
    sprite = base64.b64encode(buffer.getvalue()).decode()
    return {"sprite": sprite, "panels": len(pictures), "axes": described, "captions": captions, "alt": alt}


def shown_with(widget, grid: dict) -> None:
    """Display a widget, its grid beside it for readers without a kernel."""
    from IPython.display import display

    bundle = widget._repr_mimebundle_()
    bundle = bundle[0] if isinstance(bundle, tuple) else bundle
    display({**bundle, MIME: grid}, raw=True)


def _square(picture) -> np.ndarray:
    """uint8 [SIDE, SIDE, 3], the chosen cell outlined where a picture has cells to choose."""
    shown = Image.open(io.BytesIO(picture.data)).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    if not getattr(picture, "pickable", False):
        return np.asarray(shown)
    return mark_cell(np.asarray(shown), picture.row, picture.column, (picture.rows, picture.columns))


def _nearest(values: Sequence, value) -> int:
    if value in values:
        return list(values).index(value)
    try:
        return int(np.argmin([abs(float(v) - float(value)) for v in values]))
    except (TypeError, ValueError):
        return 0
