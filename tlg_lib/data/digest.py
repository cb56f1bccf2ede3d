"""What a run's data are: a digest that changes with any list, image, label map or mask that the run uses."""

from __future__ import annotations

import hashlib
import zlib
from functools import cache
from pathlib import Path

from .folder import SegmentationFolder
from .splits import Row


def data_digest(data: SegmentationFolder, rows: list[Row]) -> str:
    """16 hex digits that change with the rows and with any image, label map or pseudo mask that they name.

    Label maps and pseudo masks count with their content, images with their size in bytes: reading all of
    COCO's photographs at every start would take minutes.
    """
    running = hashlib.sha256()
    for image, class_id in sorted(set(rows)):
        masks = (data.label_path(image), data.pseudo_mask_path(image, class_id))
        marks = [data.image_path(image).stat().st_size, *(_content(path) for path in masks)]
        running.update(f"{image}/{class_id}/{marks}\n".encode())
    return running.hexdigest()[:16]


def _content(path: Path) -> int:
    """CRC-32 of a file, -1 where there is none; read once per process and change."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return -1
    return _crc(path, stat.st_size, stat.st_mtime_ns)


@cache
def _crc(path: Path, size: int, changed: int) -> int:
    return zlib.crc32(path.read_bytes())
