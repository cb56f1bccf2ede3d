"""A full look at a dataset folder: what it holds per class and fold, what is broken, and the remedy."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import TLGError
from ..machine.parallel import parallel_map
from .classes import FOLDS, class_names, fold_of
from .images import TURNED, frames_note, in_frame, read_image, read_mask, stored_frame
from .listing import Listing, list_images, list_masks, some
from .splits import SPLITS, Row, check_values, image_set, read_split

# Kinds of problems in the order in which they are shown, with what to do about them.
# A finished dataset is not looked through again by these commands, so a damaged file would stay.
_AGAIN = (
    "delete the file and run the command that made the dataset again (tlg data mini, voc or coco, with the same "
    "--from and --out): it puts back what is missing"
)
REMEDIES = {
    "broken image": f"{_AGAIN}; or restore the file from the source, or drop its rows",
    "broken mask": f"{_AGAIN}; or save the mask as 8-bit PNG, pixel = class number",
    "class out of range": "masks hold 0, 1..{classes} and 255 (ignored): correct the map or --dataset",
    "masks of one value": "every object has one number whatever its class: write class numbers, 1 = the first class",
    "sizes differ": "the mask belongs to another picture or another frame of it (turned, cropped, scaled): draw or "
    "export it again from this photograph, or restore both; resizing it alone would put it in the wrong place",
    "image without mask": "restore the mask, or drop the image from the lists (tlg data splits --force)",
    "mask without image": "restore the image, or drop the id from the lists (tlg data splits --force)",
    "same name twice": "keep one image per name: the suffix does not tell them apart",
    "unfit name": "a list cannot hold the name, so the file is not used: rename it (and its mask)",
    "bad list": "correct the list, or build all of them again with `tlg data splits --force`",
    "trained and tested": "a score on a picture that was trained on is of what was seen: drop its rows from one list",
    "class not in its image": "the list names a class that the mask lacks: build the lists again",
    "too few images": "an episode needs a query and another image of its class: add images or drop the row",
}


@dataclass
class Report:
    """What ``verify`` found. classes: per class its number, name, fold, images, share of pixels, rows."""

    root: Path
    dataset: str
    images: int = 0
    masks: int = 0
    classes: list[dict] = field(default_factory=list)
    rows: dict[str, list[int]] = field(default_factory=dict)  # split -> rows per fold
    problems: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # kind -> lines
    notes: list[str] = field(default_factory=list)

    @property
    def broken(self) -> int:
        return sum(len(lines) for lines in self.problems.values())


def verify(root: str | Path, dataset: str = "pascal", progress: bool = True) -> Report:
    """Decode every image and mask of a folder in VOC layout and check lists against them.

    Nothing is changed on disk. Raises TLGError only when the folder itself is missing.
    """
    root, names = Path(root), class_names(dataset)
    report = Report(root, dataset)
    photos, masks = _files(root, report)
    report.images, report.masks = len(photos), len(masks)
    images = sorted(photos.keys() | masks.keys())
    pairs = [(photos.get(i), masks.get(i), len(names)) for i in images]
    held: dict[str, dict[int, int]] = {}
    frames: dict[str, list[str]] = defaultdict(list)
    checked = parallel_map(_check_pair, pairs, f"checking {root.name}", unit="images", show=progress)
    for image, (problems, counts, frame) in zip(images, checked):
        for kind, line in problems:
            report.problems[kind].append(line)
        if counts:
            held[image] = counts
        if frame:
            frames[frame].append(image)
    _note_frames(frames, report)
    report.notes += frames_note(photos.values())
    try:
        check_values(root / "SegmentationClassAug", held)
    except TLGError as error:
        report.problems["masks of one value"].append(str(error))
    rows = _check_lists(root, dataset, photos, masks, held, report)
    _count_classes(names, dataset, held, rows, report)
    return report


def _files(root: Path, report: Report) -> tuple[dict[str, Path], dict[str, Path]]:
    listings: list[Listing] = []
    for name, listed in (("JPEGImages", list_images), ("SegmentationClassAug", list_masks)):
        if not (root / name).is_dir():
            raise TLGError(
                f"no folder {root / name}: give a dataset in VOC layout, or make one with `tlg data voc`", code=3
            )
        found = listed(root / name)
        listings.append(found)
        for image, others in found.twice.items():
            lines = [f"{found.files[image]} and {other.name}" for other in others]
            report.problems["same name twice"] += lines
        report.problems["unfit name"] += [f"{name}: {some([n])}" for n in found.unfit]
        for what, names in (
            ("files of other kinds", found.foreign),
            ("links to nowhere and other names that hold no file", found.dangling),
            ("folders", found.folders),
        ):
            if names:
                report.notes.append(f"{len(names)} {what} in {name} are not used ({some(names)})")
    return listings[0].files, listings[1].files


def _note_frames(frames: dict[str, list[str]], report: Report) -> None:
    """What EXIF does to photographs: masks that were turned with them, and those where nothing tells the frame."""
    if frames["turned"]:
        report.notes.append(
            f"{len(frames['turned'])} masks were drawn on the stored pixels of photographs that EXIF turns, and are "
            f"turned with them ({some(frames['turned'])})"
        )
    if frames["open"]:
        report.notes.append(
            f"{len(frames['open'])} photographs are turned or mirrored by EXIF in a way that the mask's size cannot "
            f"show ({some(frames['open'])}): their masks must be drawn on the upright picture; if they were drawn on "
            "the stored pixels, remove the EXIF orientation"
        )


def _check_pair(job: tuple[Path | None, Path | None, int]) -> tuple[list[tuple[str, str]], dict[int, int], str]:
    """Problems of one image and its mask, the pixels per label value of the mask, and what ``_framed`` says."""
    photo, mask, classes = job
    problems, counts, sizes, frame = [], {}, [], ""
    if photo:
        try:
            sizes.append(read_image(photo).shape[:2])
        except TLGError as error:
            problems.append(("broken image", str(error)))
    if mask:
        try:
            label = read_mask(mask)
            if sizes:
                label, frame = _framed(label, photo)
            sizes.append(label.shape)
            found = np.bincount(label.ravel(), minlength=256)
            counts = {int(v): int(found[v]) for v in found.nonzero()[0]}
        except TLGError as error:
            problems.append(("broken mask", str(error)))
    wrong = [v for v in counts if classes < v < 255]
    if wrong:
        problems.append(
            ("class out of range", f"{mask}: class number {', '.join(map(str, wrong[:5]))}, the highest is {classes}")
        )
    if len(sizes) == 2 and sizes[0] != sizes[1]:
        problems.append(
            (
                "sizes differ",
                f"{mask}: {sizes[1][0]} x {sizes[1][1]}, but the image is {sizes[0][0]} x "
                f"{sizes[0][1]} (height x width)",
            )
        )
    return problems, counts, frame


def _framed(label: np.ndarray, photo: Path) -> tuple[np.ndarray, str]:
    """The mask in its photograph's frame; "turned" where that changed it, "open" where its size cannot tell."""
    stored, orientation = stored_frame(photo)
    if orientation == 1:
        return label, ""
    if orientation not in TURNED or stored[0] == stored[1]:
        return label, "open"
    turned = in_frame(label, photo)
    return turned, "turned" if turned.shape != label.shape else ""


