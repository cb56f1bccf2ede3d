"""PASCAL VOC 2012 and SBD merged into one folder with SegmentationClassAug, as Pascal-5i needs it.

VOC 2012 has masks for 1,464 training and 1,449 validation images. The Semantic Boundaries Dataset (SBD;
Hariharan et al., ICCV 2011) adds masks for 11,355 of VOC's images. The merged training set of the literature,
10,582 images, is all of SBD and VOC's training images without VOC's validation images. Where both have a
mask, VOC's own is used: it is finer, and has 255 along the borders, which SBD's masks lack.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import TLGError
from ..machine.locks import folder_lock
from ..machine.parallel import parallel_map
from ..machine.paths import atomic, cache_home, data_home, read_json, write_json
from ..machine.progress import track
from .images import write_mask
from .listing import Listing, list_files, list_images, list_masks, some
from .sources import Source, claim, fetch, folders_of, place, search
from .splits import image_set, read_lines

VOC = Source(
    "VOCtrainval_11-May-2012.tar",
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    md5="6cd6e144f989b92b3379bac3b3de84fd",
    size=1_999_639_040,
)
SBD = Source(
    "benchmark.tgz",
    "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
    md5="82b4d87ceb2ed10f6038a1cba92111cb",
)
MAT_BYTES = 1 << 20  # SBD's masks take some kB; compressed, a larger file could hold gigabytes
STANDARD = {"train_aug": 10_582, "val": 1_449}  # of the complete merge; VOC alone: 1,464 training images


def make_voc(target: str | Path = "", sources: list[Path] = (), sbd: bool = True, progress: bool = True) -> dict:
    """Make the merged dataset in ``target`` (by default data/voc) and return its counts.

    sources: folders or archives that hold VOC 2012, SBD, or a ready SegmentationClassAug; what is not among
    them is downloaded. sbd=False leaves out SBD: 1,464 training images. An interrupted call goes on; a
    finished one returns at once. Raises TLGError: code 7 offline, 5 without space, 3 for a broken source.
    """
    target = Path(target) if target else data_home() / "voc"
    with folder_lock(target):
        done = read_summary(target, {"sbd": sbd})
        if done:
            return done
        claim(target)
        scratch = target / ".unpacked"
        shutil.rmtree(scratch, ignore_errors=True)  # of an interrupted call
        try:
            with ExitStack() as stack:
                folders = folders_of(list(sources), stack, scratch, _wanted, (VOC, SBD), progress)
                summary = _merge(target, folders, sbd, stack, scratch, bool(sources), progress)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        write_json(target / "dataset.json", summary)
        return summary


def read_summary(target: Path, settings: dict) -> dict:
    """The dataset.json of a finished call with these settings whose files are all still there, else {}."""
    try:
        summary = read_json(target / "dataset.json")
        counts = [sum(1 for _ in (target / name).iterdir()) for name in ("JPEGImages", "SegmentationClassAug")]
        same = all(summary[key] == value for key, value in settings.items())
        return summary if same and min(counts) >= summary["images"] else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _wanted(name: str) -> bool:
    """The members of the two archives that are used: images, class masks and lists."""
    folders = (
        "/JPEGImages/",
        "/SegmentationClass/",
        "/SegmentationClassAug/",
        "/ImageSets/Segmentation/",
        "dataset/cls/",
    )
    return any(folder in f"/{name}" for folder in folders) or name.endswith(("dataset/train.txt", "dataset/val.txt"))


def _is_voc(folder: Path) -> bool:
    masks = ("SegmentationClass", "SegmentationClassAug")
    return (folder / "JPEGImages").is_dir() and any((folder / name).is_dir() for name in masks)


def _is_ready(folder: Path) -> bool:
    return bool(list_masks(folder / "SegmentationClassAug").files)


def _is_sbd(folder: Path) -> bool:
    return (folder / "cls").is_dir() and any((folder / f"{side}.txt").is_file() for side in ("train", "val"))


def _merge(
    target: Path, folders: list[Path], sbd: bool, stack: ExitStack, scratch: Path, given: bool, progress: bool
) -> dict:
    voc_at = search(folders, _is_voc)
    if voc_at is None:
        if given and search(folders, _is_sbd) is None:
            raise TLGError(
                f"neither VOC 2012 (JPEGImages with SegmentationClass) nor SBD (dataset/cls) in "
                f"{', '.join(map(str, folders))}: name the folder or archive that holds it",
                code=3,
            )
        archive = fetch([VOC], cache_home() / "downloads", progress)[0]
        folders = folders + folders_of([archive], stack, scratch, _wanted, (), progress)
        voc_at = search(folders, _is_voc)
        if voc_at is None:
            raise TLGError(f"{archive} holds no VOC 2012: delete it and run again", code=3)
    ready = search(folders, _is_ready)
    sbd_at = search(folders, _is_sbd) if sbd and ready is None else None
    if sbd and ready is None and sbd_at is None:
        sbd_at = _fetch_sbd(stack, scratch, progress)
    masks = _mask_sources(voc_at, ready, sbd_at)
    move = {folder: scratch in folder.parents for folder in (voc_at, ready, sbd_at) if folder}
    return _write(target, voc_at, sbd_at, masks, move, {"sbd": sbd}, progress)


def _fetch_sbd(stack: ExitStack, scratch: Path, progress: bool) -> Path:
    try:
        archive = fetch([SBD], cache_home() / "downloads", progress)[0]
    except TLGError as error:
        if error.code != 7:
            raise
        raise TLGError(f"{error}; or use --no-sbd for VOC's own 1,464 training images", code=7) from None
    found = search(folders_of([archive], stack, scratch, _wanted, (), progress), _is_sbd)
    if found is None:
        raise TLGError(f"{archive} holds no SBD (dataset/cls): delete it and run again", code=3)
    return found


def _mask_sources(voc_at: Path, ready: Path | None, sbd_at: Path | None) -> dict[str, Path]:
    """The file from which each image's mask is made; later updates win."""
    masks: dict[str, Path] = {}
    if sbd_at:
        masks.update(list_files(sbd_at / "cls", (".mat",)).files)
    if ready:
        masks.update(list_masks(ready / "SegmentationClassAug").files)
    masks.update(list_masks(voc_at / "SegmentationClass").files)
    return dict(sorted(masks.items()))


