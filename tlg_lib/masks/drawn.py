"""Support masks that a user draws: a picture of the mask, an array, a box, or points cut out by GrabCut.

A drawn mask takes the place of CLIP's guess, so neither a class name nor CLIP is needed for that support image.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from ..data.images import black_elsewhere, open_picture, orientation_of, resize_image, resize_mask, voc_palette
from ..errors import TLGError
from ..machine.paths import user_path

CUT_SIDE = 640  # pixels; GrabCut works on larger images shrunk to this longer side
ROUNDS = 5  # of GrabCut; its energy hardly falls after that
# Share of a box below which the cut has lost the object and the whole box is the better support: the network for
# photographs then reaches 0.32 IoU for 0.19; between 0.05 and 0.15 neither is better throughout (docs/ladder.md).
LEAST = 0.05
HOW = (
    'give a mask picture, a box "x0,y0,x1,y1", or points "x,y x,y -x,y" (a minus before a point outside the object), '
    "in pixels from the top left"
)


def drawn_mask(image: np.ndarray, given, where: str = "the drawn mask") -> np.ndarray:
    """The object of ``image`` (uint8 [H, W, 3]) as uint8 {0, 1} [H, W].

    given: bool or integer array [H, W] or a PIL image (see ``one_object``), a path of such a picture, or text with
    boxes and points as HOW says. where: names the mask in errors. Raises TLGError: code 3 for a broken file, 2 for
    a mask of another size, of several objects, of nothing or of everything.
    """
    if isinstance(given, np.ndarray):
        mask = one_object(given, where)
    elif isinstance(given, Image.Image):
        mask = one_object(_values(given), where)
    elif isinstance(given, str) and (shapes := parse_shapes(given, where)):
        mask = cut(image, *shapes, where)
    elif isinstance(given, (str, Path)):
        where = f"{where} {given}"
        mask = one_object(_values(_open(given, where)), where)
    else:
        raise TLGError(f"{where} is of type {type(given).__name__}: {HOW}")
    if mask.shape != image.shape[:2]:
        sizes = " and ".join(f"{height} x {width}" for height, width in (mask.shape, image.shape[:2]))
        raise TLGError(f"{where} and its image differ in size ({sizes} pixels, height x width): draw it over the image")
    if not mask.any() or mask.all():
        raise TLGError(f"{where} marks {'everything' if mask.any() else 'nothing'}: mark the object, not what is round")
    return mask


def one_object(values: np.ndarray, where: str) -> np.ndarray:
    """Which pixels of a drawn mask are the object, uint8 {0, 1}.

    Black or transparent is outside. One other value, whichever, is the object, and 255 beside it is left out (the
    unsure rim of VOC's masks); many greys are a drawing with soft edges, cut at half. Anything else is refused: of
    a label map with several classes, in numbers or in colours, nobody can know which one is meant.
    """
    if values.ndim == 3 and values.shape[2] == 4 and values[..., 3].min() < 128 <= values[..., 3].max():
        return (values[..., 3] >= 128).astype(np.uint8)  # cut out: what is left is the object
    if values.ndim == 3 and values.shape[2] in (3, 4):
        values = _one_colour(values[..., :3], where)
    if values.ndim != 2 or values.dtype.kind not in "bui":
        raise TLGError(f"{where} has shape {values.shape}, type {values.dtype}: expected [H, W] of whole numbers")
    found = np.unique(values)
    objects = [int(v) for v in found if v != 0]
    if len(objects) == 2 and objects[1] == 255 and objects[0] <= 100:
        objects = objects[:1]
    if len(objects) <= 1:
        return (values == objects[0]).astype(np.uint8) if objects else np.zeros(values.shape, np.uint8)
    between = np.mean((values > 64) & (values < 192))
    if objects[-1] < 192 or between > 0.1 or values.max() > 255:
        listed = ", ".join(map(str, objects[:4])) + (" ..." if len(objects) > 4 else "")
        raise TLGError(f"{where} holds the values {listed}: save one object, white on black")
    return (values >= 128).astype(np.uint8)


def _one_colour(values: np.ndarray, where: str) -> np.ndarray:
    """Brightness [H, W] of a mask painted in one colour, its soft edges in darker tones; VOC's unsure rim is left out.

    Raises TLGError for a second colour: two objects painted apart are not one.
    """
    values = np.where((values == voc_palette()[255]).all(2, keepdims=True), 0, values)
    brightness = values.max(2)
    painted = values[brightness >= 64].astype(np.float32)
    if len(painted):
        hues = painted / painted.max(1, keepdims=True)  # [N, 3]
        other = np.abs(hues - np.median(hues, 0)).max(1) > 0.25
        if other.mean() > 0.01:
            raise TLGError(f"{where} is painted in several colours: save one object, white on black")
    return brightness


def parse_shapes(text: str, where: str) -> tuple[list, list, list] | None:
    """(boxes (x0, y0, x1, y1), points inside, points outside) of a text, or None where it is no such text."""
    boxes, inside, outside = [], [], []
    for item in text.replace(";", " ").split():
        try:
            numbers = [float(part) for part in item.removeprefix("-").split(",")]
        except ValueError:
            return None
        if len(numbers) == 4 and not item.startswith("-"):
            boxes.append(numbers)
        elif len(numbers) == 2:
            (outside if item.startswith("-") else inside).append(numbers)
        else:
            raise TLGError(f"{where} '{item}': {HOW}")
    return (boxes, inside, outside) if boxes or inside or outside else None


def cut(image: np.ndarray, boxes: list, inside: list, outside: list, where: str = "the box") -> np.ndarray:
    """GrabCut (Rother et al., SIGGRAPH 2004) of what lies in the boxes and at the points, uint8 {0, 1} [H, W].

    Outside the boxes nothing is object. Without a box the object is looked for all over the image, from the points
    inside, and is what remains connected with one of them. Where next to nothing is left (the colours do not differ,
    or the box cuts through the object), the whole box is the mask; without a box, what was pointed at.
    """
    height, width = image.shape[:2]
    scale = min(1.0, CUT_SIDE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    for x0, y0, x1, y1 in boxes:
        box = f"{where} {x0:g},{y0:g},{x1:g},{y1:g}"
        if not (0 <= x0 <= x1 <= width and 0 <= y0 <= y1 <= height):
            raise TLGError(f"{box}: must lie in the image, 0,0 to {width},{height}, the top left corner first")
        if min(x1 - x0, y1 - y0) < 2:
            raise TLGError(f"{box}: must be at least 2 pixels wide and high")
    for x, y in inside + outside:
        if not (0 <= x < width and 0 <= y < height):
            raise TLGError(f"{where} {x:g},{y:g}: must lie in the image, 0,0 to {width},{height}")
    if not boxes and not inside:
        raise TLGError(f"{where} says only what is not the object: give a box or a point inside")
    labels = np.full(size, cv2.GC_BGD if boxes else cv2.GC_PR_BGD, np.uint8)
    for x0, y0, x1, y1 in boxes:
        labels[round(y0 * scale) : round(y1 * scale), round(x0 * scale) : round(x1 * scale)] = cv2.GC_PR_FGD
    spot = max(2, min(size) // 40)
    if not boxes:
        for point in inside:
            _disc(labels, point, scale, min(size) // 5, cv2.GC_PR_FGD)
    for points, label in ((inside, cv2.GC_FGD), (outside, cv2.GC_BGD)):
        for point in points:
            _disc(labels, point, scale, spot, label)
    allowed = labels != cv2.GC_BGD
    found = _grabcut(resize_image(image, size), labels)
    if not boxes:
        found = _connected(found, inside, scale)
    least = 0.02 if inside else LEAST  # a point inside says where the object is, however thin; a box does not
    if found.sum() < least * allowed.sum():
        found = allowed if boxes else labels == cv2.GC_FGD
    return resize_mask(found.astype(np.uint8), (height, width))


def _grabcut(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """bool [h, w]; labels (GrabCut's four) are changed in place."""
    sides = [np.isin(labels, pair).sum() for pair in ((cv2.GC_FGD, cv2.GC_PR_FGD), (cv2.GC_BGD, cv2.GC_PR_BGD))]
    if min(sides) < 16:  # a colour model has five components; with fewer pixels there is nothing to cut
        return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))
    cv2.setRNGSeed(0)  # its colour models start from a random k-means
    bgr = np.ascontiguousarray(image[..., ::-1])
    cv2.grabCut(bgr, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), ROUNDS, cv2.GC_INIT_WITH_MASK)
    return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))


