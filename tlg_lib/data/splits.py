"""Split lists: read, built by rule, or HSNet's published ones; and the index of classes in each label map.

A list holds rows ``<image>__<class from 1>``; fold f's list names the classes that fold f holds out
(docs/design.md, 2). The rule: an image is a row of each class that covers at least 2,048 of its pixels.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from pathlib import Path

import numpy as np

from ..errors import TLGError
from ..machine.parallel import parallel_map
from ..machine.paths import atomic, cache_home, write_json
from .classes import FOLDS, class_names, fold_classes, fold_of
from .images import read_mask
from .listing import id_fault, list_images, list_masks, match_id, some

Row = tuple[str, int]
Splits = dict[str, dict[int, list[Row]]]  # split "trn" or "val" -> fold -> rows

SPLITS = ("trn", "val")
MIN_AREA = 2048  # pixels at native size
NATIVE_PIXELS = 500 * 375  # the usual VOC photograph, to which MIN_AREA belongs
INDEX_VERSION = 2  # of what read_mask accepts: an index made by other rules is not read
VAL_SHARE = 0.3  # of a folder that comes without lists
PUBLISHED = Path(__file__).with_name("hsnet_pascal_lists.json")

_ROW = re.compile(r"(.+)__([0-9]{1,3})")
_FOLD_FILE = re.compile(r"fold([0-3])\.txt")


# --- reading and writing lists
def read_split(path: str | Path, dataset: str, known=()) -> list[Row]:
    """Rows (image_id, class_id from 0) of one list, in its order; empty lines are skipped.

    A file named fold<f>.txt may only name the classes that fold f holds out. known: ids of the folder's images, by
    which a row with an image's suffix is understood. Raises TLGError (code 3) naming the file and the line, also of
    a row that repeats another: it would count twice.
    """
    path, names = Path(path), class_names(dataset)
    match = _FOLD_FILE.fullmatch(path.name)
    own = fold_classes(dataset, int(match[1])) if match else range(len(names))
    rows: dict[Row, int] = {}  # row -> line
    for number, line in enumerate(read_lines(path), 1):
        if not line:
            continue
        row = _ROW.fullmatch(line)
        if not row:
            raise TLGError(
                f"{path} line {number}: {line[:60]!r} is not <image>__<class from 1>, as "
                "2007_000032__01: correct the line or delete the list to build it by rule",
                code=3,
            )
        image, class_id = match_id(row[1], known), int(row[2]) - 1
        check_id(image, f"{path} line {number}")
        if not 0 <= class_id < len(names):
            raise TLGError(f"{path} line {number}: class {class_id + 1}, but {dataset} has 1..{len(names)}", code=3)
        if class_id not in own:
            raise TLGError(
                f"{path} line {number}: class {class_id + 1} ({names[class_id]}) belongs to fold "
                f"{fold_of(dataset, class_id)}: each list names its own fold's classes",
                code=3,
            )
        if (image, class_id) in rows:
            raise TLGError(f"{path} line {number} repeats line {rows[image, class_id]}: {line[:60]}: drop one", code=3)
        rows[image, class_id] = number
    return list(rows)


def read_lines(path: str | Path) -> list[str]:
    """Lines of a UTF-8 text file without the white space round them; empty lines stay, so that numbers fit.

    Raises TLGError (code 3) naming the file, and the line of bytes that are no text.
    """
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TLGError(
            f"cannot read list {path} ({reason}): restore it, or delete the whole folder to build the lists by rule",
            code=3,
        ) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise TLGError(f"{path} line {line}: not UTF-8 text: save the list as UTF-8", code=3) from None
    return [line.strip() for line in text.split("\n")]


def check_id(image: str, where: str) -> None:
    """Refuse an image id that is no plain file name (it would reach outside the dataset folder)."""
    if id_fault(image):
        raise TLGError(
            f"{where}: {ascii(image[:60])} is not an image id (a file name without folder and suffix): it "
            f"{id_fault(image)}",
            code=3,
        )


def write_splits(root: str | Path, splits: Splits, about: dict) -> Path:
    """Write root/splits/{trn,val}/fold<f>.txt and about.json, all or nothing. Returns the folder."""
    root = Path(root)
    final = root / "splits"
    try:
        staging = root / f".splits.{secrets.token_hex(4)}.part"
        staging.mkdir()  # with the rights that the umask leaves, as tempfile would not
    except OSError as error:
        raise TLGError(f"cannot write {final} ({error.strerror}): choose a writable folder", code=5) from None
    try:
        for split in SPLITS:
            for fold in range(FOLDS):
                with atomic(staging / split / f"fold{fold}.txt", "w") as file:
                    file.writelines(f"{image}__{class_id + 1:02d}\n" for image, class_id in splits[split][fold])
        write_json(staging / "about.json", about)
        if final.exists():
            old = staging / "replaced"
            os.rename(final, old)
        os.rename(staging, final)
        shutil.rmtree(final / "replaced", ignore_errors=True)
    except OSError as error:
        raise TLGError(f"cannot write {final} ({error.strerror}): make room, then try again", code=5) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return final


# --- what each label map holds
def class_index(root: str | Path, progress: bool = True) -> dict[str, dict[int, int]]:
    """Pixels of each label value in each label map: {image_id: {value: pixels}}, value = class + 1, 0 or 255.

    Kept in the cache folder; a map is read again only when its size or time of change differs. Raises
    TLGError naming a broken map (``tlg data verify`` lists them all).
    """
    index, broken = scan_masks(root, progress)
    if broken:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        raise TLGError(f"{next(iter(broken.values()))}{more}; see them with `tlg data verify {root}`", code=3)
    return index


def scan_masks(root: str | Path, progress: bool = True) -> tuple[dict[str, dict[int, int]], dict[str, str]]:
    """As ``class_index``, with the maps that cannot be read as {image_id: reason} beside it."""
    folder = Path(root) / "SegmentationClassAug"
    if not folder.is_dir():
        raise TLGError(f"no folder {folder}: give a dataset in VOC layout, or make one with `tlg data voc`", code=3)
    return scan_folder(folder, list_masks(folder).files, progress)


def scan_folder(
    folder: Path, files: dict[str, Path], progress: bool = True
) -> tuple[dict[str, dict[int, int]], dict[str, str]]:
    """Pixels of each value in the PNGs ``files`` (name without suffix -> path) of a folder, and what cannot be read.

    Kept in the cache folder by size, times and inode; what ``files`` does not name is forgotten.
    """
    store = _index_file(folder)
    known = _read_index(store)
    stamps, found, todo = {}, {}, []
    for name, path in files.items():
        stat = path.stat()
        stamps[name] = [stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_size]
        if name in known and known[name][0] == stamps[name]:
            found[name] = known[name][1]
        else:
            todo.append(name)
    broken = {}
    for name, result in zip(
        todo,
        parallel_map(
            _count_values,
            [files[name] for name in todo],
            f"reading {folder.name}, once",
            show=progress and len(todo) > 500,
        ),
    ):
        if isinstance(result, str):
            broken[name] = result
        else:
            found[name] = result
    if todo or len(found) != len(known):
        write_json(store, {name: [stamps[name], counts] for name, counts in found.items()})
    return dict(sorted(found.items())), broken


def _count_values(path: Path) -> dict[int, int] | str:
    """Pixels of each value in a label map, or the line that says why it cannot be read."""
    try:
        counts = np.bincount(read_mask(path).ravel(), minlength=256)
    except TLGError as error:
        return str(error)
    return {int(value): int(counts[value]) for value in counts.nonzero()[0]}


def _index_file(folder: Path) -> Path:
    folder = folder.resolve()
    digest = hashlib.sha256(f"{INDEX_VERSION}/{folder}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return cache_home() / "class_index" / f"{folder.parent.name}-{digest}.json"


def _read_index(store: Path) -> dict[str, tuple[list[int], dict[int, int]]]:
    """The kept index; empty when there is none or it is damaged, as it can always be made again."""
    try:
        entries = json.loads(store.read_text(encoding="utf-8"))
        return {
            image: (stamp, {int(v): int(n) for v, n in counts.items()}) for image, (stamp, counts) in entries.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return {}


def check_values(folder: Path, index: dict[str, dict[int, int]]) -> None:
    """Refuse maps that mark objects by 255, or what is round them by anything but 0: 255 means ignored."""
    held = {value for counts in index.values() for value in counts}
    if held == {0, 255}:
        raise TLGError(
            f"{folder}: the masks hold 0 and 255 only, and 255 means ignored: write the class number (1 = the first "
            "class) where the object is",
            code=3,
        )
    if held and 0 not in held:
        raise TLGError(
            f"{folder}: no mask holds a 0, so nothing counts as background and any score would be of the objects "
            "alone: write 0 outside the objects; 255 means ignored",
            code=3,
        )


# --- lists by rule
def build_splits(
    root: str | Path, dataset: str = "pascal", min_area: int = 0, write: bool = True, progress: bool = True
) -> Splits:
    """Split lists by rule for a folder in VOC layout, written below root/splits (write=False: only returned).

    Rows: the class covers at least ``min_area`` pixels; 0 means 2,048, scaled down in proportion where the
    usual image of the folder has less than three quarters of a VOC photograph's pixels. Validation images
    are those of ImageSets/Segmentation/val.txt, training images those of train_aug.txt, else all others;
    without such lists the hash of the image id decides (30% validation, at least two images of each class
    on either side where the folder has four). Says on the screen what it did. A folder that cannot be
    written is used all the same: the rule gives the same rows each time.
    """
    root = Path(root)
    index = class_index(root, progress)
    pictures = list_images(root / "JPEGImages")
    index = {image: counts for image, counts in index.items() if image in pictures.files}
    if not index:
        raise TLGError(
            f"{root}: no image in JPEGImages has a label map of the same name in SegmentationClassAug", code=3
        )
    check_values(root / "SegmentationClassAug", index)
    if pictures.unfit:
        print(f"left out, as their names do not fit in a list: {len(pictures.unfit)} images ({some(pictures.unfit)})")
    _check_numbers(root, index, dataset)
    area = min_area or default_min_area(index)
    holds = {
        image: [v - 1 for v, n in sorted(counts.items()) if 0 < v < 255 and n >= area]
        for image, counts in index.items()
    }
    sides, how = _sides(root, holds)
    splits = {
        split: {
            f: [(image, c) for image in sides[split] for c in holds[image] if fold_of(dataset, c) == f]
            for f in range(FOLDS)
        }
        for split in SPLITS
    }
    for rows in splits["trn"].values():  # the published lists go by class in trn and by image in val
        rows.sort(key=lambda row: (row[1], row[0]))
    counts = {split: [len(splits[split][f]) for f in range(FOLDS)] for split in SPLITS}
    if not any(map(sum, counts.values())):
        raise TLGError(f"{root}: no class covers {area} pixels of any listed map: no list can be built", code=3)
    print(
        f"split lists of {root.name} by rule (class area >= {area} pixels; {how}): "
        + ", ".join(f"{split} {sum(n)} rows {n}" for split, n in counts.items())
    )
    if write:
        about = {"lists": "rule", "dataset": dataset, "min_area": area, "sides": how, "rows": counts}
        try:
            print(f"written to {write_splits(root, splits, about)}")
        except TLGError as error:
            print(f"not kept: {error}")
    return splits


def _check_numbers(root: Path, index: dict[str, dict[int, int]], dataset: str) -> None:
    names = class_names(dataset)
    for image, counts in index.items():
        wrong = [v for v in counts if v != 255 and v > len(names)]
        if wrong:
            raise TLGError(
                f"{root / 'SegmentationClassAug' / image}.png: class number {wrong[0]}, but {dataset} has "
                f"1..{len(names)} (0 background, 255 ignored): correct the map or drop it",
                code=3,
            )


def default_min_area(index: dict[str, dict[int, int]]) -> int:
    """2,048 pixels, or its share of the usual image where images are clearly smaller than VOC's."""
    usual = float(np.median([sum(counts.values()) for counts in index.values()]))
    if usual >= 0.75 * NATIVE_PIXELS:
        return MIN_AREA
    return max(1, round(MIN_AREA * usual / NATIVE_PIXELS))


