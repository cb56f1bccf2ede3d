"""The mini benchmark on disk: 20 x 60 pictures in VOC layout, made from a seed in a minute (docs/design.md, 6).

Every picture depends on (seed, class, index) alone, so any number of workers, and a run that was interrupted
and resumed, give the same bytes. They also depend on the fonts and, in the last digit, on the versions of
NumPy, SciPy and Pillow, which the manifest records.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import TLGError
from ...machine.downloads import sha256_of
from ...machine.locks import folder_lock
from ...machine.parallel import WorkerKilled, one_per_core, run_jobs
from ...machine.paths import atomic, data_home, read_json, write_json
from ...machine.progress import track
from ..classes import PASCAL_CLASSES, fold_classes
from .glyphs import distractor_word, font_versions
from .render import image_id, plan_image, render

GENERATOR = 3  # raised whenever the pictures change
TRAIN_SHARE = 0.6  # of each class's pictures; the others are for validation
LOCKED = 20261126  # seed of the second, locked drawing of the test pictures
MIN_SHARE = 0.02  # of the picture: a class with fewer pixels gives no row in the split lists
CHOSEN = ("seed", "test_seed", "train_share", "images_per_class", "size")  # what make_mini is told of the pictures
FOLDERS = ("JPEGImages", "SegmentationClassAug", "ImageSets", "splits")
DERIVED = ("PseudoMasks", "PseudoMasks_conf")  # made from the pictures by `tlg masks make`


def default_root(locked: bool = False) -> Path:
    """Where ``tlg data mini`` puts the benchmark; locked: with the second drawing of its test pictures."""
    return data_home() / ("mini-locked" if locked else "mini")


def make_mini(
    root: str | Path,
    seed: int = 0,
    images_per_class: int = 60,
    size: int = 128,
    progress: bool = True,
    workers: int | None = None,
    test_seed: int | None = None,
    train_share: float = TRAIN_SHARE,
) -> Path:
    """Make the benchmark in ``root`` (VOC layout), or finish one that was interrupted; returns the folder.

    seed: 0 to 2**31 - 1; images_per_class: at least 4; size: pixels a side, 64 to 512; workers: processes, by
    default one per CPU core up to 8; test_seed: of the test pictures, by default ``seed``; train_share: of a class's
    pictures, those of training; 1 draws no test picture and no test glyph. A folder made with other settings is made
    anew, with what was derived from it. Raises TLGError for a folder that holds other files, bad settings or a full
    disk.
    """
    test_seed = seed if test_seed is None else test_seed
    for name, value, low, high in (
        ("seed", seed, 0, 2**31 - 1),
        ("test_seed", test_seed, 0, 2**31 - 1),
        ("train_share", train_share, 0.25, 1),
        ("images_per_class", images_per_class, 4, 999),
        ("size", size, 64, 512),
    ):
        if not low <= value <= high:
            raise TLGError(f"mini: {name}={value} must be between {low} and {high}")
    root = Path(root)
    chosen = (seed, test_seed, train_share, images_per_class, size)
    settings = {"generator": GENERATOR, **dict(zip(CHOSEN, chosen)), **_versions()}
    with folder_lock(root.parent, f".{root.name}.lock", wait=True):  # a second process then finds everything done
        _prepare(root, settings)
        if not _complete(root):
            _fill(root, settings, workers or one_per_core(), progress)
    return root


def ensure_mini(root: str | Path | None = None, progress: bool = True, locked: bool = False) -> Path:
    """The benchmark's folder, made first where it is absent, incomplete or of an older generator.

    A complete folder is recognised by its manifest and file sizes, in some milliseconds; its seeds and size are
    kept, whatever they are. locked: a new folder gets the second drawing of the test pictures, which is for final
    figures alone. Safe for several processes at once. Raises TLGError where the folder holds the other drawing.
    """
    root = Path(root) if root else default_root(locked)
    settings = _read(root / "generator.json") or {}
    if settings and locked != is_locked(root):
        raise TLGError(f"{root} holds {'an open' if locked else 'the locked'} drawing of mini: give another folder")
    if settings.get("generator") == GENERATOR and _complete(root):
        return root
    wanted = {key: settings[key] for key in CHOSEN if type(settings.get(key)) in (int, float)}
    return make_mini(root, progress=progress, **({"test_seed": LOCKED} if locked else {}) | wanted)


def is_locked(root: str | Path) -> bool:
    """Whether the folder's test pictures are the locked drawing."""
    return (_read(Path(root) / "generator.json") or {}).get("test_seed") == LOCKED


