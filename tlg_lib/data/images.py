"""Reading, writing and resizing of photographs and label maps; every broken file is named in one line."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..errors import TLGError
from ..machine.paths import atomic
from .listing import some

MAX_PIXELS = 64_000_000  # of a file that is opened: a few kB may claim billions
TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
_ORIENTATION = 0x0112
# Told by the content, whatever the suffix; formats that start programs (EPS) are not opened.
_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "WEBP", "AVIF", "TIFF", "GIF", "PPM")
_ONE_FRAME = (".jpg", ".jpeg", ".jfif", ".bmp")
IGNORED = (118, 118, 118)  # RGB of pixels marked 255, where a mask is drawn


def read_image(path: str | Path) -> np.ndarray:
    """A photograph as uint8 RGB [H, W, 3], upright by its EXIF orientation.

    Grey, palette and CMYK images are converted, 16- and 32-bit greys scaled by the range found; transparency is laid
    over white. Raises TLGError (code 3) naming a missing, empty, truncated, huge or foreign file.
    """
    image = open_picture(path, "image")
    bits = _bits(image, path)
    if orientation_of(image) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        return _deep_grey(image, path)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    pixels = np.array(image.convert("RGB"))
    if bits == 16 and pixels.max() < 64:  # Pillow keeps the high bytes alone: 12 bits in 16 would be all but black
        raise TLGError(
            f"{path}: 16 bits a channel, of which the highest are empty: save the photograph with 8 bits a channel",
            code=3,
        )
    return pixels


def read_mask(path: str | Path) -> np.ndarray:
    """A label map as uint8 [H, W]: the stored numbers, never the colours of a palette.

    Takes palette and 8-bit (or narrower) grey images. Raises TLGError (code 3) naming a broken file, a 16-bit
    file, one saved in colour or turned by EXIF, a lossy JPEG, or a palette that shows VOC's colours at other numbers.
    """
    image = open_picture(path, "mask")
    if image.format in ("JPEG", "MPO"):
        raise TLGError(f"{path}: a mask saved as JPEG has invented values: save it as PNG", code=3)
    if image.mode.startswith(("I", "F")):
        raise TLGError(
            f"{path}: a 16-bit mask ({image.mode}): save it as 8-bit grey or palette PNG, pixel = class number", code=3
        )
    if image.mode not in ("P", "L", "1"):
        raise TLGError(
            f"{path}: a mask in colour ({image.mode}): save class numbers as 8-bit grey or palette PNG", code=3
        )
    if orientation_of(image) != 1:
        raise TLGError(f"{path}: a mask with an EXIF orientation: save it upright, without", code=3)
    values = np.array(image, dtype=np.uint8)  # [H, W]; mode "1" becomes 0 and 1
    if image.mode == "P":
        _check_palette(image, values, path)
    if image.mode == "L":
        bits = _bits(image, path)
        if bits < 8:  # Pillow stretches 2- and 4-bit grey to 0..255; the numbers are wanted as stored
            values //= 255 // (2**bits - 1)
    return values


def _check_palette(image: Image.Image, values: np.ndarray, path: str | Path) -> None:
    """Refuse a number that is painted in VOC's colour of another: some programs renumber a palette as they save it."""
    palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    voc, known = voc_palette(), np.arange(81)  # 80 classes at most
    shared = min(len(palette), 81)
    if (palette[:shared] == voc[:shared]).all():
        return
    if black_elsewhere(image):
        raise TLGError(
            f"{path}: the palette paints 0 and leaves another number black, so it was renumbered: save class numbers "
            "as 8-bit grey PNG, 0 = background",
            code=3,
        )
    colour = {tuple(voc[v]): int(v) for v in (*known, 255)}
    for number in np.flatnonzero(np.bincount(values.ravel(), minlength=256)):
        shown = tuple(palette[number]) if number < len(palette) else ()
        meant = colour.get(shown, int(number))
        # A grey ramp of the numbers themselves has some of VOC's greys; what was never painted is black.
        if meant not in (0, number) and shown != (number,) * 3:
            raise TLGError(
                f"{path}: number {number} is painted in VOC's colour of {meant}, so the palette was renumbered or is "
                "one of your own: save class numbers as 8-bit grey PNG",
                code=3,
            )


def black_elsewhere(image: Image.Image) -> bool:
    """Whether a palette picture shows black at a number that it uses, and another colour at 0."""
    palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    used = [v for v in np.unique(np.asarray(image)) if 0 < v < len(palette)]
    return bool(len(palette) and palette[0].any() and any(not palette[v].any() for v in used))


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
    (height, width), orientation = stored_frame(path)
    return (width, height) if orientation in TURNED else (height, width)