def _write(
    target: Path,
    voc_at: Path,
    sbd_at: Path | None,
    masks: dict[str, Path],
    move: dict[Path, bool],
    settings: dict,
    progress: bool,
) -> dict:
    photos = list_images(voc_at / "JPEGImages")
    listed = {side: image_set(voc_at, side, known=photos.files) for side in ("train", "val")}
    images = _images(voc_at, sbd_at, masks, photos, set(listed["val"] or ()))
    for name in ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation"):
        (target / name).mkdir(parents=True, exist_ok=True)
    for image in track(images, label="images into the dataset", unit="files", show=progress):
        photo, mask = photos.files[image], masks[image]
        place(photo, target / "JPEGImages" / f"{image}{photo.suffix.lower()}", move[voc_at])
        if mask.suffix.lower() == ".png":
            place(
                mask, target / "SegmentationClassAug" / f"{image}.png", any(move[f] for f in move if f in mask.parents)
            )
    mats = [masks[i] for i in images if masks[i].suffix.lower() == ".mat"]
    for _ in parallel_map(
        partial(_convert, target / "SegmentationClassAug"), mats, "SBD masks to PNG", processes=True, show=progress
    ):
        pass
    sides = _write_lists(target, images, listed)
    expected = sorted({*(listed["train"] or ()), *(listed["val"] or ())} - set(images))
    return {
        **settings,
        "dataset": "pascal",
        "images": len(images),
        "from_sbd": len(mats),
        "own_masks": len(images) - len(mats),
        "missing": len(expected),
        "missing_examples": expected[:5],
        "left_out": len(photos.unfit),
        "left_out_examples": [some([name]) for name in photos.unfit[:5]],
        "lists": {side: len(ids) for side, ids in sides.items()},
    }


def _images(voc_at: Path, sbd_at: Path | None, masks: dict[str, Path], photos: Listing, val: set[str]) -> list[str]:
    """Sorted ids with a photograph and a mask."""
    wanted = set(masks)
    if sbd_at:  # SBD's own lists say which of its images count
        sbd_ids = {
            line
            for side in ("train", "val")
            if (sbd_at / f"{side}.txt").is_file()
            for line in read_lines(sbd_at / f"{side}.txt")
            if line
        }
        wanted = {i for i in wanted if i in sbd_ids or masks[i].suffix.lower() == ".png"}
    images = sorted(wanted & photos.files.keys())
    if not images:
        raise TLGError(
            f"{voc_at}: no photograph in JPEGImages has a mask of the same name: is the archive complete?", code=3
        )
    if val and not val & set(images):
        raise TLGError(
            f"{voc_at}: none of the {len(val)} ids of val.txt ({some(sorted(val))}) has an image and a mask: correct "
            "the list, or delete it",
            code=3,
        )
    return images


def _write_lists(target: Path, images: list[str], listed: dict[str, list[str] | None]) -> dict[str, list[str]]:
    """VOC's lists of the images that are there, and train_aug: all that are not for validation. {} without val.txt."""
    if listed["val"] is None:
        return {}
    there, val = set(images), set(listed["val"])
    sides = {
        "val": [i for i in images if i in val],
        "train_aug": [i for i in images if i not in val],
        "train": [i for i in listed["train"] or () if i in there],
    }
    for side, ids in sides.items():
        with atomic(target / "ImageSets" / "Segmentation" / f"{side}.txt", "w") as file:
            file.writelines(f"{i}\n" for i in ids)
    return sides


def _convert(folder: Path, mat: Path) -> None:
    """One SBD mask to PNG; a PNG that is there was written whole by an interrupted call."""
    path = folder / f"{mat.stem}.png"
    if not path.is_file():
        write_mask(path, read_sbd(mat))


def read_sbd(path: str | Path) -> np.ndarray:
    """Class mask of an SBD .mat file, uint8 [H, W], 0..20.

    SBD's files are MATLAB version 5: numbers, text and structures in a documented layout, read by SciPy
    without running code (it is no pickle). Version 7.3 and everything else is refused. Raises TLGError naming
    the file.
    """
    from scipy.io import loadmat

    if Path(path).is_file() and Path(path).stat().st_size > MAT_BYTES:
        raise TLGError(f"{path}: larger than any SBD mask: unpack benchmark.tgz again", code=3)
    try:
        field = loadmat(path, variable_names=["GTcls"])["GTcls"]["Segmentation"][0, 0]
        mask = np.asarray(field)
    except Exception as error:  # SciPy raises many kinds for broken or foreign files
        raise TLGError(
            f"{path}: not a readable SBD mask ({type(error).__name__}): unpack benchmark.tgz again", code=3
        ) from None
    if mask.ndim != 2 or mask.dtype.kind not in "ui" or mask.size == 0 or mask.max() > 20:
        raise TLGError(
            f"{path}: GTcls.Segmentation is not a map of class numbers 0..20: unpack benchmark.tgz again", code=3
        )
    return mask.astype(np.uint8)