def verify_mini(root: str | Path) -> list[str]:
    """Names of files that are missing or differ from the manifest's SHA-256; empty when all is well."""
    root = Path(root)
    manifest = _manifest(root)
    if manifest is None:
        raise TLGError(f"no manifest.json in {root}: make the data with `tlg data mini`", code=3)
    return [
        name
        for name, entry in manifest["files"].items()
        if not (root / name).is_file() or sha256_of(root / name) != entry["sha256"]
    ]


def is_mini(root: str | Path) -> bool:
    """Whether the folder was made here, as far as its generator.json says."""
    return "test_seed" in (_read(Path(root) / "generator.json") or {})


def contents(root: str | Path) -> list[dict]:
    """What each picture shows, as a whole: {"image", "split", "classes" (from 0), "scene", "others"}."""
    manifest = _manifest(Path(root))
    if manifest is None:
        raise TLGError(f"no manifest.json in {root}: make the data with `tlg data mini`", code=3)
    return [
        {
            "image": name,
            "split": entry["split"],
            "classes": entry["classes"],
            "scene": entry["scene"],
            "others": sorted({distractor_word(glyph) for glyph in entry["distractors"]}),
        }
        for name, entry in sorted(manifest["images"].items())
    ]


# --- making


def _versions() -> dict:
    return {"fonts": font_versions(), "libraries": {name: version(name) for name in ("numpy", "scipy", "pillow")}}


def _prepare(root: Path, settings: dict) -> None:
    """Write the settings; clear a folder of ours with other settings; refuse a folder that is not ours."""
    found = _read(root / "generator.json")
    if found == settings:
        return
    if found is None and root.is_dir() and any(root.iterdir()):
        raise TLGError(f"{root} holds files that are not the mini benchmark: give an empty folder", code=2)
    for name in (*FOLDERS, *DERIVED):
        shutil.rmtree(root / name, ignore_errors=True)
    (root / "manifest.json").unlink(missing_ok=True)
    write_json(root / "generator.json", settings)


def _complete(root: Path) -> bool:
    manifest = _manifest(root)
    if manifest is None:
        return False
    sizes = {}
    for folder in {str(Path(name).parent) for name in manifest["files"]}:
        if not (root / folder).is_dir():
            return False
        with os.scandir(root / folder) as entries:
            sizes.update({f"{folder}/{e.name}": e.stat().st_size for e in entries if e.is_file()})
    return all(sizes.get(name) == entry["bytes"] for name, entry in manifest["files"].items())


def _fill(root: Path, settings: dict, workers: int, progress: bool) -> None:
    """Make what is missing, then the lists and, last, the manifest: its presence says that all is there."""
    _drop_damaged(root)
    per_class = settings["images_per_class"]
    seeds = {"trn": settings["seed"], "val": settings["test_seed"]}
    splits = [split_of(i, per_class, settings["train_share"]) for i in range(per_class)]
    jobs = [(seeds[s], c, i, s) for c in range(len(PASCAL_CLASSES)) for i, s in enumerate(splits)]
    work = partial(_make_one, root, settings["size"])

    def missing() -> list[tuple[int, int, int, str]]:
        return [job for job in jobs if not all(path.is_file() for path in _paths(root, image_id(*job[1:3])))]

    def told(results, todo):
        return track(results, len(jobs), "mini data", "images", progress, len(jobs) - len(todo))

    todo = missing()
    if workers > 1 and len(todo) > 8:
        try:
            for _ in told(run_jobs([("", work, (job,)) for job in todo], workers), todo):
                pass
        except WorkerKilled:  # memory for one may be there
            pass
    todo = missing()
    for _ in told(map(work, todo), todo):
        pass
    images = _describe(root, jobs)
    _write_lists(root, images, settings["size"])
    names = sorted(
        f"{folder}/{path.relative_to(root / folder).as_posix()}"
        for folder in FOLDERS
        for path in (root / folder).rglob("*")
        if not path.name.startswith(".")
    )
    files = {
        name: {"bytes": (root / name).stat().st_size, "sha256": sha256_of(root / name)}
        for name in names
        if (root / name).is_file()
    }
    for entry in images.values():
        del entry["pixels"]
    write_json(root / "manifest.json", {"settings": settings, "images": images, "files": files})