def _disc(labels: np.ndarray, point, scale: float, radius: int, value: int) -> None:
    cv2.circle(labels, (int(point[0] * scale), int(point[1] * scale)), radius, int(value), -1)


def _connected(found: np.ndarray, points: list, scale: float) -> np.ndarray:
    _, parts = cv2.connectedComponents(found.astype(np.uint8))
    kept = {parts[min(int(y * scale), len(parts) - 1), min(int(x * scale), parts.shape[1] - 1)] for x, y in points}
    return np.isin(parts, list(kept - {0}))


def _open(path: str | Path, where: str) -> Image.Image:
    """The picture, upright: a mask painted over a photograph keeps its EXIF orientation."""
    path = user_path(path)
    if not path.is_file():
        raise TLGError(f"{where}: no such file: {HOW}", code=3)
    image = open_picture(path, "mask")
    form = image.format  # told by the file, lost by turning
    if orientation_of(image) != 1:
        image = ImageOps.exif_transpose(image)
        image.format = form
    return image


def _values(image: Image.Image) -> np.ndarray:
    """Stored numbers of a palette or grey picture, else its colours; also of a palette that paints 0 and not black."""
    if image.format in ("JPEG", "MPO") or image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        image = image.convert("L")
    if image.mode == "P" and black_elsewhere(image):
        image = image.convert("RGB")
    if image.mode == "LA" or (image.mode == "P" and "transparency" in image.info):
        image = image.convert("RGBA")
    return np.asarray(image)
