"""Photographs of a user's on disk: which files are meant, and results beside which nothing of the user's is lost.

Every picture written here carries a digest of its pixels. A file at the same place without it, or changed since, is
the user's and is never written over; a file with it is never taken for a photograph.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..errors import TLGError
from ..machine.paths import atomic, user_path
from .listing import some

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".avif", ".tif", ".tiff", ".gif")
CONVERT = (".heic", ".heif")  # what telephones write and Pillow does not read
MAKER = "tlg predict"
LONGEST_NAME = 180  # bytes of a name that is written; systems take 255, with the endings of ours and of a part
KINDS = ("mask", "overlay")


def images_at(path: str | Path) -> list[Path]:
    """The image, or all images directly in a folder, by name; results of ``tlg predict`` are no photographs.

    Raises TLGError (code 3) when there is none, or one of a kind to be converted.
    """
    path = user_path(path)
    if not path.is_dir():
        if path.suffix.lower() in CONVERT and path.is_file():
            raise TLGError(f"{path}: {path.suffix[1:].upper()} is not read here: convert it to JPEG", code=3)
        return [path]
    found = [p for p in _files(path) if p.suffix.lower() in SUFFIXES and not _tag(p)]
    if not found:
        raise TLGError(f"no image in {path}: expected files ending in {', '.join(SUFFIXES)}{_advice(path)}", code=3)
    return found


def passed_over(path: str | Path) -> list[Path]:
    """Files in a folder that ``images_at`` leaves out, but for hidden ones and results of ``tlg predict``."""
    path = user_path(path)
    return [p for p in _files(path) if p.suffix.lower() not in SUFFIXES] if path.is_dir() else []


def _files(folder: Path) -> list[Path]:
    """Visible files by name: no ``.DS_Store``, no macOS companions ``._photo.jpg``."""
    try:
        return sorted(p for p in folder.iterdir() if not p.name.startswith(".") and (p.is_file() or p.is_symlink()))
    except OSError as error:
        raise TLGError(f"cannot read the folder {folder} ({error.strerror}): check its permissions", code=3) from None


def _advice(folder: Path) -> str:
    count = sum(p.suffix.lower() in CONVERT for p in _files(folder))
    said = [f"convert the {count} HEIC files to JPEG"] if count else []
    return "".join(f"; {line}" for line in (*said, *folders_note(folder)))


def folders_note(path: str | Path) -> list[str]:
    """What must be said of folders inside of a folder, into which ``images_at`` does not look; often nothing."""
    path = user_path(path)
    inside = sorted(p.name for p in path.iterdir() if p.is_dir() and p.name[0] != ".") if path.is_dir() else []
    return [f"folders inside are not looked into ({some(inside)}): name one of them"] if inside else []


def output_stems(queries: list[Path], out: Path) -> list[Path]:
    """A path without ending below ``out`` for each query, no two alike, also where case does not count.

    Two queries ``a.jpg`` and ``a.png`` keep their endings; a name too long is cut, with a digest in place of its end.
    """
    stems, taken, found = Counter(path.stem.casefold() for path in queries), set(), []
    for path in queries:
        base = name = _shortened(path.stem if stems[path.stem.casefold()] == 1 else path.name)
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{base}~{number}"
        taken.add(name.casefold())
        found.append(out / name)
    return found


def _shortened(name: str) -> str:
    raw = os.fsencode(name)
    if len(raw) <= LONGEST_NAME:
        return name
    return raw[:LONGEST_NAME].decode("utf-8", "ignore") + "~" + hashlib.sha256(raw).hexdigest()[:8]


def output_path(stem: Path, kind: str) -> Path:
    return stem.with_name(f"{stem.name}_{kind}.png")


def refuse_overwriting(
    out: Path, queries: list[Path], inputs: list[Path], targets: list[Path], summaries: list[Path]
) -> None:
    """Raise TLGError where writing would mix with, or replace, anything that ``tlg predict`` did not write.

    queries: files and folders of what is segmented; inputs: all photographs and masks that are read.
    """
    for query in filter(Path.is_dir, queries):
        if _same(out, query) or query.resolve() in out.resolve().parents:
            raise TLGError(
                f"--out {out} lies in the query folder: choose a folder beside it, as --out {query.resolve()}-out"
            )
    read = {path.resolve() for path in inputs}
    for path in (*targets, *summaries):
        if path.resolve() in read:
            raise TLGError(f"{path} is an input and would be written over: choose another --out")
        if os.path.lexists(path) and not (_summary_is_ours(path) if path in summaries else picture_is_ours(path)):
            raise TLGError(f"{path} was not written by `tlg predict`, or changed since: choose another --out")


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def write_picture(path: Path, values: np.ndarray) -> None:
    """Write uint8 [H, W] or [H, W, 3] as PNG, whole or not at all, with the digest that marks it as ours."""
    about = PngInfo()
    about.add_text("Software", f"{MAKER} {_digest(values)}")
    with atomic(path) as file:
        Image.fromarray(np.ascontiguousarray(values)).save(file, format="PNG", pnginfo=about)


def picture_is_ours(path: Path) -> bool:
    """Whether ``write_picture`` wrote the file and its pixels are as they were."""
    tag = _tag(path)
    return bool(tag) and tag.split()[-1] == _digest(np.asarray(Image.open(path)))


def _digest(values: np.ndarray) -> str:
    return hashlib.sha256(repr(values.shape).encode() + np.ascontiguousarray(values).tobytes()).hexdigest()[:16]


def _tag(path: Path) -> str:
    """The mark of ``write_picture`` in a PNG's header, or ""."""
    if path.suffix.lower() != ".png":
        return ""
    try:
        with Image.open(path) as image:
            tag = image.info.get("Software", "")
    except Exception:  # broken or bombs: told when it is read as a photograph
        return ""
    return tag if isinstance(tag, str) and tag.startswith(f"{MAKER} ") else ""


