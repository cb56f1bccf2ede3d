"""Silhouettes of the mini benchmark: glyphs of two icon fonts, and drawings of our own where fonts have few.

A glyph is a pair of grey images: ``shape``, the whole object with its holes filled, and ``detail``, the part
of it that gets a second colour (windows, screens, faces, hooves). Glyph names are "mdi:bus-side" (Material
Design Icons), "fa:crow" (Font Awesome), "own:sheep-standing" (drawn here) or "pot:fa:seedling" (a glyph of a
plant standing in a pot of ours). docs/design.md, 6.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from ...errors import TLGError
from .drawings import CANVAS, DRAWINGS, Pen

# (package that holds the font, pip name of it, font file below the package)
FONTS = {
    "mdi": ("fonticon_mdi7", "fonticon-materialdesignicons7", "fonts/materialdesignicons-webfont.ttf"),
    "fa": ("fonticon_fa6", "fonticon-fontawesome6", "fonts/Font Awesome 6 Free-Solid-900.otf"),
}

# Glyphs of training and of test images, disjoint, look-alikes on one side. "!" keeps the largest piece only,
# without ground lines.
# fmt: off
GLYPHS: dict[str, tuple[str, str]] = {
    "aeroplane": ("mdi:airplane mdi:airplane-takeoff! fa:plane-up fa:jet-fighter",
        "fa:plane mdi:airplane-landing! fa:jet-fighter-up"),
    "bicycle": ("mdi:bicycle mdi:bicycle-basket mdi:bicycle-penny-farthing own:bicycle-racer",
        "fa:bicycle mdi:bicycle-cargo own:bicycle-city"),
    "bird": ("mdi:bird fa:crow mdi:duck mdi:owl", "fa:dove fa:kiwi-bird mdi:penguin"),
    "boat": ("mdi:ferry mdi:sail-boat fa:ferry own:boat-fishing", "fa:ship fa:sailboat own:boat-steamer"),
    "bottle": ("mdi:bottle-tonic fa:wine-bottle fa:bottle-droplet fa:bottle-water",
        "mdi:bottle-soda mdi:bottle-wine mdi:bottle-soda-classic"),
    "bus": ("mdi:bus mdi:bus-side mdi:bus-school mdi:bus-articulated-front",
        "mdi:bus-double-decker fa:bus fa:bus-simple"),
    "car": ("mdi:car mdi:car-side mdi:car-hatchback mdi:car-sports fa:car",
        "mdi:car-pickup mdi:car-convertible fa:car-side fa:car-rear"),
    "cat": ("mdi:cat own:cat-walking own:cat-lying", "fa:cat own:cat-sitting own:cat-standing"),
    "chair": ("mdi:chair-school fa:chair own:chair-side", "mdi:chair-rolling mdi:seat own:chair-front"),
    "cow": ("mdi:cow own:cow-grazing own:cow-walking", "fa:cow own:cow-standing"),
    "diningtable": ("mdi:table-furniture own:table-round own:table-set",
        "mdi:table-picnic own:table-cloth own:table-side"),
    "dog": ("mdi:dog mdi:dog-side own:dog-running", "fa:dog own:dog-standing own:dog-sitting"),
    "horse": ("mdi:horse fa:horse-head own:horse-galloping", "fa:horse mdi:horse-variant own:horse-standing"),
    "motorbike": ("mdi:motorbike fa:motorcycle own:motorbike-cruiser", "mdi:moped own:motorbike-sport"),
    "person": ("mdi:human-male mdi:walk mdi:human-greeting mdi:human fa:child-reaching fa:person-running",
        "mdi:human-female mdi:run fa:person fa:person-dress fa:person-walking fa:child"),
    "pottedplant": ("pot:mdi:flower-tulip pot:mdi:flower pot:mdi:cactus pot:mdi:palm-tree",
        "pot:fa:seedling pot:fa:plant-wilt pot:own:leaves"),
    "sheep": ("mdi:sheep own:sheep-walking own:sheep-lying", "own:sheep-standing own:sheep-grazing"),
    "sofa": ("mdi:sofa fa:couch own:sofa-corner", "mdi:sofa-single own:sofa-long own:sofa-round"),
    "train": ("mdi:train mdi:subway-variant mdi:train-variant fa:train-tram mdi:train-car-passenger own:train-steam",
        "fa:train-subway fa:train own:train-engine"),
    "tvmonitor": ("mdi:television-classic mdi:monitor mdi:desktop-classic", "fa:tv mdi:television fa:desktop"),
}
# fmt: on

DISTRACTORS = tuple(
    (
        "mdi:umbrella mdi:guitar-acoustic mdi:rocket mdi:anchor mdi:apple mdi:clock mdi:fish mdi:turtle "
        "mdi:elephant mdi:butterfly mdi:hammer mdi:key mdi:snowman mdi:lighthouse mdi:castle mdi:hat-fedora "
        "fa:guitar fa:spider fa:frog fa:fish fa:dragon fa:hippo fa:gift fa:lemon fa:ice-cream fa:drum "
        "fa:mug-saucer mdi:pumpkin mdi:mushroom mdi:teddy-bear mdi:violin mdi:tent mdi:balloon "
        "mdi:basketball mdi:cake mdi:carrot mdi:fruit-cherries mdi:fruit-pineapple mdi:lamp mdi:fridge "
        "mdi:washing-machine mdi:traffic-light mdi:bell mdi:trophy mdi:kettle mdi:wrench mdi:tractor "
        "mdi:excavator mdi:helicopter fa:hat-wizard mdi:telescope mdi:piano mdi:trumpet mdi:mailbox "
        "mdi:barrel mdi:fire-hydrant mdi:grill mdi:robot mdi:ghost "
    ).split()
)

# Classes whose glyph holes are air (spokes, legs), not windows: they stay holes.
OPEN = {"bicycle", "chair", "diningtable"}


@dataclass(frozen=True)
class Glyph:
    """shape, detail: float64 0..1 [CANVAS, CANVAS], centred with a margin; detail lies within shape."""

    shape: np.ndarray
    detail: np.ndarray


def class_glyphs(name: str, split: str) -> list[str]:
    """Glyph names of a class for split "trn" or "val"."""
    return GLYPHS[name][0 if split == "trn" else 1].split()


def distractor_word(glyph: str) -> str:
    """What a distractor is called: "mdi:fruit-cherries" -> "cherries", "fa:ice-cream" -> "ice cream"."""
    words = glyph.partition(":")[2].split("-")
    if words[0] == "fruit":
        return words[1]
    return words[0] if words[0] in ("guitar", "hat", "mug") else " ".join(words)


def font_path(font: str) -> Path:
    """The font file inside its pip package, found without importing the package (which may want Qt)."""
    package, pip_name, file = FONTS[font]
    spec = importlib.util.find_spec(package)
    path = Path(spec.submodule_search_locations[0]) / file if spec and spec.submodule_search_locations else None
    if path is None or not path.is_file():
        raise TLGError(f"no icon font {file} of {pip_name}: install it with `pip install {pip_name}`", code=3)
    return path


def font_versions() -> dict[str, str]:
    """What the pictures depend on besides the seed: package versions and the hashes of the font files."""
    versions = {}
    for font, (_, pip_name, _) in FONTS.items():
        digest = hashlib.sha256(font_path(font).read_bytes()).hexdigest()
        versions[pip_name] = f"{importlib.metadata.version(pip_name)} sha256:{digest}"
    return versions


@cache
def _font(font: str) -> tuple[ImageFont.FreeTypeFont, dict[str, int]]:
    from fontTools.ttLib import TTFont

    path = font_path(font)
    level = logging.getLogger("fontTools").level
    logging.getLogger("fontTools").setLevel(logging.ERROR)  # the table `post` of mdi has two spare bytes
    try:
        table = TTFont(path).getBestCmap()
    finally:
        logging.getLogger("fontTools").setLevel(level)
    names = {name: code for code, name in sorted(table.items(), reverse=True)}  # lowest code wins
    return ImageFont.truetype(str(path), int(CANVAS * 0.7)), names


@cache
def load_glyph(name: str, open_holes: bool = False) -> Glyph:
    """Draw a glyph by name; open_holes keeps enclosed holes out of the shape. TLGError: unknown name."""
    source, _, rest = name.partition(":")
    if source == "own":
        pen = Pen()
        DRAWINGS[rest](pen)
        shape, detail = pen.arrays()
    elif source == "pot":
        shape, detail = _potted(load_glyph(rest))
    else:
        shape, detail = _from_font(source, rest, open_holes)
    return Glyph(*_centred(shape, detail))


def _from_font(font: str, name: str, open_holes: bool) -> tuple[np.ndarray, np.ndarray]:
    name, largest = name.rstrip("!"), name.endswith("!")
    face, codes = _font(font)
    if name not in codes:
        raise TLGError(
            f"the icon font {FONTS[font][1]} has no glyph '{name}': install the version of pyproject.toml", code=3
        )
    image = Image.new("L", (CANVAS * 2, CANVAS * 2))
    ImageDraw.Draw(image).text((CANVAS, CANVAS), chr(codes[name]), font=face, fill=255, anchor="mm")
    shape = np.asarray(image, np.float64) / 255
    if largest:
        pieces, count = ndimage.label(shape > 0.1)
        sizes = ndimage.sum_labels(np.ones_like(pieces), pieces, range(1, count + 1))
        shape = np.where(pieces == 1 + int(np.argmax(sizes)), shape, 0.0)
    if open_holes:
        return shape, np.zeros_like(shape)
    filled = np.where(ndimage.binary_fill_holes(shape > 0.5), 1.0, shape)
    return filled, np.clip(filled - shape, 0, 1)


def _centred(shape: np.ndarray, detail: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Crop both to the shape and fit them into the middle of the canvas with a margin of an eighth."""
    rows, columns = np.flatnonzero((shape > 0.05).any(1)), np.flatnonzero((shape > 0.05).any(0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    scale = CANVAS * 0.75 / max(box[2] - box[0], box[3] - box[1])
    size = (max(1, round((box[2] - box[0]) * scale)), max(1, round((box[3] - box[1]) * scale)))
    corner = ((CANVAS - size[0]) // 2, (CANVAS - size[1]) // 2)
    fitted = []
    for image in (shape, detail):
        out = Image.new("L", (CANVAS, CANVAS))
        out.paste(_grey(image).crop(box).resize(size, Image.Resampling.LANCZOS), corner)
        fitted.append(np.asarray(out, np.float64) / 255)
    return fitted[0], np.minimum(fitted[1], fitted[0])


def _grey(image: np.ndarray) -> Image.Image:
    return Image.fromarray((np.clip(image, 0, 1) * 255).round().astype(np.uint8))


def _potted(plant: Glyph) -> tuple[np.ndarray, np.ndarray]:
    """A plant standing in a flower pot; the pot is the detail, so that it gets its own colour."""
    side = CANVAS
    pen = Pen()
    pen.polygon([(0.33, 0.66), (0.67, 0.66), (0.61, 0.97), (0.39, 0.97)], detail=True)
    pen.polygon([(0.30, 0.62), (0.70, 0.62), (0.70, 0.70), (0.30, 0.70)], detail=True)
    pen.stroke([(0.5, 0.66), (0.5, 0.52)], 0.025)
    shape, detail = pen.arrays()
    rows = np.flatnonzero((plant.shape > 0.05).any(1))
    top = _grey(plant.shape).crop((0, int(rows[0]), side, int(rows[-1]) + 1))
    height = int(shape.shape[0] * 0.62)
    top = top.resize((int(top.width * height / top.height), height), Image.Resampling.LANCZOS)
    canvas = Image.new("L", (shape.shape[1], shape.shape[0]))
    canvas.paste(top, ((canvas.width - top.width) // 2, int(shape.shape[0] * 0.64) - height))
    return np.maximum(shape, np.asarray(canvas, np.float64) / 255), detail
