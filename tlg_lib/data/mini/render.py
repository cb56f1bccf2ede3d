"""Pictures of the mini benchmark: a plan drawn from a seed, then a background, objects and their label map.

Everything is computed at twice the final size in float64 and then reduced, so that edges are soft, and so
that rounding to bytes hides the last bits in which machines may differ. The label map follows the VOC
convention: class + 1, 0 background, 255 on a thin border round every object (docs/design.md, 6).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from ..classes import PASCAL_CLASSES
from .glyphs import CANVAS, DISTRACTORS, OPEN, class_glyphs, load_glyph

# Usual scenes of a class; drawn from in SCENE_SHARE of the images, any scene otherwise (a weak correlation).
SCENE_SHARE = 0.6
USUAL_SCENES = {
    "aeroplane": ("sky", "sky", "snow", "road"), "bicycle": ("road", "city", "grass"),
    "bird": ("sky", "forest", "water", "grass"), "boat": ("water", "water", "beach"),
    "bottle": ("kitchen", "room", "beach"), "bus": ("road", "city"), "car": ("road", "city", "snow"),
    "cat": ("room", "kitchen", "grass"), "chair": ("room", "kitchen"), "cow": ("grass", "field"),
    "diningtable": ("room", "kitchen"), "dog": ("grass", "beach", "room"), "horse": ("grass", "field", "sand"),
    "motorbike": ("road", "city", "sand"), "person": ("city", "beach", "forest", "snow"),
    "pottedplant": ("room", "kitchen", "city"), "sheep": ("grass", "field", "snow"),
    "sofa": ("room", "room", "kitchen"), "train": ("tracks", "tracks", "city"), "tvmonitor": ("room", "kitchen"),
}  # fmt: skip
# Usual colours of a class, ranges of (hue in turns, saturation, value); taken by COLOUR_SHARE of its objects.
COLOUR_SHARE = 0.7
USUAL_COLOURS = {
    "cow": ((0.04, 0.10, 0.0, 0.6, 0.25, 0.95),), "horse": ((0.03, 0.09, 0.3, 0.7, 0.2, 0.75),),
    "sheep": ((0.08, 0.14, 0.0, 0.2, 0.75, 1.0),), "dog": ((0.05, 0.11, 0.1, 0.7, 0.2, 0.9),),
    "cat": ((0.05, 0.11, 0.0, 0.8, 0.15, 0.95),), "pottedplant": ((0.22, 0.40, 0.4, 0.9, 0.3, 0.85),),
    "chair": ((0.05, 0.10, 0.3, 0.7, 0.3, 0.8),), "diningtable": ((0.05, 0.10, 0.3, 0.7, 0.3, 0.85),),
    "tvmonitor": ((0.0, 1.0, 0.0, 0.15, 0.1, 0.5),), "aeroplane": ((0.5, 0.65, 0.0, 0.2, 0.6, 1.0),),
    "boat": ((0.0, 1.0, 0.0, 0.2, 0.7, 1.0), (0.55, 0.65, 0.4, 0.8, 0.2, 0.6)),
    "bottle": ((0.25, 0.45, 0.4, 0.9, 0.2, 0.6), (0.06, 0.10, 0.6, 0.9, 0.2, 0.5)),
    "bird": ((0.55, 0.65, 0.1, 0.6, 0.2, 0.8), (0.03, 0.14, 0.2, 0.9, 0.4, 1.0)),
    "person": ((0.0, 1.0, 0.3, 0.8, 0.3, 0.9), (0.05, 0.09, 0.3, 0.6, 0.4, 0.9)),
    "sofa": ((0.0, 0.12, 0.2, 0.7, 0.3, 0.8), (0.5, 0.7, 0.1, 0.5, 0.2, 0.7)),
    "bus": ((0.0, 0.14, 0.6, 0.95, 0.6, 0.95), (0.55, 0.62, 0.4, 0.8, 0.4, 0.9)),
    "car": ((0.97, 1.03, 0.6, 0.95, 0.4, 0.9), (0.55, 0.66, 0.0, 0.8, 0.2, 0.95)),
    "train": ((0.97, 1.14, 0.5, 0.9, 0.4, 0.9), (0.3, 0.62, 0.1, 0.7, 0.3, 0.8)),
    "motorbike": ((0.0, 1.0, 0.0, 0.2, 0.1, 0.4), (0.97, 1.1, 0.6, 0.95, 0.4, 0.9)),
}  # fmt: skip
TILT = {"aeroplane": 0.7, "bottle": 0.5, "bird": 0.4}  # largest rotation in radians; others 0.2
AREA = (0.06, 0.45)  # share of the picture that an object aims for
# Shares that the objects of a picture of several classes aim for, by their number: all of one picture are of like
# size, so that none is the salient one. Their places from left to right, and the widest that one may be.
TOGETHER = {2: (0.08, 0.18), 3: (0.07, 0.12)}
LIKE = 1.25  # at most this factor between two objects' aims
PLACES = {2: ((0.27, 0.73), 0.5), 3: ((0.18, 0.5, 0.82), 0.38)}


@dataclass(frozen=True)
class Plan:
    """What a picture will show; drawn before any pixel, so it is known without rendering."""

    image_id: str
    split: str  # "trn" or "val"
    scene: str
    objects: tuple[tuple[int, str], ...]  # (class id, glyph name), the picture's own class first
    distractors: tuple[str, ...]
    occluded: bool


def image_id(class_id: int, index: int) -> str:
    return f"{PASCAL_CLASSES[class_id]}_{index:03d}"


def _rng(seed: int, class_id: int, index: int, purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, class_id, index, purpose))))


def companions(seed: int, class_id: int, index: int) -> tuple[int, ...]:
    """The other classes of a picture: none in every second one, else one, in every sixth picture two.

    The n-th picture with companions shows, beside class c, class c + s (mod 20) with the same shift s for all c; the
    shifts run through a shuffled 1..19. So every class is a companion equally often, and beside each other class.
    """
    if index % 2 == 0:
        return ()
    count = len(PASCAL_CLASSES)
    shifts = np.random.default_rng((seed, count)).permutation(count - 1) + 1
    shown = [i % 6 // 5 + 1 for i in range(1, index + 1, 2)]  # companions of the pictures up to this one
    last = sum(shown)
    return tuple(int(class_id + shifts[n % len(shifts)]) % count for n in range(last - shown[-1], last))


def plan_image(seed: int, class_id: int, index: int, split: str) -> Plan:
    """Plan of picture ``index`` of a class; glyphs come from the split's half of the class, its own by turns."""
    rng = _rng(seed, class_id, index, 0)
    name = PASCAL_CLASSES[class_id]
    glyphs = class_glyphs(name, split)
    objects = [(class_id, glyphs[(index + class_id) % len(glyphs)])]
    for other in companions(seed, class_id, index):
        objects.append((other, str(rng.choice(class_glyphs(PASCAL_CLASSES[other], split)))))
    usual = rng.random() < SCENE_SHARE
    scene = str(rng.choice(USUAL_SCENES[name] if usual else sorted(SCENES)))
    count = int(rng.choice([0, 1, 2, 3], p=[0.3, 0.35, 0.25, 0.1]))
    distractors = tuple(str(g) for g in rng.choice(DISTRACTORS, count, replace=False))
    return Plan(image_id(class_id, index), split, scene, tuple(objects), distractors, bool(rng.random() < 0.35))


