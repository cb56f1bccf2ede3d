"""Contact sheets: many photographs with their label maps in colour, on one picture for a quick look."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..data.folder import SegmentationFolder
from ..data.images import resize_image, resize_mask, voc_palette
from ..data.splits import Row
from ..masks.verify import row_counts, true_mask
from .figures import contact_sheet


def colour_labels(image: np.ndarray, label: np.ndarray, strength: float = 0.55) -> np.ndarray:
    """uint8 [H, W, 3] with label map uint8 [H, W] over it in VOC's colours, parted by white lines."""
    mixed = (1 - strength) * image + strength * voc_palette()[label]  # [H, W, 3]
    edge = np.zeros(label.shape, bool)
    edge[:, 1:] |= label[:, 1:] != label[:, :-1]
    edge[1:] |= label[1:] != label[:-1]
    mixed[edge] = 255
    return np.where(((label > 0) | edge)[..., None], mixed, image).round().astype(np.uint8)


def label_sheet(data: SegmentationFolder, ids: list[str], columns: int = 6, side: int = 200) -> Figure:
    """A figure of images with their label maps; titles name the classes, as colours alone do not."""
    pictures, titles = [], []
    for image_id in ids:
        image, label = data.image(image_id), data.label(image_id)
        scale = side / max(image.shape[:2])
        size = tuple(max(1, round(length * scale)) for length in image.shape[:2])
        pictures.append(colour_labels(resize_image(image, size), resize_mask(label, size)))
        held = [
            data.classes[v - 1] if v <= len(data.classes) else f"value {v}" for v in np.unique(label) if 0 < v < 255
        ]
        titles.append(textwrap.shorten(", ".join(held) or "background only", 24, placeholder=" ..."))
    return contact_sheet(pictures, titles, columns=columns, title=f"{data.root.name}: images and their label maps")


def mask_sheet(data, rows: list[Row], side: int = 160):
    """A figure with one line of three pictures per row: photograph, truth (where kept), pseudo mask.

    Returns a matplotlib Figure; save it with figures.save_figure.
    """
    from ..data.images import resize_image
    from .figures import overlay

    pictures, titles = [], []
    for image, class_id in rows:
        photograph = data.image(image)
        factor = side / max(photograph.shape[:2])
        size = tuple(max(1, round(s * factor)) for s in photograph.shape[:2])
        small = resize_image(photograph, size)
        truth, mask = true_mask(data, image, class_id), data.pseudo_mask(image, class_id)
        title = f"{data.classes[class_id]}\n{image}"
        if truth is not None and truth.shape == mask.shape:
            inter, union = row_counts(mask == 1, truth)
            title = f"pseudo mask\nIoU {100 * inter[1] / max(1, union[1]):.0f}"
        pictures += [
            small,
            overlay(small, None if truth is None else resize_mask(truth, size), "truth"),
            overlay(small, resize_mask(mask, size), "pseudo"),
        ]
        titles += [f"{data.classes[class_id]}\n{image}", "truth" if truth is not None else "no truth kept", title]
    return contact_sheet(pictures, titles, columns=6, title=f"Pseudo masks of {Path(data.masks).name}")
