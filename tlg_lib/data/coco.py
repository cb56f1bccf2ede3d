"""COCO 2014 in VOC layout: one label map per image with 80 contiguous classes, as COCO-20i needs it.

Training images are train2014, validation images val2014. A label map is painted from the instances: larger
ones first, so that a spoon on a table stays visible. Crowd regions (``iscrowd``) outline groups loosely; by
default they become 255 (ignored) wherever no single instance is painted over them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from ..errors import TLGError
from ..machine.downloads import sha256_of
from ..machine.locks import folder_lock
from ..machine.parallel import parallel_map
from ..machine.paths import atomic, cache_home, data_home, write_json
from ..machine.progress import track
from .classes import COCO_CATEGORY_IDS, COCO_CLASSES
from .images import TURNED, check_pixels, stored_frame, without_orientation, write_mask
from .listing import id_fault, list_images, plain_id
from .sources import Source, claim, fetch, folders_of, place, search
from .splits import check_id
from .voc import read_summary

SIDES = {"train2014": "train", "val2014": "val"}  # COCO's folder -> our list
# COCO publishes no checksums: zip members carry CRCs, and the SHA-256 of the first download is kept.
SOURCES = {
    "train2014": Source("train2014.zip", "http://images.cocodataset.org/zips/train2014.zip", size=13_510_573_713),
    "val2014": Source("val2014.zip", "http://images.cocodataset.org/zips/val2014.zip", size=6_645_013_297),
    "annotations": Source(
        "annotations_trainval2014.zip",
        "http://images.cocodataset.org/annotations/annotations_trainval2014.zip",
        size=252_872_794,
    ),
}
STANDARD = {"train": 82_783, "val": 40_504}
CROWD = ("ignore", "class")
PAINTED = 2  # of the way label maps are painted: maps of an interrupted call by another way are painted again
_CLASS_OF = {number: i for i, number in enumerate(COCO_CATEGORY_IDS)}
_NUMBER_OF = dict(zip(COCO_CLASSES, COCO_CATEGORY_IDS))


def make_coco(target: str | Path = "", sources: list[Path] = (), crowd: str = "ignore", progress: bool = True) -> dict:
    """Make COCO-20i's folder in ``target`` (by default data/coco) and return its counts.

    sources: folders or archives with train2014/, val2014/ and annotations/instances_{train,val}2014.json;
    with none given all three archives are downloaded (20 GB). crowd: "ignore" or "class". An interrupted call
    goes on; a finished one returns at once. Raises TLGError: code 7 offline, 5 without space, 3 for a broken
    source.
    """
    if crowd not in CROWD:
        raise TLGError(f"crowd={crowd}: choose one of {', '.join(CROWD)}")
    target = Path(target) if target else data_home() / "coco"
    with folder_lock(target):
        done = read_summary(target, {"crowd": crowd})
        if done:
            return done
        claim(target)
        scratch = target / ".unpacked"
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            with ExitStack() as stack:
                if not sources:
                    sources = fetch(list(SOURCES.values()), cache_home() / "downloads", progress)
                folders = folders_of(list(sources), stack, scratch, _wanted, tuple(SOURCES.values()), progress)
                summary = _convert_all(target, folders, scratch, crowd, progress)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        write_json(target / "dataset.json", summary)
        return summary


def _wanted(name: str) -> bool:
    parts = name.split("/")
    return parts[-1] in {f"instances_{side}.json" for side in SIDES} or (len(parts) > 1 and parts[-2] in SIDES)


def _convert_all(target: Path, folders: list[Path], scratch: Path, crowd: str, progress: bool) -> dict:
    places = {}
    for side in SIDES:
        photos = search(folders, lambda f: f.name == side or (f / side).is_dir())  # noqa: B023
        notes = search(folders, lambda f: (f / f"instances_{side}.json").is_file())  # noqa: B023
        if photos is None or notes is None:
            what = f"folder {side}/" if photos is None else f"file instances_{side}.json"
            raise TLGError(
                f"no {what} in {', '.join(map(str, folders)) or 'the sources'}: COCO-20i needs "
                f"{', '.join(SIDES)} "
                "and the annotations of 2014; name each with --from",
                code=3,
            )
        places[side] = (photos if photos.name == side else photos / side, notes / f"instances_{side}.json")
    for name in ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation"):
        (target / name).mkdir(parents=True, exist_ok=True)
    counts, missing = {}, 0
    for side, (photos, notes) in places.items():
        images, absent = _convert_side(target, photos, notes, scratch in photos.parents, crowd, progress)
        missing += absent
        counts[SIDES[side]] = len(images)
        with atomic(target / "ImageSets" / "Segmentation" / f"{SIDES[side]}.txt", "w") as file:
            file.writelines(f"{image}\n" for image in images)
    return {"dataset": "coco", "crowd": crowd, "images": sum(counts.values()), "lists": counts, "missing": missing}


def _convert_side(
    target: Path, photos: Path, notes: Path, move: bool, crowd: str, progress: bool
) -> tuple[list[str], int]:
    """Label maps and images of one side; returns the ids and how many annotated images are not on disk."""
    images, by_image = read_annotations(notes)
    present = {path.name: path for path in list_images(photos).files.values()}
    jobs, ids, absent = [], [], 0
    key = f"{PAINTED} {sha256_of(notes)} {crowd}"
    marker = target / f".painted-{hashlib.sha256(notes.name.encode()).hexdigest()[:8]}"
    resumed = marker.is_file() and marker.read_text(encoding="utf-8", errors="replace") == key
    with atomic(marker, "w") as file:
        file.write(key)
    placed = list_images(target / "JPEGImages").files
    for entry in track(images, label=f"images of {photos.name}", unit="files", show=progress):
        photo = present.get(entry["file_name"])
        image = plain_id(Path(entry["file_name"]).stem)
        if photo is None and image not in placed:
            absent += 1
            continue
        if photo is not None:
            _place(photo, target / "JPEGImages" / f"{image}{photo.suffix.lower()}", entry, notes, move)
        ids.append(image)
        path = target / "SegmentationClassAug" / f"{image}.png"
        if not (resumed and path.is_file()):
            jobs.append((str(path), entry["height"], entry["width"], by_image.get(entry["id"], []), crowd))
    if not ids:
        raise TLGError(
            f"none of the images of {notes} is in {photos}: name the folder that holds {photos.name}", code=3
        )
    for _ in parallel_map(_paint_file, jobs, f"label maps of {photos.name}", processes=True, show=progress):
        pass
    return sorted(ids), absent


def _place(photo: Path, target: Path, entry: dict, notes: Path, move: bool) -> None:
    """Bring a photograph into the dataset in the frame of its annotations, whose size tells which that is.

    COCO's outlines are drawn on the stored pixels: there the orientation that EXIF asks for is taken out.
    """
    stored, orientation = stored_frame(photo)
    upright = stored[::-1] if orientation in TURNED else stored
    size = (entry["height"], entry["width"])
    if size not in (stored, upright):
        raise TLGError(
            f"{photo} has {stored[1]} x {stored[0]} pixels, {notes.name} says {size[1]} x {size[0]}: its outlines "
            "belong to another picture, get both again",
            code=3,
        )
    if orientation == 1 or size != stored:
        place(photo, target, move)
        return
    with atomic(target) as file:
        file.write(without_orientation(photo))


def read_annotations(path: str | Path) -> tuple[list[dict], dict[int, list[dict]]]:
    """Checked content of an instances_*.json: image entries and, by image id, their instances.

    An instance's "category_id" becomes the number that COCO gives the category's name: exporters number by rules of
    their own. Entries whose name is too long for a file here are left out. Raises TLGError (code 3) naming the file
    and the entry.
    """
    try:
        content = json.loads(Path(path).read_bytes())
        images, instances, numbers = content["images"], content["annotations"], _numbers(content["categories"])
        for i, entry in enumerate(images):
            where = f"{path}: image entry {i}"
            if not (isinstance(entry["id"], int) and 0 < entry["height"] < 2**16 and 0 < entry["width"] < 2**16):
                raise TLGError(f"{where} has no valid id, height and width", code=3)
            check_pixels(entry["width"], entry["height"], where)
            name = entry["file_name"]
            check_id(Path(name).stem[:50] if name == Path(name).name else name + "/", where)
        by_image: dict[int, list[dict]] = {}
        for i, entry in enumerate(instances):
            number = numbers.get(entry["category_id"])
            if number is None:
                named = [str(c["name"])[:40] for c in content["categories"] if c["id"] == entry["category_id"]]
                raise TLGError(
                    f"{path}: annotation {i} has category {entry['category_id']} ({', '.join(named) or 'no name'}), "
                    "which is none of COCO's 80: take these annotations out, or name the category as COCO does",
                    code=3,
                )
            instance = {key: entry[key] for key in ("iscrowd", "area", "segmentation")}
            by_image.setdefault(entry["image_id"], []).append({"category_id": number, **instance})
    except OSError as error:
        raise TLGError(f"cannot read annotations {path} ({error.strerror})", code=3) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TLGError(
            f"{path}: not COCO instances ({type(error).__name__}: {error}): get annotations_trainval2014.zip again",
            code=3,
        ) from None
    return [entry for entry in images if not id_fault(Path(entry["file_name"]).stem)], by_image


def _numbers(categories: list[dict]) -> dict[int, int | None]:
    """COCO's own number by category id, told by the categories' names; None where COCO has no such name."""
    plain = [" ".join(entry["name"].lower().replace("_", " ").split()) for entry in categories]
    return {entry["id"]: _NUMBER_OF.get(name) for entry, name in zip(categories, plain)}


def _paint_file(job: tuple[str, int, int, list[dict], str]) -> None:
    path, height, width, instances, crowd = job
    try:
        mask = paint(height, width, instances, crowd)
    except (ValueError, KeyError, TypeError) as error:
        raise TLGError(
            f"{Path(path).stem}: broken outline in the annotations ({type(error).__name__}): get "
            "annotations_trainval2014.zip again",
            code=3,
        ) from None
    write_mask(path, mask)


def paint(height: int, width: int, instances: list[dict], crowd: str = "ignore") -> np.ndarray:
    """Label map uint8 [height, width] of COCO instances: class + 1, 0 background, 255 ignored.

    Crowd regions first (255, or their class with crowd="class"), then single instances by falling area.
    """
    mask = np.zeros((height, width), np.uint8)
    for instance in sorted(instances, key=lambda i: (not i["iscrowd"], -i["area"])):
        ignored = instance["iscrowd"] and crowd == "ignore"
        value = 255 if ignored else _CLASS_OF[instance["category_id"]] + 1
        mask[region(instance["segmentation"], height, width)] = value
    return mask


def region(segmentation: list | dict, height: int, width: int) -> np.ndarray:
    """bool [height, width] of a COCO segmentation: a list of polygons, or {"counts": run lengths}.

    These two kinds are all that the instances files of COCO 2014 hold. Raises ValueError for anything else:
    the C code behind pycocotools trusts its input, so what it gets is checked first.
    """
    from pycocotools import mask as rle

    if isinstance(segmentation, list):
        if not all(isinstance(polygon, list) and len(polygon) % 2 == 0 for polygon in segmentation):
            raise ValueError("a polygon is a list of x, y, x, y, ...")
        if not all(isinstance(v, (int, float)) and abs(v) < 2**16 for polygon in segmentation for v in polygon):
            raise ValueError("coordinates out of range")
        polygons = [polygon for polygon in segmentation if len(polygon) >= 6]  # fewer points enclose nothing
        if not polygons:
            return np.zeros((height, width), bool)
        runs = rle.merge(rle.frPyObjects(polygons, height, width))
    else:
        counts = segmentation["counts"]
        if not isinstance(counts, list) or not all(isinstance(n, int) and n >= 0 for n in counts):
            raise ValueError("run lengths must be a list of whole numbers")
        if segmentation["size"] != [height, width] or sum(counts) != height * width:
            raise ValueError("run lengths do not fit the image")
        runs = rle.frPyObjects(segmentation, height, width)
    return rle.decode(runs).astype(bool)