def render(seed: int, class_id: int, index: int, split: str, size: int) -> tuple[Plan, np.ndarray, np.ndarray]:
    """The picture uint8 [size, size, 3] and its label map uint8 [size, size] (class + 1, 0, 255)."""
    plan = plan_image(seed, class_id, index, split)
    for attempt in range(20):
        rng = _rng(seed, class_id, index, 1 + attempt)
        picture, label = _compose(plan, rng, size)
        if all((label == c + 1).mean() >= 0.025 for c, _ in plan.objects):
            break
    return plan, picture, label


def _compose(plan: Plan, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    side = 2 * size
    canvas, ground = SCENES[plan.scene](rng, side)
    owner = np.zeros((side, side), np.uint8)  # class + 1 of the topmost object
    light = rng.uniform(-0.9, 0.9)
    in_front = 1 if plan.occluded else 0  # the first distractor may cover a part of the object
    for glyph in plan.distractors[in_front:]:
        _paste(canvas, owner, rng, glyph, "", 0, rng.uniform(0.012, 0.05), ground, light)
    shares, places, widest = _arrangement(len(plan.objects), rng)
    for (class_id, glyph), share, across in zip(plan.objects, shares, places):
        _paste(canvas, owner, rng, glyph, PASCAL_CLASSES[class_id], class_id + 1, share, ground, light, across, widest)
    if plan.occluded and plan.distractors:
        _paste(canvas, owner, rng, plan.distractors[0], "", 0, rng.uniform(0.012, 0.04), ground, light)
    elif plan.occluded:
        _occlude(canvas, owner, rng)
    canvas = _finish(canvas, rng)
    picture = Image.fromarray((np.clip(canvas, 0, 1) * 255).round().astype(np.uint8))
    picture = np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS))
    return picture, _label(owner, size)


def _arrangement(count: int, rng: np.random.Generator) -> tuple[np.ndarray, list[float | None], float]:
    """Share of the picture and place from left to right of each object, and the widest that one may be.

    One object goes anywhere (None); several stand side by side in drawn order, so that all stay visible.
    """
    low, high = np.log(TOGETHER.get(count, AREA))
    share = math.exp(rng.uniform(low, high))
    if count == 1:
        return np.array([share]), [None], 1.0
    places, widest = PLACES[count]
    shares = share * LIKE ** rng.uniform(-0.5, 0.5, count)
    return shares, list(rng.permutation(places) + rng.uniform(-0.04, 0.04, count)), widest


def _label(owner: np.ndarray, size: int) -> np.ndarray:
    """Owner map [2S, 2S] to a label map [S, S] with a one-pixel 255 border outside objects."""
    blocks = owner.reshape(size, 2, size, 2).transpose(0, 2, 1, 3).reshape(size, size, 4)  # [S, S, 4]
    label = np.zeros((size, size), np.uint8)
    for value in np.unique(owner[owner > 0]):
        covered = (blocks == value).sum(-1)
        label[covered >= 2] = value
    border = np.zeros((size, size), bool)
    for value in (v for v in np.unique(label) if v):
        border |= ndimage.binary_dilation(label == value, np.ones((3, 3))) & (label != value)
    label[border] = 255
    return label


# --- objects


