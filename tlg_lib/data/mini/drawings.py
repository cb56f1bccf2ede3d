"""Our own silhouettes of the mini benchmark, in unit coordinates: x to the right, y downwards."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

CANVAS = 320  # pixels a side of a glyph image; objects are warped from it onto the picture


class Pen:
    """Draws filled pieces into the shape and, with detail=True, also into the second-colour layer."""

    side = 2 * CANVAS

    def __init__(self):
        self.shape, self.detail = (Image.new("L", (self.side, self.side)) for _ in range(2))

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return tuple(np.asarray(i, np.float64) / 255 for i in (self.shape, self.detail))

    def _layers(self, detail: bool, only: bool) -> list[tuple[ImageDraw.ImageDraw, int]]:
        shape, accents = ImageDraw.Draw(self.shape), ImageDraw.Draw(self.detail)
        if only:  # mark what is already there
            return [(accents, 255)]
        return [(shape, 255), (accents, 255 if detail else 0)]

    def polygon(self, points, *, detail: bool = False, only: bool = False):
        scaled = [(x * self.side, y * self.side) for x, y in points]
        for draw, value in self._layers(detail, only):
            draw.polygon(scaled, fill=value)

    def ellipse(self, x, y, rx, ry=None, *, detail: bool = False, only: bool = False):
        ry = rx if ry is None else ry
        box = [(x - rx) * self.side, (y - ry) * self.side, (x + rx) * self.side, (y + ry) * self.side]
        for draw, value in self._layers(detail, only):
            draw.ellipse(box, fill=value)

    def box(self, x0, y0, x1, y1, radius=0.0, *, detail: bool = False, only: bool = False):
        for draw, value in self._layers(detail, only):
            draw.rounded_rectangle(
                [x0 * self.side, y0 * self.side, x1 * self.side, y1 * self.side], radius * self.side, fill=value
            )

    def stroke(self, points, *widths, detail: bool = False, only: bool = False):
        """A line with round ends whose half width runs evenly through ``widths``."""
        points = np.asarray(points, float)
        radii = np.interp(np.linspace(0, 1, len(points)), np.linspace(0, 1, len(widths)), widths)
        for (a, r0), (b, r1) in zip(zip(points, radii), zip(points[1:], radii[1:])):
            across = np.array([a[1] - b[1], b[0] - a[0]]) / max(1e-9, math.dist(a, b))
            self.polygon([a + across * r0, b + across * r1, b - across * r1, a - across * r0], detail=detail, only=only)
        for p, r in zip(points, radii):
            self.ellipse(*p, r, detail=detail, only=only)

    def ring(self, x, y, radius, width):
        """A circle line of half width ``width``; what lay within it stays."""
        turn = np.linspace(0, 2 * np.pi, 49)
        self.stroke(list(zip(x + radius * np.cos(turn), y + radius * np.sin(turn))), width)


def _curve(*points, steps: int = 8) -> list[tuple[float, float]]:
    """Catmull-Rom curve through the points."""
    p = np.asarray([points[0], *points, points[-1]], float)
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    pieces = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(p, p[1:], p[2:], p[3:])
    ]
    return [tuple(q) for q in np.concatenate([*pieces, p[-1:]])]


def _legs(pen, tops, feet, width, foot_width, *, knee=0.0, hoof=True):
    """One leg per pair (top, foot); knee bends it; the last part is the hoof, of the second colour."""
    for i, (top, foot) in enumerate(zip(tops, feet)):
        top, foot = np.array(top), np.array(foot)
        middle = (top + foot) / 2 + np.array([knee if i < len(tops) // 2 else -knee, 0])
        pen.stroke([top, middle, foot], width, foot_width)
        if hoof:
            pen.stroke([foot - (foot - middle) * 0.12, foot], foot_width * 1.1, detail=True)


def _cow(pen, head, muzzle, feet, patches=((0.42, 0.40, 0.09), (0.62, 0.46, 0.10), (0.28, 0.50, 0.06))):
    pen.stroke([(0.25, 0.44), (0.50, 0.45), (0.72, 0.43)], 0.145, 0.16, 0.14)
    _legs(pen, [(0.20, 0.50), (0.30, 0.52), (0.66, 0.52), (0.77, 0.50)], feet, 0.055, 0.028)
    pen.ellipse(0.36, 0.60, 0.055, 0.045)  # udder
    pen.stroke(_curve((0.14, 0.38), (0.09, 0.46), (0.10, 0.62)), 0.016)
    pen.ellipse(0.10, 0.65, 0.022, 0.035, detail=True)
    pen.stroke([(0.76, 0.40), head], 0.10, 0.065)
    pen.stroke([head, muzzle], 0.068, 0.05)
    pen.stroke([muzzle, muzzle], 0.045, detail=True)
    hx, hy = head
    pen.stroke(
        _curve((hx - 0.01, hy - 0.05), (hx + 0.02, hy - 0.11), (hx + 0.07, hy - 0.14)), 0.018, 0.008, detail=True
    )
    pen.stroke([(hx - 0.02, hy - 0.03), (hx - 0.10, hy - 0.06)], 0.03, 0.014)
    for x, y, r in patches:
        pen.ellipse(x, y, r, r * 0.8, only=True)


def _horse(pen, head, muzzle, feet, tail):
    pen.stroke([(0.26, 0.44), (0.48, 0.45), (0.66, 0.43)], 0.125, 0.115, 0.125)
    _legs(pen, [(0.20, 0.48), (0.29, 0.50), (0.64, 0.50), (0.72, 0.46)], feet, 0.06, 0.022, knee=0.02)
    pen.stroke([(0.68, 0.40), head], 0.10, 0.062)
    pen.stroke([head, muzzle], 0.06, 0.036)
    hx, hy = head
    pen.polygon([(hx - 0.05, hy - 0.03), (hx - 0.02, hy - 0.12), (hx + 0.03, hy - 0.04)])
    pen.stroke(_curve((hx - 0.05, hy - 0.05), (0.68, (hy + 0.36) / 2), (0.60, 0.36)), 0.03, 0.035, detail=True)  # mane
    pen.stroke(_curve((0.15, 0.38), *tail), 0.03, 0.05, 0.018, detail=True)
    pen.ellipse(hx + 0.02, hy, 0.010, only=True)


def _sheep(pen, centre, head, feet, legs=True):
    cx, cy = centre
    if legs:
        for top, foot in zip([cx - 0.17, cx - 0.08, cx + 0.10, cx + 0.19], feet):
            pen.stroke([(top, cy + 0.1), foot], 0.034, 0.027, detail=True)
    pen.ellipse(cx, cy, 0.27, 0.18)
    for turn in np.linspace(0, 2 * np.pi, 15, endpoint=False):
        pen.ellipse(cx + 0.25 * math.cos(turn), cy + 0.165 * math.sin(turn), 0.068)
    hx, hy = head
    pen.stroke([(hx - 0.02, hy - 0.04), (hx + 0.045, hy + 0.07)], 0.07, 0.045, detail=True)
    pen.stroke([(hx - 0.05, hy - 0.04), (hx - 0.13, hy + 0.01)], 0.03, 0.02, detail=True)
    pen.ellipse(hx - 0.03, hy - 0.10, 0.06, 0.045)  # tuft of wool
    pen.ellipse(cx - 0.30, cy - 0.02, 0.045, 0.055)


def _dog(pen, head, muzzle, feet, tail, slim=1.0):
    pen.stroke([(0.30, 0.50), (0.48, 0.50), (0.68, 0.47)], 0.085 * slim, 0.08 * slim, 0.115 * slim)
    _legs(pen, [(0.27, 0.53), (0.34, 0.54), (0.65, 0.53), (0.72, 0.52)], feet, 0.055, 0.026, knee=0.025, hoof=False)
    pen.stroke([(0.70, 0.44), head], 0.085, 0.068)
    pen.ellipse(*head, 0.085, 0.075)
    pen.stroke([head, muzzle], 0.06, 0.036)
    pen.ellipse(muzzle[0] + 0.018, muzzle[1] - 0.012, 0.02, only=True)
    hx, hy = head
    pen.stroke(
        _curve((hx - 0.03, hy - 0.05), (hx - 0.09, hy), (hx - 0.075, hy + 0.09)), 0.03, 0.045, 0.025, detail=True
    )
    pen.stroke(_curve((0.24, 0.46), *tail), 0.03, 0.014)
    pen.ellipse(hx + 0.03, hy - 0.02, 0.012, only=True)


def _cat_head(pen, x, y, size=1.0):
    """Seen from the front: round, with pointed ears, eyes and nose in the second colour."""
    pen.ellipse(x, y, 0.12 * size, 0.10 * size)
    for side in (-1, 1):
        pen.polygon(
            [
                (x + side * 0.115 * size, y - 0.01),
                (x + side * 0.105 * size, y - 0.17 * size),
                (x + side * 0.015 * size, y - 0.08 * size),
            ]
        )
        pen.polygon(
            [
                (x + side * 0.092 * size, y - 0.06 * size),
                (x + side * 0.092 * size, y - 0.13 * size),
                (x + side * 0.045 * size, y - 0.08 * size),
            ],
            only=True,
        )
        pen.ellipse(x + side * 0.05 * size, y - 0.01 * size, 0.018 * size, 0.026 * size, only=True)
    pen.polygon(
        [(x - 0.02 * size, y + 0.035 * size), (x + 0.02 * size, y + 0.035 * size), (x, y + 0.06 * size)], only=True
    )


def _cat(pen, feet, tail, head=(0.78, 0.36), stripes=True):
    pen.stroke(_curve((0.26, 0.50), (0.48, 0.46), (0.70, 0.48)), 0.095, 0.085, 0.09)
    _legs(pen, [(0.22, 0.54), (0.30, 0.54), (0.66, 0.54), (0.73, 0.53)], feet, 0.05, 0.027, hoof=False)
    pen.stroke(_curve((0.20, 0.46), *tail), 0.03, 0.022)
    _cat_head(pen, *head)
    for x in (0.34, 0.43, 0.52) if stripes else ():
        pen.stroke([(x, 0.38), (x + 0.015, 0.46)], 0.014, 0.006, only=True)


def _sheep_lying(pen):
    pen.stroke([(0.30, 0.66), (0.52, 0.68)], 0.035, detail=True)
    _sheep(pen, (0.44, 0.52), (0.71, 0.40), [], legs=False)


def _dog_sitting(pen):
    pen.stroke(_curve((0.34, 0.74), (0.44, 0.56), (0.58, 0.38)), 0.15, 0.135, 0.10)
    pen.stroke([(0.56, 0.50), (0.60, 0.88)], 0.06, 0.034)
    pen.stroke([(0.34, 0.84), (0.54, 0.89)], 0.07, 0.034)
    pen.stroke(_curve((0.24, 0.80), (0.12, 0.82), (0.06, 0.72)), 0.035, 0.014)
    pen.ellipse(0.62, 0.26, 0.105, 0.095)
    pen.stroke([(0.62, 0.27), (0.78, 0.31)], 0.07, 0.042)
    pen.ellipse(0.80, 0.295, 0.022, only=True)
    pen.stroke(_curve((0.58, 0.18), (0.51, 0.27), (0.53, 0.38)), 0.03, 0.05, 0.03, detail=True)
    pen.ellipse(0.66, 0.235, 0.014, only=True)


def _cat_sitting(pen):
    pen.stroke(_curve((0.50, 0.78), (0.50, 0.58), (0.52, 0.40)), 0.20, 0.15, 0.09)
    for x in (0.46, 0.56):
        pen.stroke([(x, 0.62), (x, 0.93)], 0.045, 0.04)
    pen.stroke(_curve((0.64, 0.90), (0.84, 0.90), (0.84, 0.70), (0.76, 0.62)), 0.035, 0.028)
    _cat_head(pen, 0.51, 0.30, 1.2)


def _cat_lying(pen):
    pen.stroke(_curve((0.22, 0.62), (0.45, 0.56), (0.68, 0.62)), 0.14, 0.13, 0.10)
    pen.stroke([(0.60, 0.70), (0.84, 0.72)], 0.04)
    pen.stroke([(0.20, 0.72), (0.40, 0.73)], 0.045)
    pen.stroke(_curve((0.10, 0.68), (0.00, 0.60), (0.03, 0.44)), 0.03, 0.022)
    _cat_head(pen, 0.76, 0.48, 1.1)


def _wheels(pen, xs, y, radius, width, spokes=0):
    for x in xs:
        pen.ring(x, y, radius, width)
        pen.ellipse(x, y, width * 1.4)
        for turn in np.linspace(0, 2 * np.pi, spokes, endpoint=False):
            pen.stroke([(x, y), (x + radius * math.cos(turn), y + radius * math.sin(turn))], 0.006)


def _bicycle_racer(pen):
    _wheels(pen, (0.22, 0.78), 0.62, 0.19, 0.018, 6)
    for line in (
        [(0.22, 0.62), (0.47, 0.63), (0.70, 0.36)],
        [(0.22, 0.62), (0.40, 0.36), (0.70, 0.36)],
        [(0.40, 0.33), (0.47, 0.63)],
        [(0.68, 0.30), (0.78, 0.62)],
    ):
        pen.stroke(line, 0.017)
    pen.stroke([(0.34, 0.32), (0.46, 0.31)], 0.022)
    pen.stroke(_curve((0.67, 0.30), (0.77, 0.29), (0.79, 0.36), (0.73, 0.39)), 0.016)
    pen.ring(0.47, 0.63, 0.05, 0.012)


def _bicycle_city(pen):
    _wheels(pen, (0.20, 0.80), 0.64, 0.17, 0.022, 8)
    for line in (
        [(0.20, 0.64), (0.46, 0.66), (0.37, 0.30)],
        _curve((0.46, 0.66), (0.56, 0.58), (0.70, 0.36)),
        [(0.20, 0.64), (0.41, 0.46)],
        [(0.66, 0.22), (0.72, 0.40), (0.80, 0.64)],
    ):
        pen.stroke(line, 0.019)
    pen.stroke([(0.29, 0.28), (0.45, 0.28)], 0.032, 0.02)
    pen.stroke(_curve((0.56, 0.20), (0.66, 0.21), (0.70, 0.18)), 0.018)
    pen.stroke([(0.06, 0.42), (0.34, 0.42)], 0.016)
    pen.ring(0.46, 0.66, 0.045, 0.014)


def _motorbike(pen, wheel_radius, body, seat, bars, tank):
    for x in (0.20, 0.80):
        pen.ellipse(x, 0.66, wheel_radius, detail=True)
        pen.ellipse(x, 0.66, wheel_radius * 0.5)
    pen.polygon(body)
    pen.ellipse(0.48, 0.62, 0.10, 0.09)
    pen.ellipse(0.48, 0.62, 0.055, only=True)
    pen.stroke(tank, 0.05, 0.065, 0.04)
    pen.stroke(seat, 0.03, 0.04, detail=True)
    pen.stroke(bars, 0.022)
    pen.stroke([(0.46, 0.70), (0.18, 0.71)], 0.026, 0.032)


def _motorbike_sport(pen):
    _motorbike(
        pen,
        0.165,
        [(0.10, 0.38), (0.34, 0.46), (0.62, 0.36), (0.86, 0.46), (0.70, 0.60), (0.58, 0.72), (0.36, 0.70)],
        [(0.10, 0.37), (0.26, 0.42), (0.40, 0.44)],
        [(0.58, 0.30), (0.70, 0.34), (0.80, 0.66)],
        [(0.42, 0.41), (0.54, 0.36), (0.66, 0.38)],
    )
    pen.polygon([(0.66, 0.36), (0.72, 0.22), (0.84, 0.42)])
    pen.polygon([(0.69, 0.36), (0.73, 0.27), (0.79, 0.40)], only=True)


def _boat_fishing(pen):
    pen.polygon(_curve((0.04, 0.58), (0.30, 0.62), (0.70, 0.62), (0.98, 0.50)) + [(0.84, 0.80), (0.16, 0.80)])
    pen.box(0.22, 0.36, 0.46, 0.66, 0.02)
    for x in (0.25, 0.36):
        pen.box(x, 0.41, x + 0.07, 0.49, only=True)
    pen.stroke([(0.58, 0.62), (0.58, 0.12)], 0.014)
    pen.stroke([(0.58, 0.20), (0.90, 0.50)], 0.010)
    pen.polygon([(0.58, 0.12), (0.44, 0.16), (0.58, 0.20)])
    pen.stroke([(0.13, 0.68), (0.90, 0.66)], 0.02, only=True)


def _boat_steamer(pen):
    pen.polygon([(0.02, 0.56), (0.98, 0.52), (0.86, 0.80), (0.12, 0.80)])
    pen.box(0.16, 0.42, 0.78, 0.58)
    pen.box(0.26, 0.30, 0.62, 0.44)
    for x in (0.32, 0.48):
        pen.polygon([(x, 0.12), (x + 0.10, 0.12), (x + 0.09, 0.32), (x - 0.01, 0.32)])
        pen.box(x, 0.15, x + 0.10, 0.19, only=True)
    for x in np.arange(0.20, 0.74, 0.09):
        pen.ellipse(x + 0.02, 0.50, 0.024, only=True)
    pen.stroke([(0.84, 0.54), (0.84, 0.26)], 0.010)


def _chair_side(pen):
    pen.stroke(_curve((0.26, 0.08), (0.29, 0.30), (0.32, 0.54)), 0.035)
    pen.stroke([(0.30, 0.54), (0.74, 0.54)], 0.045, detail=True)
    pen.stroke([(0.32, 0.54), (0.26, 0.94)], 0.032)
    pen.stroke([(0.70, 0.56), (0.74, 0.94)], 0.032)
    pen.stroke([(0.30, 0.76), (0.71, 0.76)], 0.018)


def _chair_front(pen):
    for x in (0.28, 0.72):
        pen.stroke([(x, 0.08), (x, 0.94)], 0.034)
    for y in (0.12, 0.24, 0.36):
        pen.stroke([(0.28, y), (0.72, y)], 0.030)
    pen.polygon([(0.26, 0.50), (0.74, 0.50), (0.82, 0.62), (0.18, 0.62)], detail=True)
    for x in (0.22, 0.78):
        pen.stroke([(x, 0.60), (x, 0.98)], 0.034)


def _table_round(pen):
    pen.ellipse(0.50, 0.34, 0.46, 0.10)
    pen.stroke([(0.50, 0.38), (0.50, 0.80)], 0.05, 0.04)
    for x in (0.24, 0.50, 0.76):
        pen.stroke(_curve((0.50, 0.74), ((0.5 + x) / 2, 0.80), (x, 0.90)), 0.04, 0.026)


def _table_set(pen):
    pen.polygon([(0.16, 0.40), (0.84, 0.40), (0.98, 0.56), (0.02, 0.56)])
    pen.box(0.02, 0.56, 0.98, 0.62)
    for x, bottom in ((0.08, 0.94), (0.92, 0.94), (0.24, 0.82), (0.76, 0.82)):
        pen.stroke([(x, 0.60), (x, bottom)], 0.034)
    for x in (0.30, 0.52, 0.74):
        pen.ellipse(x - 0.01, 0.47, 0.085, 0.030, detail=True)
    pen.polygon([(0.38, 0.40), (0.43, 0.24), (0.46, 0.40)], detail=True)
    pen.ellipse(0.62, 0.36, 0.045, 0.06, detail=True)


def _table_cloth(pen):
    pen.ellipse(0.50, 0.32, 0.46, 0.09)
    pen.polygon(
        [
            (0.04, 0.32),
            (0.96, 0.32),
            (0.90, 0.60),
            (0.78, 0.56),
            (0.64, 0.62),
            (0.50, 0.57),
            (0.36, 0.62),
            (0.22, 0.56),
            (0.10, 0.60),
        ],
        detail=True,
    )
    pen.ellipse(0.50, 0.32, 0.46, 0.09)
    for x in (0.24, 0.76):
        pen.stroke([(x, 0.54), (x, 0.94)], 0.036)
    pen.ellipse(0.50, 0.31, 0.13, 0.03, only=True)


def _table_side(pen):
    pen.box(0.03, 0.30, 0.97, 0.38, 0.02)
    pen.box(0.10, 0.38, 0.90, 0.46)
    for x, lean in ((0.14, -0.03), (0.86, 0.03)):
        pen.stroke([(x, 0.42), (x + lean, 0.92)], 0.04, 0.026)
    pen.ellipse(0.36, 0.25, 0.09, 0.06, detail=True)
    pen.polygon([(0.60, 0.14), (0.68, 0.14), (0.70, 0.31), (0.58, 0.31)], detail=True)


def _sofa(pen, left, right, top, arm, cushions, back):
    pen.box(left + 0.05, top, right - 0.05, 0.70, back)
    for x in (left, right - arm):
        pen.box(x, top + 0.16, x + arm, 0.80, arm * 0.45)
    pen.box(left + arm * 0.6, 0.56, right - arm * 0.6, 0.80, 0.03)
    edges = np.linspace(left + arm, right - arm, cushions + 1)
    for x0, x1 in zip(edges, edges[1:]):
        pen.box(x0 + 0.012, 0.57, x1 - 0.012, 0.67, 0.03, only=True)
    for x in (left + 0.06, right - 0.06):
        pen.stroke([(x, 0.78), (x, 0.87)], 0.022)


def _sofa_corner(pen):
    _sofa(pen, 0.02, 0.98, 0.36, 0.09, 2, 0.03)
    pen.box(0.60, 0.56, 0.98, 0.90, 0.04)
    pen.box(0.64, 0.58, 0.94, 0.68, 0.03, only=True)


def _train_steam(pen):
    pen.box(0.20, 0.40, 0.80, 0.64, 0.05)
    pen.box(0.04, 0.22, 0.32, 0.70, 0.02)
    pen.box(0.01, 0.18, 0.35, 0.25, 0.02)
    pen.box(0.09, 0.30, 0.26, 0.45, 0.01, only=True)
    pen.polygon([(0.66, 0.42), (0.62, 0.18), (0.80, 0.18), (0.76, 0.42)])
    pen.ellipse(0.50, 0.40, 0.07, 0.06)
    pen.polygon([(0.78, 0.64), (0.96, 0.82), (0.70, 0.82)])
    pen.box(0.04, 0.62, 0.82, 0.72)
    for x, r in ((0.16, 0.10), (0.38, 0.10), (0.58, 0.075), (0.73, 0.075)):
        pen.ellipse(x, 0.83 - r + 0.02, r, detail=True)
        pen.ellipse(x, 0.83 - r + 0.02, r * 0.45)


def _train_engine(pen):
    pen.polygon(_curve((0.02, 0.30), (0.55, 0.30), (0.80, 0.36), (0.97, 0.60)) + [(0.98, 0.72), (0.02, 0.72)])
    pen.polygon([(0.70, 0.38), (0.79, 0.41), (0.88, 0.52), (0.70, 0.52)], only=True)
    for x in (0.07, 0.22, 0.37, 0.52):
        pen.box(x, 0.40, x + 0.11, 0.52, 0.015, only=True)
    pen.stroke([(0.02, 0.62), (0.95, 0.62)], 0.018, only=True)
    for x in (0.14, 0.26, 0.68, 0.80):
        pen.ellipse(x, 0.74, 0.055, detail=True)
    pen.stroke([(0.20, 0.30), (0.28, 0.20), (0.20, 0.16)], 0.012)


def _leaves(pen):
    for turn, length in zip(np.linspace(-1.25, 1.25, 9), (0.34, 0.42, 0.46, 0.44, 0.50, 0.43, 0.47, 0.40, 0.35)):
        tip = (0.5 + length * math.sin(turn), 0.86 - length * math.cos(turn) * 1.3)
        bend = (0.5 + length * 0.45 * math.sin(turn * 0.7), 0.86 - length * 0.75)
        pen.stroke(_curve((0.5, 0.90), bend, tip), 0.014, 0.05, 0.008)


# Poses of one animal or thing, and drawings of their own.
# fmt: off
DRAWINGS = {
    "cow-standing": lambda pen: _cow(pen, (0.86, 0.31), (0.94, 0.40),
        [(0.19, 0.86), (0.31, 0.86), (0.66, 0.86), (0.78, 0.86)]),
    "cow-walking": lambda pen: _cow(pen, (0.87, 0.37), (0.95, 0.46),
        [(0.13, 0.86), (0.36, 0.85), (0.58, 0.86), (0.84, 0.84)],
        ((0.34, 0.42, 0.11), (0.56, 0.40, 0.07), (0.70, 0.50, 0.07))),
    "cow-grazing": lambda pen: _cow(pen, (0.88, 0.62), (0.90, 0.76),
        [(0.17, 0.86), (0.30, 0.86), (0.64, 0.86), (0.74, 0.86)], ((0.50, 0.44, 0.13), (0.24, 0.40, 0.07))),
    "horse-standing": lambda pen: _horse(pen, (0.80, 0.17), (0.92, 0.27),
        [(0.19, 0.92), (0.28, 0.92), (0.64, 0.92), (0.72, 0.92)], [(0.09, 0.50), (0.10, 0.72)]),
    "horse-galloping": lambda pen: _horse(pen, (0.86, 0.22), (0.98, 0.31),
        [(0.02, 0.76), (0.20, 0.82), (0.78, 0.80), (0.97, 0.66)], [(0.04, 0.34), (-0.04, 0.44)]),
    "sheep-standing": lambda pen: _sheep(pen, (0.45, 0.48), (0.80, 0.34),
        [(0.28, 0.82), (0.37, 0.82), (0.55, 0.82), (0.64, 0.82)]),
    "sheep-walking": lambda pen: _sheep(pen, (0.45, 0.48), (0.80, 0.40),
        [(0.20, 0.81), (0.40, 0.82), (0.49, 0.82), (0.70, 0.80)]),
    "sheep-grazing": lambda pen: _sheep(pen, (0.44, 0.46), (0.79, 0.66),
        [(0.26, 0.82), (0.37, 0.82), (0.54, 0.82), (0.62, 0.82)]),
    "dog-standing": lambda pen: _dog(pen, (0.82, 0.33), (0.95, 0.37),
        [(0.26, 0.86), (0.35, 0.86), (0.65, 0.86), (0.73, 0.86)], [(0.16, 0.38), (0.14, 0.26)]),
    "dog-running": lambda pen: _dog(pen, (0.85, 0.36), (0.98, 0.41),
        [(0.06, 0.74), (0.22, 0.80), (0.82, 0.76), (0.96, 0.68)], [(0.14, 0.40), (0.03, 0.40)], slim=0.9),
    "cat-walking": lambda pen: _cat(pen, [(0.14, 0.82), (0.34, 0.83), (0.60, 0.83), (0.80, 0.81)],
        [(0.10, 0.34), (0.14, 0.16)]),
    "cat-standing": lambda pen: _cat(pen, [(0.22, 0.84), (0.29, 0.84), (0.66, 0.84), (0.73, 0.84)],
        [(0.07, 0.48), (0.02, 0.62)], head=(0.80, 0.40), stripes=False),
    "motorbike-cruiser": lambda pen: _motorbike(pen, 0.155,
        [(0.22, 0.56), (0.40, 0.48), (0.66, 0.44), (0.60, 0.68), (0.40, 0.70)],
        [(0.20, 0.44), (0.28, 0.47), (0.42, 0.45)], [(0.56, 0.20), (0.66, 0.26), (0.80, 0.66)],
        [(0.46, 0.43), (0.56, 0.40), (0.66, 0.42)]),
    "sofa-long": lambda pen: _sofa(pen, 0.02, 0.98, 0.34, 0.11, 3, 0.05),
    "sofa-round": lambda pen: _sofa(pen, 0.10, 0.90, 0.26, 0.17, 2, 0.20),
    "sheep-lying": _sheep_lying, "dog-sitting": _dog_sitting, "cat-sitting": _cat_sitting, "cat-lying": _cat_lying,
    "bicycle-racer": _bicycle_racer, "bicycle-city": _bicycle_city, "motorbike-sport": _motorbike_sport,
    "boat-fishing": _boat_fishing, "boat-steamer": _boat_steamer, "chair-side": _chair_side,
    "chair-front": _chair_front, "table-round": _table_round, "table-set": _table_set, "table-cloth": _table_cloth,
    "table-side": _table_side, "sofa-corner": _sofa_corner, "train-steam": _train_steam, "train-engine": _train_engine,
    "leaves": _leaves,
}
# fmt: on
