"""Drawn truth made coarse: masks as good as CLIP-ES's, to ask what a network does with good masks (`tlg curve`).

python data_scripts/coarse_masks.py data/mini data/mini/PseudoMasks_coarse
A result on them is none under weak labels: they are made from the drawn masks.
"""

import argparse
import hashlib
from pathlib import Path

import cv2
import numpy as np

from tlg_lib.data.folder import SegmentationFolder
from tlg_lib.data.images import write_mask

CELLS = 14  # along the longer side
FROM_PSEUDO = 0.2  # of the rows, told by a hash: their pseudo mask stands for the gross errors of a generator


def coarse(mask: np.ndarray, cells: int = CELLS) -> np.ndarray:
    """Mask {0, 1, 255} [H, W] on a grid of ``cells`` along the longer side: 1 where half of a cell is; unsure is 0."""
    height, width = mask.shape
    side = max(height, width) / cells
    grid = max(1, round(width / side)), max(1, round(height / side))  # width first, as OpenCV has it
    share = cv2.resize((mask == 1).astype(np.float32), grid, interpolation=cv2.INTER_AREA)
    return cv2.resize((share >= 0.5).astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)


def main(root: str, out: str) -> None:
    data = SegmentationFolder(root)
    for image, class_id in sorted({row for split in ("trn", "val") for f in range(4) for row in data.rows(split, f)}):
        share = int(hashlib.sha256(f"coarse/{image}/{class_id}".encode()).hexdigest()[:8], 16) / 2**32
        mask = data.pseudo_mask(image, class_id) if share < FROM_PSEUDO else coarse(data.mask(image, class_id))
        write_mask(Path(out) / f"{image}--{class_id}.png", np.where(mask == 1, class_id + 1, mask).astype(np.uint8))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="dataset folder in VOC layout, with drawn and pseudo masks")
    parser.add_argument("out", help="folder of the new masks")
    arguments = parser.parse_args()
    main(arguments.data, arguments.out)