def _paste(canvas, owner, rng, glyph_name, class_name, value, share, ground, light, across=None, widest=1.0):
    """Warp a glyph onto the canvas with material, shading and shadow; mark its pixels in ``owner``."""
    side = len(canvas)
    glyph = load_glyph(glyph_name, class_name in OPEN)
    filled = glyph.shape.mean()
    rows, columns = np.flatnonzero((glyph.shape > 0.1).any(1)), np.flatnonzero((glyph.shape > 0.1).any(0))
    extent = max(rows[-1] - rows[0], columns[-1] - columns[0]) / CANVAS
    # Size of the glyph canvas on the picture, as a share of its side; thin things are bounded by extent.
    scale = min(math.sqrt(share / filled), (1.15 if value else 0.5) / extent)
    height = scale * (rows[-1] - rows[0]) / CANVAS
    width = scale * (columns[-1] - columns[0]) / CANVAS
    if across is not None:
        scale *= min(1.0, widest / width, 0.95 / height)
        height, width = scale * (rows[-1] - rows[0]) / CANVAS, scale * (columns[-1] - columns[0]) / CANVAS
    # Centre: free in the air, or standing somewhere below the horizon; one in six runs out of the frame.
    margin = -0.2 if value and rng.random() < 0.17 else 0.02
    low, high = width / 2 + margin, 1 - width / 2 - margin
    x = across if across is not None else (rng.uniform(low, high) if low < high else 0.5 + rng.uniform(-0.06, 0.06))
    floating = class_name in ("aeroplane", "bird") or not value and rng.random() < 0.3
    if floating:
        bottom = rng.uniform(height + 0.02, 0.98) if height < 0.95 else 0.5 + height / 2
    else:
        bottom = rng.uniform(min(max(ground + 0.06, height * 0.9), 0.97), 0.99 - margin)
    y = bottom - height / 2

    angle = rng.normal(0, 0.5) * TILT.get(class_name, 0.2)
    stretch = math.exp(rng.uniform(-0.18, 0.18))
    mirror = -1 if rng.random() < 0.5 else 1
    shear = rng.uniform(-0.14, 0.14)
    # Matrix glyph -> picture (in pixels), inverted: each picture pixel looks up its place in the glyph.
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    forward = turn @ np.array([[1, shear], [0, 1]]) @ np.diag([mirror * stretch, 1 / stretch]) * scale * side / CANVAS
    inverse = np.linalg.inv(forward)
    reach = int(math.ceil(scale * side * 0.62)) + 8
    x0, x1 = max(0, int(x * side) - reach), min(side, int(x * side) + reach)
    y0, y1 = max(0, int(y * side) - reach), min(side, int(y * side) + reach)
    if x0 >= x1 or y0 >= y1:
        return
    gy, gx = np.mgrid[y0:y1, x0:x1].astype(np.float64)
    dx, dy = gx + 0.5 - x * side, gy + 0.5 - y * side
    wobble = CANVAS * rng.uniform(0.005, 0.014)  # elastic warp: slow random displacement
    gx = inverse[0, 0] * dx + inverse[0, 1] * dy + CANVAS / 2 + wobble * (noise(rng, dx.shape, 4, 1) * 2 - 1) * 2
    gy = inverse[1, 0] * dx + inverse[1, 1] * dy + CANVAS / 2 + wobble * (noise(rng, dx.shape, 4, 1) * 2 - 1) * 2
    shrink = CANVAS / (scale * side)
    coordinates = np.stack([gy, gx])
    shape, detail = (
        np.clip(
            ndimage.map_coordinates(
                ndimage.gaussian_filter(layer, 0.35 * shrink) if shrink > 1 else layer, coordinates, order=1
            ),
            0,
            1,
        )
        for layer in (glyph.shape, glyph.detail)
    )
    surface = _surface(rng, shape, detail, class_name, light, scale * side)
    area = (slice(y0, y1), slice(x0, x1))
    if not floating:
        _shadow(canvas, area, shape, light, scale * side)
    canvas[area] = canvas[area] * (1 - shape[..., None]) + surface * shape[..., None]
    owner[area][shape >= 0.5] = value


def _shadow(canvas, area, shape, light, extent):
    """A soft shadow that falls to the side away from the light."""
    fall = max(1.0, extent * 0.035)
    shifted = ndimage.shift(shape, (fall, -light * 2 * fall), order=1)
    canvas[area] *= 1 - 0.45 * np.clip(ndimage.gaussian_filter(shifted, fall), 0, 1)[..., None]


def _surface(rng, shape, detail, class_name, light, extent) -> np.ndarray:
    """Colours [h, w, 3] of an object: base material, texture, second colour, round shading, dark rim."""
    colour, other = _colour(rng, class_name), _colour(rng, "")
    h, w = shape.shape
    y, x = np.mgrid[0:h, 0:w] / max(h, w)
    kind = rng.choice(
        ["plain", "gradient", "stripes", "spots", "cloud", "halves", "checks"],
        p=[0.22, 0.2, 0.14, 0.1, 0.16, 0.12, 0.06],
    )
    direction = rng.uniform(0, 2 * math.pi)
    along = x * math.cos(direction) + y * math.sin(direction)
    near = np.clip(colour + rng.normal(0, 0.12, 3), 0, 1)
    mix = {
        "plain": lambda: np.zeros((h, w)),
        "gradient": lambda: np.clip((along - along.min()) / (np.ptp(along) + 1e-9), 0, 1),
        "stripes": lambda: (np.sin(along * rng.uniform(35, 90)) > rng.uniform(-0.3, 0.6)) * 0.8,
        "spots": lambda: (noise(rng, (h, w), 9, 1) > 0.66) * 0.9,
        "cloud": lambda: noise(rng, (h, w), 5, 3),
        "halves": lambda: (y > rng.uniform(0.4, 0.6)) * 1.0,
        "checks": lambda: ((np.sin(x * 50) * np.sin(y * 50)) > 0) * 0.7,
    }[kind]()[..., None]
    second = other if kind in ("halves", "stripes", "spots") and rng.random() < 0.6 else near
    base = colour * (1 - mix) + second * mix
    base = base + (noise(rng, (h, w), 24, 2)[..., None] - 0.5) * rng.uniform(0.03, 0.2)
    base = base * (1 - detail[..., None]) + _detail_colour(rng, class_name, colour, y) * detail[..., None]
    # Shading: the blurred silhouette as a height map, lit from above and from one side.
    bump = ndimage.gaussian_filter(shape, max(1.0, extent * 0.03)) + 0.6 * ndimage.gaussian_filter(shape, extent * 0.07)
    slope_y, slope_x = np.gradient(bump)
    shade = 1 + np.clip((slope_y + light * slope_x) * extent * rng.uniform(0.03, 0.09), -0.5, 0.35)
    rim = np.clip(1.6 * (ndimage.gaussian_filter(shape, max(0.8, extent * 0.012)) - 0.5), 0, 0.8) / 0.8
    strength = rng.uniform(0.0, 0.6)
    return np.clip(base * shade[..., None] * (1 - strength * (1 - rim[..., None])), 0, 1)