def _drop_damaged(root: Path) -> None:
    """Remove files whose size is not the manifest's, so that they are made again."""
    manifest = _manifest(root)
    for name, entry in (manifest or {"files": {}})["files"].items():
        path = root / name
        if path.is_file() and path.stat().st_size != entry["bytes"]:
            path.unlink()


def split_of(index: int, images_per_class: int, train_share: float = TRAIN_SHARE) -> str:
    """Pictures of a class come training ones first."""
    return "trn" if index < round(train_share * images_per_class) else "val"


def _paths(root: Path, name: str) -> tuple[Path, Path]:
    return root / "JPEGImages" / f"{name}.jpg", root / "SegmentationClassAug" / f"{name}.png"


def _make_one(root: Path, size: int, job: tuple[int, int, int, str]) -> None:
    plan, picture, label = render(*job, size)
    palette_image = Image.fromarray(label)  # mode L, then P: the values become palette indices
    palette_image.putpalette(voc_palette())
    for path, image, options in zip(
        _paths(root, plan.image_id),
        (Image.fromarray(picture), palette_image),
        ({"format": "JPEG", "quality": 92, "subsampling": 0}, {"format": "PNG"}),
    ):
        buffer = io.BytesIO()
        image.save(buffer, **options)
        with atomic(path) as file:
            file.write(buffer.getvalue())


def voc_palette() -> list[int]:
    """The VOC colour map, 256 x RGB: the bits of the index, lowest first, fill the channels' highest bits."""
    index = np.arange(256)
    colours = np.zeros((256, 3), int)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
    return colours.ravel().tolist()


def _describe(root: Path, jobs: Iterable[tuple[int, int, int, str]]) -> dict[str, dict]:
    """Per picture its plan and the classes that are visible, counted in its label map."""
    images = {}
    for seed, class_id, index, split in jobs:
        plan = plan_image(seed, class_id, index, split)
        counts = np.bincount(np.asarray(Image.open(_paths(root, plan.image_id)[1])).ravel(), minlength=256)
        pixels = {c: int(counts[c + 1]) for c in range(len(PASCAL_CLASSES)) if counts[c + 1]}
        images[plan.image_id] = {
            "split": split,
            "scene": plan.scene,
            "classes": sorted(pixels),
            "pixels": pixels,
            "glyphs": [glyph for _, glyph in plan.objects],
            "distractors": list(plan.distractors),
        }
    return images


def _write_lists(root: Path, images: dict[str, dict], size: int) -> None:
    """ImageSets and the fold lists: rows `<id>__<class from 1>`, fold f listing its own classes 5f..5f+4."""
    for split, list_name in (("trn", "train"), ("val", "val")):
        chosen = {name: entry for name, entry in images.items() if entry["split"] == split}
        _write_lines(root / "ImageSets" / "Segmentation" / f"{list_name}.txt", chosen)
        for fold in range(4):
            rows = [
                f"{name}__{c + 1:02d}"
                for c in fold_classes("mini", fold)
                for name, entry in chosen.items()
                if entry["pixels"].get(c, 0) >= MIN_SHARE * size * size
            ]
            _write_lines(root / "splits" / split / f"fold{fold}.txt", rows)


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with atomic(path, "w") as file:
        file.writelines(f"{line}\n" for line in lines)


def _manifest(root: Path) -> dict | None:
    """manifest.json, or None where it is absent or not as it was written: the data are then looked through again."""
    found = _read(root / "manifest.json")
    try:
        whole = all(isinstance(e["bytes"], int) and isinstance(e["sha256"], str) for e in found["files"].values())
        whole = whole and all(
            e.keys() >= {"split", "classes", "scene", "distractors"} for e in found["images"].values()
        )
    except (AttributeError, KeyError, TypeError):
        return None
    return found if whole else None


def _read(path: Path) -> dict | None:
    """The JSON object in a file; None where it is absent or unreadable, as after a fault of the disk."""
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