def image_set(root: str | Path, *names: str, known=()) -> list[str] | None:
    """Image ids of the first of ImageSets/Segmentation/<name>.txt that exists, once each, or None.

    known: ids by which a line with an image's suffix is understood. A line of two words, as VOC's lists by class
    have them, is refused.
    """
    for name in names:
        path = Path(root) / "ImageSets" / "Segmentation" / f"{name}.txt"
        if path.is_file():
            ids = list(dict.fromkeys(match_id(line, known) for line in read_lines(path) if line))
            for image in ids:
                check_id(image, str(path))
            return ids
    return None


def _sides(root: Path, holds: dict[str, list[int]]) -> tuple[dict[str, list[str]], str]:
    """Which images train and which validate, and in words how that was decided."""
    val = image_set(root, "val", known=holds)
    if val is not None:
        lost = [image for image in val if image not in holds]
        if len(lost) == len(val) and val:
            raise TLGError(
                f"{root / 'ImageSets' / 'Segmentation' / 'val.txt'}: none of its {len(val)} ids ({some(val)}) is an "
                "image with a label map here: correct the list, or delete it to let the hash of the id decide",
                code=3,
            )
        held_out = set(val)
        listed = image_set(root, "train_aug", "trainaug", known=holds)
        lost += [image for image in listed or () if image not in holds]
        train = sorted(i for i in (listed if listed is not None else holds) if i in holds and i not in held_out)
        how = f"val.txt, {'train_aug.txt' if listed is not None else 'all other label maps to train'}"
        how += f"; {len(lost)} listed ids are not here ({some(lost)})" if lost else ""
        return {"trn": train, "val": sorted(i for i in held_out if i in holds)}, how
    key = {image: hashlib.sha256(f"split/{image}".encode()).digest() for image in holds}
    held_out = {image for image in holds if int.from_bytes(key[image][:8], "big") < VAL_SHARE * 2**64}
    by_class: dict[int, list[str]] = {}
    for image in sorted(holds, key=key.__getitem__):
        for class_id in holds[image]:
            by_class.setdefault(class_id, []).append(image)
    for _, images in sorted(by_class.items()):
        inside = [i for i in images if i in held_out]
        outside = [i for i in images if i not in held_out]
        while len(inside) < 2 < len(outside):
            held_out.add(outside[0])
            inside.append(outside.pop(0))
        while len(outside) < 2 < len(inside):
            held_out.discard(inside[0])
            outside.append(inside.pop(0))
    sides = {"trn": sorted(i for i in holds if i not in held_out), "val": sorted(held_out)}
    return sides, "no ImageSets: train and val by the hash of the image id"