def _detail_colour(rng, class_name, colour, y) -> np.ndarray:
    """Second colour: glass for vehicles, a picture for screens, clay for pots, light or dark for the rest."""
    if class_name in ("bus", "car", "train", "boat", "aeroplane"):
        glass = np.array([0.55, 0.72, 0.85]) * rng.uniform(0.35, 1.15)
        return np.clip(glass + 0.35 * (0.5 - y[..., None]), 0, 1)
    if class_name == "tvmonitor":
        return gradient(y.shape, rng.uniform(0, 1, 3), rng.uniform(0, 1, 3)) + 0.3 * (
            noise(rng, y.shape, 5, 2)[..., None] - 0.5
        )
    if class_name == "pottedplant":
        return np.broadcast_to(
            _hsv(rng.uniform(0.0, 0.08), rng.uniform(0.3, 0.8), rng.uniform(0.4, 0.9)), (*y.shape, 3)
        )
    dark = colour * rng.uniform(0.15, 0.4)
    light = 1 - (1 - colour) * rng.uniform(0.1, 0.4)
    return np.broadcast_to(dark if colour.mean() > 0.45 or rng.random() < 0.3 else light, (*y.shape, 3))


def _occlude(canvas, owner, rng):
    """Something in front that covers a smaller part of the object: a post, blades of grass, a leaf."""
    side = len(canvas)
    points = np.argwhere(owner > 0)
    if not len(points):
        return
    cy, cx = points[int(rng.integers(len(points)))]
    y, x = np.mgrid[0:side, 0:side].astype(np.float64)
    kind = rng.choice(["post", "blades", "leaf"])
    colour = _hsv(rng.uniform(0.05, 0.4), rng.uniform(0.2, 0.7), rng.uniform(0.15, 0.6))
    if kind == "post":
        half = side * rng.uniform(0.02, 0.04)
        centre = cx + (y - cy) * rng.uniform(-0.1, 0.1)
        mask = np.abs(x - centre) < half
        shade = 1.25 - 0.7 * np.abs((x - centre) / half + 0.3)
    elif kind == "blades":
        bottom = points[:, 0].max()
        wave = noise(rng, (1, side), 26, 1)[0]
        mask = y > bottom - wave[None, :] * side * 0.22
        shade = 0.6 + 0.8 * noise(rng, (side, side), (3, 60), 2)
    else:
        radius = side * rng.uniform(0.06, 0.11)
        turn = rng.uniform(0, math.pi)
        u = (x - cx) * math.cos(turn) + (y - cy) * math.sin(turn)
        v = -(x - cx) * math.sin(turn) + (y - cy) * math.cos(turn)
        mask = (u / (radius * 1.8)) ** 2 + (v / radius) ** 2 < 1
        shade = 0.75 + 0.5 * (np.abs(v) < 1.5) + 0.2 * np.sin(u * 0.4)
    soft = ndimage.gaussian_filter(mask.astype(np.float64), 0.8)[..., None]
    canvas[:] = canvas * (1 - soft) + np.clip(colour * shade[..., None], 0, 1) * soft
    owner[mask] = 0


def _colour(rng, class_name) -> np.ndarray:
    usual = USUAL_COLOURS.get(class_name)
    if usual and rng.random() < COLOUR_SHARE:
        h0, h1, s0, s1, v0, v1 = usual[int(rng.integers(len(usual)))]
        return _hsv(rng.uniform(h0, h1) % 1, rng.uniform(s0, s1), rng.uniform(v0, v1))
    return _hsv(rng.uniform(0, 1), rng.beta(2, 2), rng.uniform(0.15, 1.0))


def _hsv(h: float, s: float, v: float) -> np.ndarray:
    """RGB [3] of hue in turns, saturation and value 0..1."""
    k = (np.array([5.0, 3.0, 1.0]) + h * 6) % 6
    return v - v * s * np.clip(np.minimum(k, 4 - k), 0, 1)


def _finish(canvas, rng) -> np.ndarray:
    """The camera: exposure, colour cast, contrast, a vignette, sometimes blur, grain."""
    side = len(canvas)
    canvas = canvas * rng.uniform(0.8, 1.15) * (1 + rng.normal(0, 0.04, 3))
    mean = canvas.mean((0, 1))
    canvas = mean + (canvas - mean) * rng.uniform(0.8, 1.15)
    y, x = np.mgrid[0:side, 0:side] / side - 0.5
    canvas = canvas * (1 - rng.uniform(0, 0.5) * (x * x + y * y))[..., None]
    if rng.random() < 0.2:
        canvas = ndimage.gaussian_filter(canvas, (1.2, 1.2, 0))
    return canvas + rng.normal(0, rng.uniform(0.005, 0.035), canvas.shape)


# --- backgrounds: each returns the canvas float64 [S, S, 3] and the height of the horizon (0 top, 1 bottom)


def noise(rng, shape, cells, octaves) -> np.ndarray:
    """Smooth noise 0..1 [h, w]: random grids of ``cells`` (or (down, across)) squares, doubled per octave."""
    down, across = (cells, cells) if isinstance(cells, int) else cells
    total, weight = np.zeros(shape), 0.0
    for octave in range(octaves):
        grid = rng.random((min(down << octave, shape[0]) + 1, min(across << octave, shape[1]) + 1))
        image = Image.fromarray(grid.astype(np.float32)).resize(shape[::-1], Image.Resampling.BICUBIC)
        total += np.asarray(image, np.float64) * 0.5**octave
        weight += 0.5**octave
    return np.clip(total / weight, 0, 1)


