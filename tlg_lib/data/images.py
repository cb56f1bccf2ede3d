"""Reading, writing and resizing of photographs and label maps; every broken file is named in one line."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..errors import TLGError
from ..machine.paths import atomic

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
IGNORED = (118, 118, 118)  # RGB of pixels marked 255, where a mask is drawn


def read_image(path: str | Path) -> np.ndarray:
    """A photograph as uint8 RGB [H, W, 3], upright by its EXIF orientation.

    Grey, palette, CMYK and 16-bit grey images are converted; transparency is laid over white. Raises TLGError
    (code 3) naming a missing, empty, truncated or foreign file.
    """
    image = _load(path, "image")
    if image.getexif().get(0x0112, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        return _deep_grey(image, path)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def read_mask(path: str | Path) -> np.ndarray:
    """A label map as uint8 [H, W]: the stored numbers, never the colours of a palette.

    Takes palette and 8-bit (or narrower) grey images. Raises TLGError (code 3) naming a broken file, a 16-bit
    file, one saved in colour, or a lossy JPEG.
    """
    image = _load(path, "mask")
    if image.format == "JPEG":
        raise TLGError(f"{path}: a mask saved as JPEG has invented values: save it as PNG", code=3)
    if image.mode.startswith(("I", "F")):
        raise TLGError(
            f"{path}: a 16-bit mask ({image.mode}): save it as 8-bit grey or palette PNG, pixel = class number", code=3
        )
    if image.mode not in ("P", "L", "1"):
        raise TLGError(
            f"{path}: a mask in colour ({image.mode}): save class numbers as 8-bit grey or palette PNG", code=3
        )
    values = np.array(image, dtype=np.uint8)  # [H, W]; mode "1" becomes 0 and 1
    if image.mode == "L":
        bits = _png_grey_bits(path)
        if bits < 8:  # Pillow stretches 2- and 4-bit grey to 0..255; the numbers are wanted as stored
            values //= 255 // (2**bits - 1)
    return values


def write_mask(path: str | Path, mask: np.ndarray, palette: bool = True) -> None:
    """Write uint8 [H, W] as PNG, whole or not at all; palette: in VOC's colours, to be looked at."""
    image = Image.fromarray(np.ascontiguousarray(mask, dtype=np.uint8))
    if palette:
        image.putpalette(voc_palette().tobytes())
    with atomic(path) as file:
        image.save(file, format="PNG", optimize=False, compress_level=6)


def voc_palette() -> np.ndarray:
    """Colours of label values, uint8 [256, 3]: the bits of the value spread over the high bits of R, G, B."""
    values = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for position in range(8):
        for channel in range(3):
            bit = (values >> (3 * position + channel)) & 1
            palette[:, channel] |= (bit << (7 - position)).astype(np.uint8)
    return palette


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3] to uint8 [h, w, 3], size = (h, w): bilinear, antialiased when shrinking."""
    return np.array(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W] to uint8 [h, w], size = (h, w): nearest, so that no new value appears."""
    return np.array(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST))


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of an upright image from its header, without decoding. Raises as ``read_image``."""
    with _opened(path, "image") as image:
        width, height = image.size
        try:
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        except Exception as error:  # of a PNG, Pillow decodes all to find EXIF at its end
            raise _broken(path, "image", error) from None
    return (width, height) if turned else (height, width)


def mask_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of a mask from its header, without decoding. Raises as ``read_mask``."""
    with _opened(path, "mask") as mask:
        return mask.size[1], mask.size[0]


def _load(path: str | Path, what: str) -> Image.Image:
    with _opened(path, what) as image:
        try:
            image.load()
        except Exception as error:  # Pillow's decoders raise many kinds on broken bytes
            raise _broken(path, what, error) from None
        return image


def _opened(path: str | Path, what: str) -> Image.Image:
    path = Path(path)
    try:
        size = path.stat().st_size
    except (OSError, ValueError):
        raise TLGError(f"no {what} {path}: check the name", code=3) from None
    if path.is_dir():
        raise TLGError(f"{path} is a folder: name one {what} file", code=3)
    if size == 0:
        raise TLGError(f"{path}: the {what} file is empty (0 bytes): restore it from the source", code=3)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(path)
    except Exception as error:
        raise _broken(path, what, error) from None


def _broken(path: str | Path, what: str, error: Exception) -> TLGError:
    if isinstance(error, Image.DecompressionBombError):
        return TLGError(f"{path}: the {what} is larger than Pillow's limit: shrink it", code=3)
    if isinstance(error, PermissionError):
        return TLGError(f"cannot read {what} {path}: no permission", code=3)
    reason = "truncated" if "truncat" in str(error) else "not a readable image"
    return TLGError(f"{path}: the {what} is broken ({reason}): restore it from the source", code=3)


def _deep_grey(image: Image.Image, path: str | Path) -> np.ndarray:
    """16-bit grey to RGB by its high byte; 32-bit and float images have no agreed range and are refused."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise TLGError(f"{path}: an image of type {image.mode}: save it with 8 bits per channel", code=3)
    return np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2)  # [H, W, 3]


def _png_grey_bits(path: str | Path) -> int:
    """Bit depth in a PNG's header for grey pixels; 8 for every other file."""
    with open(path, "rb") as file:
        head = file.read(26)
    if len(head) == 26 and head[:8] == b"\x89PNG\r\n\x1a\n" and head[25] == 0:
        return struct.unpack("B", head[24:25])[0]
    return 8


def tint(image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], strength: float = 0.5) -> np.ndarray:
    """An image with a mask drawn over it in one colour (RGB, 0..255) and a solid outline; 255 in the mask is grey.

    image: uint8 [H, W, 3]; mask: {0, 1, 255} or bool [H, W]; strength 0..1. Returns uint8 [H, W, 3].
    """
    if mask.shape != image.shape[:2]:
        raise ValueError(f"mask {mask.shape} over an image of {image.shape[:2]}")
    values = mask.astype(np.uint8)
    picture = image.astype(np.float32)
    for value, paint in ((1, colour), (255, IGNORED)):
        region = values == value
        picture[region] = (1 - strength) * picture[region] + strength * np.array(paint, np.float32)
        if value == 1:
            picture[_outline(region)] = paint
    return picture.round().astype(np.uint8)


def _outline(region: np.ndarray) -> np.ndarray:
    """Pixels of a bool [H, W] region that touch its outside."""
    padded = np.pad(region, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return region & ~inner