def _summary_is_ours(path: Path) -> bool:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["made_by"] == MAKER
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def coco_annotations(found: list[tuple[dict, dict | None]], name: str) -> dict:
    """What COCO's tools read: one annotation a photograph in which something was found.

    found: (entry with "query", "height", "width", "confidence"; its ``coco_shape``); name: of the only category.
    "score" is the mean probability inside.
    """
    images, annotations = [], []
    for number, (entry, shape) in enumerate(found, 1):
        images.append({"id": number, "file_name": entry["query"], **{k: entry[k] for k in ("height", "width")}})
        if shape is not None:
            about = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "score": entry["confidence"]}
            annotations.append({**about, **shape})
    categories = [{"id": 1, "name": name or "object"}]
    return {"made_by": MAKER, "images": images, "annotations": annotations, "categories": categories}


def coco_shape(mask: np.ndarray, form: str) -> dict | None:
    """bbox, area and segmentation of bool [H, W] in COCO's form, or None when it is empty.

    form: "rle", exact, uncompressed runs down the columns (iscrowd 1, as COCO marks those); or "polygons", outlines
    without holes.
    """
    if not mask.any():
        return None
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
    return {
        "bbox": [int(v) for v in box],
        "area": int(mask.sum()),
        "iscrowd": int(form == "rle"),
        "segmentation": _runs(mask) if form == "rle" else _polygons(mask),
    }


def _runs(mask: np.ndarray) -> dict:
    """COCO's uncompressed run lengths: down the columns, beginning with a run of background (it may be 0)."""
    flat = np.concatenate([[0], mask.ravel(order="F").astype(np.int8), [-1]])
    starts = np.flatnonzero(np.diff(flat))  # the closing -1 ends the last run
    counts = np.diff(np.concatenate([[0], starts]))
    return {"size": list(mask.shape), "counts": [int(c) for c in counts]}


def _polygons(mask: np.ndarray) -> list[list[float]]:
    """Outer outlines [x, y, x, y, ...] of each part with an area, along the middles of its rim's pixels."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [[float(v) for v in line.reshape(-1)] for line in outlines if len(line) >= 3]