def gradient(shape, top, bottom) -> np.ndarray:
    t = np.linspace(0, 1, shape[0])[:, None, None]
    return np.broadcast_to(np.asarray(top) * (1 - t) + np.asarray(bottom) * t, (*shape, 3)).copy()


def _heaven(rng, side) -> np.ndarray:
    """Sky from blue or evening colours, with clouds."""
    if rng.random() < 0.25:  # evening
        canvas = gradient(
            (side, side),
            _hsv(rng.uniform(0.6, 0.75), 0.5, rng.uniform(0.3, 0.7)),
            _hsv(rng.uniform(0.02, 0.12), rng.uniform(0.3, 0.7), 0.95),
        )
    else:
        canvas = gradient(
            (side, side),
            _hsv(rng.uniform(0.53, 0.62), rng.uniform(0.2, 0.75), rng.uniform(0.5, 0.95)),
            _hsv(rng.uniform(0.5, 0.6), rng.uniform(0.0, 0.25), rng.uniform(0.85, 1.0)),
        )
    cover = rng.uniform(0.35, 0.62)
    clouds = np.clip((noise(rng, (side, side), (6, 3), 5) - cover) * 5, 0, 1)[..., None]
    lit = np.clip(0.75 + 0.5 * noise(rng, (side, side), (6, 3), 4), 0, 1)[..., None]
    return canvas * (1 - 0.9 * clouds) + lit * 0.9 * clouds


def _below(canvas, edge, colours):
    """Fill under the edge line (rows [S], in pixels) with ``colours`` [S, S, 3], softly."""
    y = np.arange(len(canvas))[:, None]
    mask = np.clip(y - edge[None, :] + 0.5, 0, 1)[..., None]
    canvas[:] = canvas * (1 - mask) + colours * mask


def _depth(side, horizon) -> np.ndarray:
    """Ground distance [S, 1] of each row below the horizon, growing towards it: flat ground, perspective."""
    y = np.arange(side)[:, None] / side
    return 1 / np.maximum(y - horizon + 0.03, 0.01)


def _stretched(rng, side, horizon, fine, octaves=3) -> np.ndarray:
    """Noise on a ground plane in perspective [S, S]: small near the horizon, large near the viewer."""
    base = noise(rng, (side, side), fine, octaves)
    depth = np.broadcast_to(_depth(side, horizon), (side, side))
    x = (np.arange(side)[None, :] - side / 2) * depth * 0.35
    rows = depth * side * 0.35
    return ndimage.map_coordinates(base, [rows % side, (x + side / 2) % side], order=1, mode="wrap")


def _hills(rng, side, canvas, horizon, hue, value):
    for layer in range(int(rng.integers(0, 3))):
        edge = (horizon - rng.uniform(0.02, 0.16) * noise(rng, (1, side), 3 + 2 * layer, 3)[0]) * side
        tone = _hsv(hue + rng.uniform(-0.05, 0.05), rng.uniform(0.2, 0.5), value * rng.uniform(0.6, 1.1))
        _below(canvas, edge, tone + 0.15 * (noise(rng, (side, side), 20, 2)[..., None] - 0.5))


def _sky(rng, side):
    canvas = _heaven(rng, side)
    if rng.random() < 0.4:
        _hills(rng, side, canvas, rng.uniform(0.95, 1.1), rng.uniform(0.2, 0.6), 0.6)
    return canvas, 0.1


def _water(rng, side):
    horizon = rng.uniform(0.25, 0.5)
    canvas = _heaven(rng, side)
    _hills(rng, side, canvas, horizon, rng.uniform(0.25, 0.6), 0.6)
    sea = gradient(
        (side, side),
        _hsv(rng.uniform(0.48, 0.6), rng.uniform(0.3, 0.6), rng.uniform(0.5, 0.85)),
        _hsv(rng.uniform(0.48, 0.62), rng.uniform(0.4, 0.9), rng.uniform(0.2, 0.6)),
    )
    waves = _stretched(rng, side, horizon, (48, 10), 2)
    ripple = np.sin(_depth(side, horizon) * rng.uniform(20, 40) + 5 * noise(rng, (side, side), 5, 2))
    sea += (
        0.35 * (waves[..., None] - 0.5) + 0.05 * ripple[..., None] + 0.35 * np.clip(waves - 0.72, 0, 1)[..., None] * 4
    )
    _below(canvas, np.full(side, horizon * side), sea)
    return canvas, horizon


def _turf(rng, side, horizon, hue=(0.19, 0.33)) -> np.ndarray:
    tone = _hsv(rng.uniform(*hue), rng.uniform(0.35, 0.8), rng.uniform(0.3, 0.7))
    blades = noise(rng, (side, side), (24, 90), 2)
    patches = _stretched(rng, side, horizon, 14)
    colours = tone * (0.65 + 0.45 * blades[..., None] + 0.4 * (patches[..., None] - 0.5))
    flowers = noise(rng, (side, side), 80, 1) > rng.uniform(0.93, 1.0)
    colours[flowers] = _hsv(rng.uniform(0, 1), rng.uniform(0, 0.8), 0.95)
    return colours


def _trees(rng, side, canvas, horizon, count):
    """A row of round or pointed trees standing on the horizon."""
    y, x = np.mgrid[0:side, 0:side] / side
    rough = 0.03 * (noise(rng, (side, side), 22, 2) - 0.5)
    for _ in range(count):
        cx, size = rng.uniform(0, 1), rng.uniform(0.05, 0.14)
        tone = _hsv(rng.uniform(0.18, 0.4), rng.uniform(0.3, 0.7), rng.uniform(0.2, 0.5))
        trunk = (np.abs(x - cx) < size * 0.09) & (y < horizon + 0.02) & (y > horizon - size)
        canvas[trunk] = _hsv(0.07, 0.5, 0.3)
        if rng.random() < 0.6:
            crown = np.hypot(x - cx, (y - horizon + size * 1.4) * 0.9) + rough < size
        else:
            crown = (np.abs(x - cx) + rough < (y - horizon + size * 3) * 0.33) & (y < horizon - size * 0.2)
        lit = 1 + (cx - x + horizon - size - y) * 2.5 + rough * 8
        canvas[crown] = np.clip(tone * lit[..., None], 0, 1)[crown]


