"""A dataset on disk in VOC layout: images, label maps, split lists and pseudo masks by class.

JPEGImages/<id>.jpg   SegmentationClassAug/<id>.png (pixel = class + 1, 0 background, 255 ignored)
splits/{trn,val}/fold{0..3}.txt with rows `<id>__<class from 1>`, each fold listing its *own* classes
PseudoMasks/<id>--<class from 0>.png, or PseudoMasks/<id>.png, with the same pixel values
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from ..errors import TLGError
from .classes import class_names, fold_classes
from .images import in_frame, read_image, read_mask
from .listing import Listing, list_images, list_masks, some
from .splits import Row


class SegmentationFolder:
    """Read access to one dataset folder; nothing is loaded before it is asked for.

    root: the folder; dataset: "mini", "pascal" or "coco" (class names and folds); masks: folder of pseudo
    masks, by default root/PseudoMasks. Raises TLGError naming what is missing.
    """

    def __init__(self, root: str | Path, dataset: str = "mini", masks: str | Path = ""):
        self.root, self.dataset = Path(root), dataset
        self.classes: tuple[str, ...] = class_names(dataset)
        self.masks = Path(masks) if masks else self.root / "PseudoMasks"
        self._listed: tuple[int, Listing] = (0, Listing())
        for name in ("JPEGImages", "SegmentationClassAug"):
            if not (self.root / name).is_dir():
                raise TLGError(
                    f"no folder {self.root / name}: give a dataset in VOC layout with --data, or make "
                    f"one with `tlg data {dataset if dataset != 'pascal' else 'voc'}`",
                    code=3,
                )

    # --- lists
    @cached_property
    def images(self) -> Listing:
        return list_images(self.root / "JPEGImages")

    @cached_property
    def labels(self) -> Listing:
        return list_masks(self.root / "SegmentationClassAug")

    @property
    def image_ids(self) -> list[str]:
        return list(self.images.files)

    def fold_classes(self, fold: int) -> tuple[int, ...]:
        return fold_classes(self.dataset, fold)

    def rows(self, split: str, fold: int) -> list[Row]:
        """Rows (image_id, class_id from 0) of the fold's own classes in split "trn" or "val"."""
        return list(self._splits[split, fold])

    @cached_property
    def _splits(self) -> dict[tuple[str, int], list[Row]]:
        from .splits import build_splits, read_split

        folder = self.root / "splits"
        if not folder.is_dir():
            built = build_splits(self.root, self.dataset)
            return {(split, fold): built[split][fold] for split in ("trn", "val") for fold in range(4)}
        return {
            (split, fold): read_split(folder / split / f"fold{fold}.txt", self.dataset, self.images.files)
            for split in ("trn", "val")
            for fold in range(4)
        }

    def training_rows(
        self, fold: int, both_splits: bool = False, keep_novel: bool = False, validation_fold: int = -1
    ) -> list[Row]:
        """Training rows for test fold ``fold``: the other folds' rows.

        An image that also holds a held-out class would teach that class as background, so it is left out, unless
        ``keep_novel`` (as the authors keep it). both_splits adds the val rows of the other folds, for folders too
        small to do without; then an image of a hidden row is never kept, as it is scored. validation_fold: another
        fold that is left out in the same way (-1: none).
        """
        left_out = hidden_folds(fold, validation_fold)
        novel = {c + 1 for f in left_out for c in self.fold_classes(f)}
        splits = ("trn", "val") if both_splits else ("trn",)
        rows = [row for f in range(4) if f not in left_out for split in splits for row in self.rows(split, f)]
        if both_splits:
            scored = {image for image, _ in self.hidden_rows(fold, True, validation_fold)}
            rows = [row for row in rows if row[0] not in scored]
        if keep_novel:
            return rows
        presence = {image: novel.isdisjoint(self.classes_in(image)) for image in {image for image, _ in rows}}
        return [row for row in rows if presence[row[0]]]

    def base_rows(self, fold: int) -> list[Row]:
        """Validation rows of the *base* classes, for choices that must not look at the test classes."""
        return [row for f in range(4) if f != fold for row in self.rows("val", f)]

    def test_rows(self, fold: int, both_splits: bool = False) -> list[Row]:
        return self.rows("val", fold) + (self.rows("trn", fold) if both_splits else [])

    def hidden_rows(self, fold: int, both_splits: bool = False, validation_fold: int = -1) -> list[Row]:
        """Test rows of every hidden fold: their images are scored, so never trained on."""
        return [row for f in hidden_folds(fold, validation_fold) for row in self.test_rows(f, both_splits)]

    @cached_property
    def _class_index(self) -> dict[str, dict[int, int]]:
        from .splits import class_index

        return class_index(self.root)

    def values_in(self, image_id: str) -> dict[int, int]:
        """Pixels of each number in the image's label map, 0 and 255 included; empty where there is no map."""
        return self._class_index.get(image_id, {})

    def classes_in(self, image_id: str) -> set[int]:
        """Label values (class + 1) present in the image."""
        return set(self.values_in(image_id)) - {0, 255}

    # --- pixels
    def image_path(self, image_id: str) -> Path:
        path = self.images.files.get(image_id)
        if path is None or not path.is_file():
            folder, foreign = self.root / "JPEGImages", self.images.foreign
            others = f"; files of other kinds there: {some(foreign)}" if foreign else ""
            raise TLGError(
                f"no image {image_id} in {folder}: named in a split list; restore it or "
                f"drop the row (tlg data verify){others}",
                code=3,
            )
        if image_id in self.images.twice:
            raise TLGError(
                f"{path} and {self.images.twice[image_id][0].name} are images of one name: keep one of them", code=3
            )
        return path

    def image(self, image_id: str) -> np.ndarray:
        """uint8 RGB [H, W, 3]."""
        return read_image(self.image_path(image_id))

    def label_path(self, image_id: str) -> Path:
        """Where the label map lies, or would lie."""
        return self.labels.files.get(image_id) or self.root / "SegmentationClassAug" / f"{image_id}.png"

    def label(self, image_id: str) -> np.ndarray:
        """uint8 [H, W]: class + 1, 0 background, 255 ignored; in the frame of the upright photograph."""
        return in_frame(read_mask(self.label_path(image_id)), self.image_path(image_id))

    def mask(self, image_id: str, class_id: int) -> np.ndarray:
        """True mask of one class, uint8 {0, 1, 255} [H, W]."""
        return one_class(self.label(image_id), class_id)

    def pseudo_mask_path(self, image_id: str, class_id: int) -> Path:
        own, whole = f"{image_id}--{class_id}", image_id
        path = self.masks / f"{own}.png"
        if path.is_file():
            return path
        if (self.masks / f"{whole}.png").is_file():
            return self.masks / f"{whole}.png"
        present = self.pseudo_masks().files  # .PNG, or another Unicode form of the name
        return present.get(own) or present.get(whole) or path

    def pseudo_label(self, image_id: str, class_id: int) -> np.ndarray:
        """The stored numbers of a pseudo mask, uint8 [H, W], in the frame of the upright photograph."""
        path = self.pseudo_mask_path(image_id, class_id)
        if not path.is_file():
            raise TLGError(f"no pseudo mask {path}: make it with `tlg masks make --data {self.root}`", code=3)
        return in_frame(read_mask(path), self.image_path(image_id))

    def pseudo_mask(self, image_id: str, class_id: int) -> np.ndarray:
        """Pseudo mask of one class, uint8 {0, 1, 255} [H, W]."""
        return one_class(self.pseudo_label(image_id, class_id), class_id)

    def pseudo_masks(self) -> Listing:
        """The files of ``masks``, listed again when the folder's time changes: masks may be made meanwhile."""
        changed = self.masks.stat().st_mtime_ns if self.masks.is_dir() else 0
        if self._listed[0] != changed:
            self._listed = changed, list_masks(self.masks)
        return self._listed[1]

    def missing_masks(self, rows: list[Row]) -> list[Row]:
        """Rows without a pseudo mask; looked up in one directory listing."""
        present = self.pseudo_masks().files
        return [(i, c) for i, c in rows if f"{i}--{c}" not in present and i not in present]


def hidden_folds(fold: int, validation_fold: int = -1) -> tuple[int, ...]:
    """Folds whose classes training does not see: the test fold and, unless -1, the one that stands in for it."""
    return tuple(dict.fromkeys(f for f in (fold, validation_fold) if f >= 0))


def one_class(label: np.ndarray, class_id: int) -> np.ndarray:
    """Label map [H, W] (class + 1) to a mask {0, 1, 255} [H, W] of one class."""
    mask = (label == class_id + 1).astype(np.uint8)
    mask[label == 255] = 255
    return mask


@lru_cache(maxsize=8)
def open_folder(root: str, dataset: str, masks: str) -> SegmentationFolder:
    """The folder object for these arguments, shared so that lists are read once per process."""
    return SegmentationFolder(root, dataset, masks)