def _check_lists(
    root: Path, dataset: str, photos: dict, masks: dict, held: dict, report: Report
) -> list[tuple[str, Row]]:
    """Rows by split, with everything wrong about the lists added to the report."""
    rows: list[tuple[str, Row]] = []
    listed: set[str] = set()
    if (root / "splits").is_dir():
        for split in SPLITS:
            report.rows[split] = []
            for fold in range(FOLDS):
                try:
                    found = read_split(root / "splits" / split / f"fold{fold}.txt", dataset, photos)
                except TLGError as error:
                    report.problems["bad list"].append(str(error))
                    found = []
                report.rows[split].append(len(found))
                rows += [(split, row) for row in found]
        listed |= {image for _, (image, _) in rows}
    else:
        report.notes.append("no split lists: they are built by rule at first use (or now, with `tlg data splits`)")
    for side in ("train", "train_aug", "trainaug", "val"):
        try:
            listed |= set(image_set(root, side, known=photos) or ()) if rows == [] else set()
        except TLGError as error:
            report.problems["bad list"].append(str(error))
    for image in sorted(listed):
        if image not in masks:
            report.problems["image without mask"].append(
                f"{image}: in the lists, not in {root / 'SegmentationClassAug'}"
            )
        if image not in photos:
            report.problems["mask without image"].append(f"{image}: in the lists, not in {root / 'JPEGImages'}")
    for what, these, others in (("images have no mask", photos, masks), ("masks have no image", masks, photos)):
        spare = sorted(these.keys() - others.keys() - listed)
        if spare:
            report.notes.append(f"{len(spare)} {what} and are not used ({some(spare)})")
    trained, tested = ({image for side, (image, _) in rows if side == split} for split in SPLITS)
    for image in sorted(trained & tested):
        report.problems["trained and tested"].append(f"{image}: in splits/trn and splits/val")
    names = class_names(dataset)
    for split, (image, class_id) in rows:
        if image in held and class_id + 1 not in held[image]:
            report.problems["class not in its image"].append(
                f"splits/{split}/fold{fold_of(dataset, class_id)}.txt: {image}__{class_id + 1:02d}, but the "
                f"mask has no "
                f"{names[class_id]}"
            )
    return rows


def _count_classes(names, dataset: str, held: dict, rows: list[tuple[str, Row]], report: Report) -> None:
    pixels = sum(sum(counts.values()) for counts in held.values()) or 1
    for class_id, name in enumerate(names):
        value = class_id + 1
        by_split = {
            split: len({row[0] for side, row in rows if side == split and row[1] == class_id}) for split in SPLITS
        }
        report.classes.append(
            {
                "class": class_id,
                "name": name,
                "fold": fold_of(dataset, class_id),
                "images": sum(value in counts for counts in held.values()),
                "share": sum(counts.get(value, 0) for counts in held.values()) / pixels,
                **by_split,
            }
        )
        if by_split["val"] == 1:
            report.problems["too few images"].append(f"class {name}: one validation image")
        elif rows and by_split["val"] == 0:
            report.notes.append(f"class {name} has no validation image: it is not tested")