def _grass(rng, side):
    horizon = rng.uniform(0.2, 0.45)
    canvas = _heaven(rng, side)
    _hills(rng, side, canvas, horizon, 0.3, 0.5)
    _trees(rng, side, canvas, horizon, int(rng.integers(0, 7)))
    _below(canvas, horizon * side + 6 * noise(rng, (1, side), 6, 2)[0], _turf(rng, side, horizon))
    return canvas, horizon


def _field(rng, side):
    """Ploughed or sown rows that meet at the horizon."""
    horizon = rng.uniform(0.2, 0.4)
    canvas = _heaven(rng, side)
    _hills(rng, side, canvas, horizon, 0.25, 0.55)
    x = (np.arange(side)[None, :] / side - rng.uniform(0.2, 0.8)) * _depth(side, horizon)
    rows = 0.5 + 0.5 * np.sin(x * rng.uniform(16, 34) + 2 * noise(rng, (side, side), 6, 2))
    soil = _hsv(rng.uniform(0.06, 0.11), rng.uniform(0.3, 0.6), rng.uniform(0.35, 0.65))
    crop = _hsv(rng.uniform(0.13, 0.3), rng.uniform(0.4, 0.8), rng.uniform(0.45, 0.85))
    colours = soil * (1 - rows[..., None]) + crop * rows[..., None]
    colours = colours * (0.75 + 0.5 * noise(rng, (side, side), 40, 2)[..., None])
    _below(canvas, np.full(side, horizon * side), colours)
    return canvas, horizon


def _houses(rng, side, canvas, horizon, tall):
    x = 0.0
    while x < 1:
        width, height = rng.uniform(0.1, 0.28), rng.uniform(0.12, 0.3 + tall)
        left, right, top = int(x * side), int((x + width) * side), int(max(0, horizon - height) * side)
        wall = _hsv(
            rng.choice([0.03, 0.08, 0.1, 0.6]) + rng.uniform(-0.03, 0.03),
            rng.uniform(0.05, 0.5),
            rng.uniform(0.35, 0.9),
        )
        block = canvas[top : int(horizon * side) + 1, left:right]
        if block.size:
            block[:] = wall * (0.85 + 0.3 * noise(rng, block.shape[:2], 14, 2)[..., None])
            glass, step = _hsv(rng.uniform(0.5, 0.65), 0.3, rng.uniform(0.2, 0.9)), int(rng.integers(9, 17))
            yy, xx = np.mgrid[0 : block.shape[0], 0 : block.shape[1]]
            window = (yy % step > step * 0.35) & (xx % (step - 1) > step * 0.4) & (yy > 3) & (xx < block.shape[1] - 2)
            block[window] = (glass * (0.7 + 0.6 * noise(rng, block.shape[:2], 8, 1)[..., None]))[window]
        x += width + rng.choice([0, 0, 0.04])


def _asphalt(rng, side, horizon) -> np.ndarray:
    tone = rng.uniform(0.25, 0.6)
    grain = _stretched(rng, side, horizon, 60, 2)
    return np.clip(tone * np.array([1, 1, 1.04]) * (0.8 + 0.4 * grain[..., None]), 0, 1)


def _road(rng, side):
    horizon = rng.uniform(0.25, 0.45)
    canvas = _heaven(rng, side)
    if rng.random() < 0.5:
        _houses(rng, side, canvas, horizon, 0.05)
    else:
        _hills(rng, side, canvas, horizon, 0.3, 0.5)
        _trees(rng, side, canvas, horizon, int(rng.integers(2, 8)))
    _below(canvas, np.full(side, horizon * side), _turf(rng, side, horizon, (0.12, 0.33)))
    vanishing = rng.uniform(0.25, 0.75)
    depth = _depth(side, horizon)
    x = (np.arange(side)[None, :] / side - vanishing) * depth
    half = rng.uniform(0.7, 1.4)
    below = np.arange(side)[:, None] > horizon * side
    lane = (np.abs(x) < half) & below
    canvas[lane] = _asphalt(rng, side, horizon)[lane]
    paint = _hsv(0.13, rng.choice([0.0, 0.7]), rng.uniform(0.75, 1.0))
    dashes = (np.abs(x) < 0.035) & (np.sin(depth * rng.uniform(3, 6)) > 0) & below
    edges = (np.abs(np.abs(x) - half * 0.93) < 0.02) & below
    canvas[dashes | edges] = paint
    return canvas, horizon


def _city(rng, side):
    horizon = rng.uniform(0.45, 0.62)
    canvas = _heaven(rng, side)
    _houses(rng, side, canvas, horizon, 0.35)
    pavement = _asphalt(rng, side, horizon) * rng.uniform(0.9, 1.5)
    depth = _depth(side, horizon)
    x = (np.arange(side)[None, :] / side - 0.5) * depth
    slabs = (np.abs(x * 3 % 1 - 0.5) > 0.46) | (np.abs(depth * 1.5 % 1 - 0.5) > 0.44)
    pavement[slabs] *= 0.8
    _below(canvas, np.full(side, horizon * side), np.clip(pavement, 0, 1))
    kerb = rng.uniform(0.05, 0.16)
    _below(canvas, np.full(side, (horizon + kerb) * side), _asphalt(rng, side, horizon))
    canvas[int((horizon + kerb) * side) :][:3] *= 1.4
    return canvas, horizon