def stored_frame(path: str | Path) -> tuple[tuple[int, int], int]:
    """((height, width) as stored, EXIF orientation 1..8) of an image from its header. Raises as ``read_image``."""
    with _opened(path, "image") as image:
        width, height = image.size
        try:
            return (height, width), orientation_of(image)
        except Exception as error:  # of a PNG, Pillow decodes all to find EXIF at its end
            raise _broken(path, "image", error) from None


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation 1..8 of an open image; 1 where there is none, or a number that is none."""
    found = image.getexif().get(_ORIENTATION, 1)
    return found if found in range(1, 9) else 1


def without_orientation(path: str | Path) -> bytes:
    """The bytes of a JPEG with the EXIF orientation set to 1, so that every reader shows the stored pixels.

    Nothing else changes. Raises TLGError (code 3) for another format.
    """
    content = bytearray(Path(path).read_bytes())
    at = 2
    while content[:2] == b"\xff\xd8" and at + 4 <= len(content) and content[at] == 0xFF and content[at + 1] != 0xDA:
        length = int.from_bytes(content[at + 2 : at + 4], "big")
        if content[at + 1] == 0xE1 and content[at + 4 : at + 10] == b"Exif\0\0" and _set_upright(content, at + 10):
            return bytes(content)
        at += 2 + length
    raise TLGError(
        f"{path}: an EXIF orientation in a file that is no plain JPEG: save it as JPEG or PNG without", code=3
    )


def _set_upright(content: bytearray, start: int) -> bool:
    """Write 1 into the orientation entry of the TIFF header at ``start``; False where there is none."""
    order = {b"II": "little", b"MM": "big"}.get(bytes(content[start : start + 2]))
    if order is None:
        return False
    number = lambda at, size: int.from_bytes(content[at : at + size], order)  # noqa: E731
    first = start + number(start + 4, 4)
    for i in range(number(first, 2)):
        entry = first + 2 + 12 * i
        if number(entry, 2) == _ORIENTATION and entry + 10 <= len(content):
            content[entry + 8 : entry + 10] = (1).to_bytes(2, order)
            return True
    return False


def in_frame(mask: np.ndarray, photo: str | Path) -> np.ndarray:
    """A mask [H, W] in the frame of its upright photograph.

    A mask of the stored pixels' size, where EXIF turns the photograph by 90 degrees, was drawn on the stored pixels
    and is turned with it. Every other mask, one of a wrong size included, comes back as it is.
    """
    stored, orientation = stored_frame(photo)
    if orientation not in TURNED or stored[0] == stored[1] or mask.shape != stored:
        return mask
    turns = {5: np.transpose, 6: lambda m: np.rot90(m, -1), 7: lambda m: np.rot90(m, 2).T, 8: np.rot90}
    return np.ascontiguousarray(turns[orientation](mask))


def mask_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of a mask from its header, without decoding. Raises as ``read_mask``."""
    with _opened(path, "mask") as mask:
        return mask.size[1], mask.size[0]


def open_picture(path: str | Path, what: str) -> Image.Image:
    """A decoded picture of one of the formats that are read, of at most MAX_PIXELS. Raises TLGError (code 3)."""
    with _opened(path, what) as image:
        try:
            image.load()
        except Exception as error:  # Pillow's decoders raise many kinds on broken bytes
            raise _broken(path, what, error) from None
        return image


def frames_note(paths: Iterable[Path]) -> list[str]:
    """What must be said of pictures of several frames or pages, of which ``read_image`` takes the first; often nothing.

    A telephone's MPO holds its photograph once more, as a depth or brightness map, and is none of them.
    """
    found = [path.name for path in paths if path.suffix.lower() not in _ONE_FRAME and _frames(path) > 1]
    return [f"pictures of several frames, of which the first is used: {len(found)} ({some(found)})"] if found else []


def _frames(path: Path) -> int:
    try:
        with _opened(path, "image") as image:
            return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    except Exception:  # Pillow's readers raise many kinds; what is broken is told where the picture is read
        return 1


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
            Image.init()
            image = Image.open(path, formats=[name for name in _FORMATS if name in Image.OPEN])
    except Exception as error:
        raise _broken(path, what, error) from None
    check_pixels(*image.size, f"{path}: the {what}")
    return image


def check_pixels(width: int, height: int, where: str) -> None:
    """Refuse a picture of more than MAX_PIXELS: decoded and enlarged it would fill the memory."""
    if width * height > MAX_PIXELS:
        raise TLGError(
            f"{where} has {width} x {height} pixels, more than {MAX_PIXELS // 10**6} million: shrink it", code=3
        )


def _broken(path: str | Path, what: str, error: Exception) -> TLGError:
    if isinstance(error, Image.DecompressionBombError):
        return TLGError(f"{path}: the {what} is larger than Pillow's limit: shrink it", code=3)
    if isinstance(error, PermissionError):
        return TLGError(f"cannot read {what} {path}: no permission", code=3)
    reason = "truncated" if "truncat" in str(error) else "not a readable image"
    return TLGError(f"{path}: the {what} is broken ({reason}): restore it from the source", code=3)


def _deep_grey(image: Image.Image, path: str | Path) -> np.ndarray:
    """16- or 32-bit grey to uint8 RGB [H, W, 3]: 0, or the darkest value below it, is black, the brightest white.

    Cameras, microscopes and scanners store 10 to 14 bits in 16, or numbers of their own: no file says its white.
    """
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise TLGError(f"{path}: pixels that are no numbers (NaN or infinite): save it with 8 bits a channel", code=3)
    low, high = min(0.0, values.min()), values.max()
    grey = (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
    return np.repeat(grey.round().astype(np.uint8)[..., None], 3, axis=2)


def _bits(image: Image.Image, path: str | Path) -> int:
    """Bits a channel as the header of a PNG or TIFF says; 8 for every other file."""
    if image.format == "TIFF":
        bits = image.tag_v2.get(258)  # BitsPerSample
        return max(bits) if isinstance(bits, tuple) and bits and all(isinstance(b, int) for b in bits) else 8
    with open(path, "rb") as file:
        head = file.read(26)
    return head[24] if len(head) == 26 and head[:8] == b"\x89PNG\r\n\x1a\n" else 8


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
