"""What must hold of the files that a run names, before its first step: what ``tlg data verify`` would find wrong.

Label maps and pseudo masks are read once and remembered (splits.scan_folder); images by their headers alone.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from pathlib import Path

from ..errors import TLGError
from .classes import fold_of
from .folder import SegmentationFolder
from .images import TURNED, mask_size, stored_frame
from .listing import plain_id, some
from .splits import Row, check_values, scan_folder


def check_files(data: SegmentationFolder, rows: list[Row], progress: bool = True) -> list[str]:
    """Refuse rows whose image, label map or pseudo mask is missing, of a wrong size or does not show the class.

    Raises TLGError (code 3) naming the file, the row and the class. Returns notes for the user, often none.
    """
    rows = list(dict.fromkeys(rows))
    for image, _ in rows:
        data.image_path(image)
    _check_labels(data, rows)
    _refuse_missing(data, rows)
    return _check_frames(data, rows) + _check_pseudo_masks(data, rows, progress)


def _refuse_missing(data: SegmentationFolder, rows: list[Row]) -> None:
    missing = data.missing_masks(rows)
    if missing:
        image, class_id = missing[0]
        raise TLGError(
            f"{len(missing)} of {len(rows)} rows have no pseudo mask in {data.masks} (first: {image}, "
            f"class '{data.classes[class_id]}'): make them with `tlg masks make --data {data.root}`",
            code=3,
        )


def _row(data: SegmentationFolder, row: Row) -> str:
    image, class_id = row
    return f"fold{fold_of(data.dataset, class_id)}.txt: {image}__{class_id + 1:02d}, class '{data.classes[class_id]}'"


def _check_frames(data: SegmentationFolder, rows: list[Row]) -> list[str]:
    """Masks have the size of their image, as it is shown or as it is stored: resizing all alike would hide that."""
    unsure = set()
    for image, class_id in rows:
        photo = data.image_path(image)
        (height, width), orientation = _read_once(stored_frame, photo)
        shown = (width, height) if orientation in TURNED else (height, width)
        if orientation != 1 and (orientation not in TURNED or height == width):
            unsure.add(image)
        for mask in (data.label_path(image), data.pseudo_mask_path(image, class_id)):
            size = _read_once(mask_size, mask)
            if size not in (shown, (height, width)):
                raise TLGError(
                    f"{mask} is {_words(size)}, its image {photo.name} {_words(shown)} (height x width): a mask must "
                    "have the size of its image, make it again",
                    code=3,
                )
    if not unsure:
        return []
    return [
        f"{len(unsure)} photographs are turned by EXIF in a way that the size of a mask cannot show "
        f"({some(sorted(unsure))}): their masks must be drawn on the upright picture (tlg data verify)"
    ]


@cache
def _header(reader, path: Path, changed: tuple[int, ...]):
    """What ``reader`` says of a file as it was at ``changed``: a notebook's process outlives what it read."""
    return reader(path)


def _read_once(reader, path: Path):
    try:
        stat = path.stat()
    except OSError:
        return reader(path)  # tells what is wrong with it
    return _header(reader, path, (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_size))


def _words(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]} pixels"


def _check_labels(data: SegmentationFolder, rows: list[Row]) -> None:
    """Every row's image has a label map that shows its class, and no map holds a number beyond the classes."""
    lost = [row for row in rows if row[0] not in data.labels.files]
    if lost:
        others = f"; files of other kinds there: {some(data.labels.foreign)}" if data.labels.foreign else ""
        raise TLGError(
            f"{len(lost)} of {len(rows)} rows have no label map in {data.root / 'SegmentationClassAug'} (first: "
            f"{_row(data, lost[0])}): save it as {lost[0][0]}.png, or drop the rows{others}",
            code=3,
        )
    used = {image: data.values_in(image) for image, _ in rows}
    check_values(data.root / "SegmentationClassAug", used)
    for image, values in used.items():
        _refuse_numbers(data, data.label_path(image), [v for v in values if len(data.classes) < v < 255])
    lacking = [row for row in rows if row[1] + 1 not in used[row[0]]]
    if lacking:
        hint = ""
        if {v for values in used.values() for v in values} <= {0, 1, 255}:
            hint = "; the masks hold 1 for every class: write the class number, or"
        raise TLGError(
            f"{len(lacking)} of {len(rows)} rows name a class that their label map does not show (first: "
            f"{_row(data, lacking[0])}, {data.label_path(lacking[0][0])}){hint or ':'} correct the lists, or build "
            "them again with `tlg data splits --force`",
            code=3,
        )


def _refuse_numbers(data: SegmentationFolder, path: Path, wrong: list[int], expected: str = "") -> None:
    if wrong:
        expected = expected or f"1..{len(data.classes)}"
        raise TLGError(
            f"{path}: class number {wrong[0]}, expected 0, 255 or {expected}: correct the map or --dataset", code=3
        )


def _check_pseudo_masks(data: SegmentationFolder, rows: list[Row], progress: bool) -> list[str]:
    """Pseudo masks hold their own class's number; not all of them, nor all of a class beside 255, show nothing, nor
    do all of them show nothing else."""
    paths = {row: data.pseudo_mask_path(*row) for row in rows}
    index, broken = scan_folder(data.masks, data.pseudo_masks().files, progress)
    for path in paths.values():
        if plain_id(path.stem) in broken:
            raise TLGError(broken[plain_id(path.stem)], code=3)
    empty: dict[int, list[Row]] = defaultdict(list)
    full = 0
    for (image, class_id), path in paths.items():
        values, own = index[plain_id(path.stem)], path.stem.endswith(f"--{class_id}")
        allowed = {0, 255, class_id + 1} if own else {0, 255, *range(1, len(data.classes) + 1)}
        expected = f"{class_id + 1} ('{data.classes[class_id]}')" if own else ""
        _refuse_numbers(data, path, sorted(values.keys() - allowed), expected)
        if class_id + 1 not in values:
            empty[class_id].append((image, class_id))
        full += values.keys() - {255} == {class_id + 1}
    if full == len(rows):
        raise TLGError(
            f"{data.masks}: no pseudo mask in use shows anything but its class (first: {paths[rows[0]].name}): write 0 "
            f"outside the object, or make them with `tlg masks make --data {data.root}`",
            code=3,
        )
    count = sum(map(len, empty.values()))
    if count == len(rows):
        _refuse_empty(data, index, paths[rows[0]], "all pseudo masks in use")
    by_class = defaultdict(int)
    for _, class_id in rows:
        by_class[class_id] += 1
    nothing = [c for c in sorted(empty) if len(empty[c]) == by_class[c]]
    for class_id in nothing:
        if any(255 in index[plain_id(paths[row].stem)] for row in empty[class_id]):
            _refuse_empty(
                data, index, paths[empty[class_id][0]], f"all pseudo masks of class '{data.classes[class_id]}'"
            )
    names = ", ".join(f"'{data.classes[c]}'" for c in nothing)
    return [f"no pseudo mask of {names} shows the class: see `tlg masks sheet`"] if nothing else []


def _refuse_empty(data: SegmentationFolder, index: dict, first: Path, which: str) -> None:
    unsure = 255 in index[plain_id(first.stem)]
    why = "255 means unsure: write the class number" if unsure else "they hold background alone: write the class number"
    raise TLGError(
        f"{data.masks}: {which} show nothing of their class (first: {first.name}); {why} where the object is, or make "
        f"them with `tlg masks make --data {data.root}`",
        code=3,
    )