def _dunes(rng, side, horizon) -> np.ndarray:
    tone = _hsv(rng.uniform(0.08, 0.13), rng.uniform(0.2, 0.55), rng.uniform(0.6, 0.95))
    ripple = np.sin(_depth(side, horizon) * 9 + 7 * noise(rng, (side, side), 5, 3))
    return tone * (0.85 + 0.25 * _stretched(rng, side, horizon, 50, 2) + 0.05 * ripple)[..., None]


def _sand(rng, side):
    horizon = rng.uniform(0.25, 0.5)
    canvas = _heaven(rng, side)
    _hills(rng, side, canvas, horizon, 0.08, 0.75)
    _below(canvas, (horizon - 0.05 * noise(rng, (1, side), 3, 2)[0]) * side, _dunes(rng, side, horizon))
    return canvas, horizon


def _beach(rng, side):
    canvas, horizon = _water(rng, side)
    shore = rng.uniform(0.55, 0.75)
    edge = (shore + rng.uniform(-0.15, 0.15) * np.linspace(-1, 1, side) + 0.05 * noise(rng, (1, side), 4, 2)[0]) * side
    _below(canvas, edge - 5, np.full(3, 0.95) * (0.85 + 0.15 * noise(rng, (side, side), 30, 1)[..., None]))
    _below(canvas, edge, _dunes(rng, side, horizon))
    return canvas, min(shore, 0.6)


def _snow(rng, side):
    horizon = rng.uniform(0.3, 0.5)
    canvas = _heaven(rng, side)
    peaks = (horizon - rng.uniform(0.1, 0.3) * noise(rng, (1, side), 5, 4)[0]) * side
    rock = noise(rng, (side, side), (10, 16), 4)[..., None]
    _below(
        canvas,
        peaks,
        np.where(rock > 0.52, np.array([0.9, 0.93, 0.98]), np.array([0.4, 0.43, 0.5])) * (0.7 + 0.4 * rock),
    )
    _trees(rng, side, canvas, horizon, int(rng.integers(0, 9)))
    drift = _stretched(rng, side, horizon, 8)
    _below(canvas, np.full(side, horizon * side), np.array([0.88, 0.92, 0.99]) * (0.78 + 0.3 * drift[..., None]))
    return canvas, horizon


def _forest(rng, side):
    horizon = rng.uniform(0.45, 0.65)
    green = _hsv(rng.uniform(0.2, 0.36), rng.uniform(0.3, 0.7), rng.uniform(0.25, 0.6))
    canvas = green * (0.35 + 1.1 * noise(rng, (side, side), 14, 4)[..., None])
    canvas += 0.25 * np.clip(noise(rng, (side, side), 7, 3) - 0.6, 0, 1)[..., None] * np.array([3, 3, 2])
    y, x = np.mgrid[0:side, 0:side] / side
    bark = noise(rng, (side, side), (8, 70), 2)
    for width in np.sort(rng.uniform(0.008, 0.05, int(rng.integers(5, 12)))):  # far trunks first
        centre = rng.uniform(0, 1) + (y - 0.5) * rng.uniform(-0.08, 0.08)
        across = (x - centre) / width
        trunk = (np.abs(across) < 1) & (y < horizon + width * 1.5)
        tone = _hsv(rng.uniform(0.05, 0.1), rng.uniform(0.15, 0.5), rng.uniform(0.2, 0.6))
        canvas[trunk] = (tone * (0.6 + 0.5 * bark + 0.35 * across)[..., None])[trunk]
    floor = _turf(rng, side, horizon, rng.choice([(0.06, 0.12), (0.2, 0.33)]))
    _below(canvas, (horizon + 0.05 * noise(rng, (1, side), 8, 2)[0]) * side, floor)
    return np.clip(canvas, 0, 1), horizon


def _tracks(rng, side):
    horizon = rng.uniform(0.25, 0.42)
    canvas = _heaven(rng, side)
    if rng.random() < 0.5:
        _houses(rng, side, canvas, horizon, 0.0)
    _trees(rng, side, canvas, horizon, int(rng.integers(2, 9)))
    tone = _hsv(rng.uniform(0.05, 0.12), rng.uniform(0.05, 0.3), rng.uniform(0.35, 0.6))
    gravel = tone * (0.55 + 0.9 * noise(rng, (side, side), 90, 1) * _stretched(rng, side, horizon, 40, 1))[..., None]
    _below(canvas, np.full(side, horizon * side), gravel)
    depth = _depth(side, horizon)
    below = np.arange(side)[:, None] > horizon * side
    start = rng.uniform(0.2, 0.8)
    for offset in (0.0, rng.choice([-1.9, 1.9])):
        x = (np.arange(side)[None, :] / side - start) * depth - offset
        sleepers = (np.abs(x) < 0.75) & (np.sin(depth * 7) > 0.1) & below
        canvas[sleepers] = (_hsv(0.07, 0.35, 0.33) * (0.7 + 0.6 * noise(rng, (side, side), 30, 1)[..., None]))[sleepers]
        rails = (np.abs(np.abs(x) - 0.5) < 0.05) & below
        canvas[rails] = rng.uniform(0.55, 0.85)
    return canvas, horizon


