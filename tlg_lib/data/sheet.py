"""Contact sheets: many photographs with their label maps in colour, on one picture for a quick look."""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.figure import Figure

from ..figures import contact_sheet
from .folder import SegmentationFolder
from .images import resize_image, resize_mask, voc_palette


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
            data.classes[v - 1] if v <= len(data.classes) else f"value {v}"
            for v in np.unique(label)
            if 0 < v < 255
        ]
        titles.append(textwrap.shorten(", ".join(held) or "background only", 24, placeholder=" ..."))
    return contact_sheet(
        pictures, titles, columns=columns, title=f"{data.root.name}: images and their label maps"
    )
