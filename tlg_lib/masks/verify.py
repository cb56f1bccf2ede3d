"""Are the masks there, readable, of the right size, and how good: coverage, faults, mIoU by stage, a sheet.

Works on masks from anywhere in place: ``<image>--<class>.png`` or one PNG per image, pixel = class + 1, 255
unsure. Where there is no truth, everything but the scores is reported.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..data.folder import one_class
from ..data.images import image_size
from ..data.splits import Row
from ..errors import TLGError
from ..machine.progress import track
from ..metrics import IGNORE, scores
from .refine import REFINERS, available_refiners

SPLITS = ("trn", "val")


@dataclass
class MaskReport:
    """Result of ``verify_masks``.

    coverage: (split, fold) -> (masks found, rows wanted). missing, empty: rows without a mask, or whose mask
    shows nothing of the class. faults: one line per unreadable file, wrong size or wrong value. miou: percent
    by "fold0".. and "all" over the classes that have truth (empty without truth); per_class: class name ->
    percent. checked: masks that were looked at; unsure: share of pixels marked 255.
    """

    folder: str
    coverage: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    missing: list[Row] = field(default_factory=list)
    empty: list[Row] = field(default_factory=list)
    checked: int = 0
    faults: list[str] = field(default_factory=list)
    miou: dict[str, float] = field(default_factory=dict)
    per_class: dict[str, float] = field(default_factory=dict)
    unsure: float = 0.0

    @property
    def usable(self) -> bool:
        """Whether training and evaluation on these masks can start."""
        wanted = sum(wanted for _, wanted in self.coverage.values())
        return not self.missing and not self.faults and not (wanted and len(self.empty) == self.checked)

    def to_dict(self) -> dict:
        """Plain values for JSON; coverage keys become "trn/fold0"."""
        return {**self.__dict__, "coverage": {f"{s}/fold{f}": list(v) for (s, f), v in self.coverage.items()}}


def verify_masks(data, progress: bool = True) -> MaskReport:
    """Check the pseudo masks of a SegmentationFolder against its split lists, images and, where kept, truth."""
    report = MaskReport(str(data.masks))
    if not Path(data.masks).is_dir():
        raise TLGError(
            f"no folder {data.masks}: make the masks with `tlg masks make --data {data.root}` or name "
            "their folder with --masks",
            code=3,
        )
    rows = {(split, fold): data.rows(split, fold) for split in SPLITS for fold in range(4)}
    everything = sorted({row for part in rows.values() for row in part})
    report.missing = data.missing_masks(everything)
    absent = set(report.missing)
    for key, part in rows.items():
        report.coverage[key] = (sum(row not in absent for row in part), len(part))
    counts, ids, unsure, pixels = [], [], 0, 0
    present = [row for row in everything if row not in absent]
    report.checked = len(present)
    for image, class_id in track(present, label="masks", unit="masks", show=progress):
        mask = _checked_mask(data, image, class_id, report)
        if mask is None:
            continue
        unsure, pixels = unsure + int((mask == 255).sum()), pixels + mask.size
        truth = true_mask(data, image, class_id)
        if truth is not None and truth.shape == mask.shape:
            counts.append(row_counts(mask == 1, truth))
            ids.append(class_id)
    report.unsure = unsure / max(1, pixels)
    if ids:
        report.miou, report.per_class = _fold_scores(data, np.array(counts), np.array(ids))
    return report


def _checked_mask(data, image: str, class_id: int, report: MaskReport) -> np.ndarray | None:
    """The mask {0, 1, 255}, or None with a line in ``report.faults``."""
    path = data.pseudo_mask_path(image, class_id)
    try:
        label, size = data.pseudo_label(image, class_id), image_size(data.image_path(image))
    except TLGError as error:
        report.faults.append(str(error))
        return None
    if label.shape != size:
        report.faults.append(
            f"{path}: {label.shape[1]}x{label.shape[0]} pixels, its image has {size[1]}x{size[0]}: "
            "make it again (tlg masks make)"
        )
        return None
    # Files of one class hold that class alone; files of a whole image may hold every class.
    own_file = path.stem.endswith(f"--{class_id}")
    allowed = [0, 255, class_id + 1] if own_file else [0, 255, *range(1, len(data.classes) + 1)]
    wrong = np.setdiff1d(label, allowed)
    if len(wrong):
        expected = f"{class_id + 1} ('{data.classes[class_id]}')" if own_file else f"1..{len(data.classes)}"
        report.faults.append(f"{path}: pixel value {wrong[0]}, expected 0, 255 or {expected}: make it again")
        return None
    mask = one_class(label, class_id)
    if not (mask == 1).any():
        report.empty.append((image, class_id))
    return mask


def true_mask(data, image: str, class_id: int) -> np.ndarray | None:
    try:
        return data.mask(image, class_id)
    except TLGError:
        return None


def row_counts(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """int64 [2, 2]: (intersection, union) x (background, foreground), as metrics.intersection_union counts.

    In NumPy: thousands of small masks are counted one by one, which torch's threads only slow down.
    """
    valid, true = truth != IGNORE, truth == 1
    both, either = np.count_nonzero(prediction & true), np.count_nonzero((prediction & valid) | true)
    pixels = np.count_nonzero(valid)
    return np.array([[pixels - either, both], [pixels - both, either]])


def _fold_scores(data, counts: np.ndarray, ids: np.ndarray) -> tuple[dict[str, float], dict[str, float]]:
    """(mIoU by fold and of all classes, IoU by class name) from counts [N, 2, 2] of rows with class ids [N]."""
    whole = scores(counts[:, 0], counts[:, 1], ids)
    by_fold = {}
    for fold in range(4):
        own = [whole.per_class[c] for c in data.fold_classes(fold) if c in whole.per_class]
        if own:
            by_fold[f"fold{fold}"] = float(np.mean(own))
    return {**by_fold, "all": whole.miou}, {data.classes[c]: iou for c, iou in whole.per_class.items()}


def score_stages(
    data, maker, rows: list[Row], refiners: list[str] | None = None, batch: int = 16, progress: bool = True
) -> dict[str, dict[str, float]]:
    """mIoU of every stage of mask generation against the truth, by fold and over all classes of ``rows``.

    maker: generate.MaskMaker; refiners: names in refine.REFINERS, by default all that run here. "cam" and
    "affinity" are maps cut at one half, class by class; "argmax" lets classes and background compete;
    "refined: x" comes after refiner x. Returns stage -> {"fold0": .., "all": percent}.
    """
    refiners = [r for r in (refiners or available_refiners()) if r != "none"]
    by_image = defaultdict(list)
    for image, class_id in rows:
        by_image[image].append(class_id)
    named = {i: tuple(sorted({*c, *(v - 1 for v in data.classes_in(i))})) for i, c in by_image.items()}
    by_size = defaultdict(list)
    for image in sorted(by_image):
        by_size[image_size(data.image_path(image))].append(image)
    groups = [same[k : k + batch] for same in by_size.values() for k in range(0, len(same), batch)]
    counts, ids = defaultdict(list), []
    for group in track(groups, label="stages", unit="batches", show=progress):
        images = [data.image(i) for i in group]
        for name, image, stages in zip(group, images, maker(images, [named[i] for i in group])):
            refined = {r: _refined(image, stages, r, maker.recipe.refine) for r in refiners}
            for class_id in by_image[name]:
                truth = data.mask(name, class_id)
                for stage, mask in _stage_masks(stages, refined, class_id, truth.shape).items():
                    counts[stage].append(row_counts(mask, truth))
                ids.append(class_id)
    return {stage: _fold_scores(data, np.array(c), np.array(ids))[0] for stage, c in counts.items()}


def _refined(image, stages, refiner: str, used: str) -> np.ndarray:
    """Label map [H, W] after a refiner; the maker's own result where it used that one."""
    if refiner == used:
        return stages.refined.argmax(0)
    return REFINERS[refiner](image, stages.probability).argmax(0)


def _stage_masks(stages, refined: dict[str, np.ndarray], class_id: int, size) -> dict[str, np.ndarray]:
    """Stage name -> bool [H, W] of one class."""
    k = stages.classes.index(class_id)
    cut = lambda maps: _enlarged(maps[k], size) > 0.5  # noqa: E731
    masks = {"cam": cut(stages.cam), "affinity": cut(stages.spread), "argmax": stages.argmax == k + 1}
    return {**masks, **{f"refined: {name}": label == k + 1 for name, label in refined.items()}}


def _enlarged(map_: np.ndarray, size) -> np.ndarray:
    tensor = torch.from_numpy(map_)[None, None]
    return F.interpolate(tensor, tuple(size), mode="bilinear", align_corners=False)[0, 0].numpy()