def _wall(rng, side) -> np.ndarray:
    """Painted, striped, tiled, brick or dotted wall."""
    tone, other = (_hsv(rng.uniform(0, 1), rng.uniform(0.05, 0.5), rng.uniform(0.45, 0.95)) for _ in range(2))
    y, x = np.mgrid[0:side, 0:side] / side
    kind = rng.choice(["paint", "stripes", "tiles", "brick", "dots"])
    if kind == "stripes":
        mask = np.sin(x * rng.uniform(30, 110)) > rng.uniform(-0.4, 0.4)
    elif kind == "tiles":
        pitch = rng.uniform(6, 14)
        mask = (np.abs(x * pitch % 1 - 0.5) > 0.46) | (np.abs(y * pitch % 1 - 0.5) > 0.46)
    elif kind == "brick":
        row = np.floor(y * 16)
        mask = (np.abs(y * 16 % 1 - 0.5) > 0.43) | (np.abs((x * 7 + 0.5 * (row % 2)) % 1 - 0.5) > 0.46)
        tone = _hsv(rng.uniform(0.0, 0.06), rng.uniform(0.3, 0.7), rng.uniform(0.4, 0.8))
    elif kind == "dots":
        pitch = rng.uniform(8, 16)
        mask = np.hypot(x * pitch % 1 - 0.5, y * pitch % 1 - 0.5) < 0.2
    else:
        mask = np.zeros((side, side), bool)
    canvas = np.where(mask[..., None], 0.5 * tone + 0.5 * other, tone)
    lamp = 1.1 - 0.5 * np.hypot(x - rng.uniform(0, 1), y - rng.uniform(0, 0.6))
    return canvas * lamp[..., None] * (0.94 + 0.12 * noise(rng, (side, side), 5, 4)[..., None])


def _floor(rng, side, horizon) -> np.ndarray:
    """Boards, tiles or a carpet, in perspective."""
    depth = _depth(side, horizon)
    x = (np.arange(side)[None, :] / side - rng.uniform(0.3, 0.7)) * depth
    kind = rng.choice(["boards", "tiles", "carpet"])
    if kind == "boards":
        plank = np.floor(x * rng.uniform(4, 7))
        tone = _hsv(rng.uniform(0.05, 0.1), rng.uniform(0.3, 0.6), rng.uniform(0.4, 0.8))
        shade = 0.85 + 0.25 * np.sin(plank * 12.9) + 0.15 * (noise(rng, (side, side), (10, 40), 2) - 0.5)
    elif kind == "tiles":
        tone = _hsv(rng.uniform(0, 1), rng.uniform(0, 0.3), rng.uniform(0.5, 0.9))
        shade = 0.85 + 0.2 * ((np.floor(x * 2.2) + np.floor(depth * 2.2)) % 2)
    else:
        tone = _hsv(rng.uniform(0, 1), rng.uniform(0.2, 0.7), rng.uniform(0.3, 0.75))
        shade = 0.75 + 0.5 * noise(rng, (side, side), 80, 2)
    return np.clip(tone * np.broadcast_to(shade, (side, side))[..., None], 0, 1)


def _frame(rng, canvas, horizon):
    """A window or a picture on the wall."""
    side = len(canvas)
    w, h = rng.uniform(0.16, 0.36), rng.uniform(0.14, 0.3)
    x, y = rng.uniform(0.02, 0.96 - w), rng.uniform(0.03, max(0.04, horizon - h - 0.05))
    rows, columns = slice(int(y * side), int((y + h) * side)), slice(int(x * side), int((x + w) * side))
    inside = _heaven(rng, side) if rng.random() < 0.5 else _wall(rng, side) * rng.uniform(0.4, 1.2)
    border = _hsv(rng.uniform(0.04, 0.12), rng.uniform(0, 0.6), rng.uniform(0.2, 1.0))
    canvas[rows, columns] = border
    edge = 5
    inner = (slice(rows.start + edge, rows.stop - edge), slice(columns.start + edge, columns.stop - edge))
    canvas[inner] = inside[inner]
    if rng.random() < 0.5:
        middle = (columns.start + columns.stop) // 2
        canvas[rows, middle - 1 : middle + 2] = border


def _room(rng, side):
    horizon = rng.uniform(0.5, 0.72)
    canvas = _wall(rng, side)
    for _ in range(int(rng.integers(0, 3))):
        _frame(rng, canvas, horizon)
    _below(canvas, np.full(side, horizon * side), _floor(rng, side, horizon))
    skirting = slice(int(horizon * side) - 7, int(horizon * side) + 1)
    canvas[skirting] = _hsv(rng.uniform(0, 1), rng.uniform(0, 0.3), rng.uniform(0.3, 1.0))
    return canvas, horizon


def _kitchen(rng, side):
    """A tiled wall, cupboards and a worktop."""
    top = rng.uniform(0.52, 0.68)
    canvas = _wall(rng, side)
    cupboard = _hsv(rng.uniform(0, 1), rng.uniform(0.0, 0.5), rng.uniform(0.4, 0.95))
    y, x = np.mgrid[0:side, 0:side] / side
    pitch = rng.uniform(2.5, 4.5)
    doors = np.abs(x * pitch % 1 - 0.5) > 0.47
    knobs = np.hypot((x * pitch % 1 - 0.85) / pitch, (y - top - 0.1)) < 0.014
    front = cupboard * (0.9 + 0.2 * noise(rng, (side, side), (4, 30), 2)[..., None])
    front[doors] *= 0.6
    front[knobs] = 0.85
    if rng.random() < 0.5:
        canvas[y < top - 0.42] = front[y < top - 0.42]
    _below(canvas, np.full(side, (top + 0.07) * side), front)
    worktop = _hsv(rng.uniform(0.04, 0.12), rng.uniform(0, 0.5), rng.uniform(0.3, 0.9))
    slab = (y > top) & (y < top + 0.07)
    canvas[slab] = (worktop * (0.8 + 0.4 * noise(rng, (side, side), 60, 2)[..., None]))[slab]
    return canvas, top


SCENES = {
    "sky": _sky, "water": _water, "grass": _grass, "field": _field, "road": _road, "city": _city, "sand": _sand,
    "beach": _beach, "snow": _snow, "forest": _forest, "tracks": _tracks, "room": _room, "kitchen": _kitchen,
}  # fmt: skip