# --- HSNet's published lists
def published_splits(root: str | Path, source: str | Path = "", progress: bool = True) -> Splits:
    """HSNet's Pascal-5i lists, downloaded or copied from a folder ``source``, checked and written.

    Each file must have the known SHA-256 and number of rows. Raises TLGError: code 7 offline, 3 on a wrong
    file.
    """
    from ..machine.downloads import download, sha256_of

    facts = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    root, splits = Path(root), {split: {} for split in SPLITS}
    if not root.is_dir():
        raise TLGError(f"no folder {root}: make it with `tlg data voc` first", code=3)
    for name, fact in facts["files"].items():
        if source:
            path = Path(source) / name
            if not path.is_file():
                raise TLGError(f"no file {path}: name the folder that holds trn/ and val/", code=3)
        else:
            path = download(
                facts["address"] + name, cache_home() / "hsnet_lists" / name, sha256=fact["sha256"], progress=False
            )
        if sha256_of(path) != fact["sha256"]:
            raise TLGError(f"{path} is not HSNet's list (SHA-256 differs from the known one): get it again", code=3)
        rows = read_split(path, "pascal")
        if len(rows) != fact["rows"]:
            raise TLGError(f"{path}: {len(rows)} rows, expected {fact['rows']}", code=3)
        splits[name[:3]][int(name[-5])] = rows
    counts = {split: [len(splits[split][f]) for f in range(FOLDS)] for split in SPLITS}
    write_splits(root, splits, {"lists": "hsnet", "dataset": "pascal", "source": facts["source"], "rows": counts})
    return splits


def compare_splits(first: Splits, second: Splits) -> list[dict]:
    """Per split and fold: rows in both, only in the first, only in the second, and whether the order agrees.

    Order matters because query i of the test is row i of the list.
    """
    table = []
    for split in SPLITS:
        for fold in range(FOLDS):
            a, b = first[split][fold], second[split][fold]
            common = set(a) & set(b)
            table.append(
                {
                    "split": split,
                    "fold": fold,
                    "both": len(common),
                    "only_first": sorted(set(a) - common),
                    "only_second": sorted(set(b) - common),
                    "same_order": [row for row in a if row in common] == [row for row in b if row in common],
                }
            )
    return table
