"""Pseudo masks from image-level labels: CAM, affinity, argmax and refinement, for an image or a folder.

The order is that of CLIP-ES (docs/design.md, 5). ``MaskMaker`` shows every stage of an image;
``generate_masks`` writes a folder of masks, goes on where it was stopped, and skips masks that match the
recipe and the image.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.images import image_size, resize_image, write_mask
from ..data.listing import list_masks, some
from ..data.splits import Row
from ..errors import TLGError
from ..machine.parallel import APART, WorkerKilled, one_per_core, run_jobs
from ..machine.paths import read_json, write_json
from ..machine.progress import track
from .affinity import feature_similarity, patch_affinity, spread
from .cam import class_maps
from .prompts import Prompts, encode_prompts, load_prompts
from .refine import REFINERS, crf_installed, no_crf

AFFINITIES = ("attention", "features", "none")
LABELS = ("present", "row")
RESAMPLING = ("bilinear", "bicubic")
EDGES = ("closed", "open")
# What CLIP-ES's own code does and its paper does not say (Lin et al., CVPR 2023): the recipe of transformers on
# Pascal and COCO. CONFIDENCE goes with its dense CRF: GrabCut's probabilities are no such thing.
PUBLISHED = {"resample": "bicubic", "edges": "open", "eps": 1e-7}
CONFIDENCE = 0.95
VERSION = 1  # of the algorithm: raise it when the same recipe gives other masks
LOG = "recipe.jsonl"
MANY = 1000  # rows for which a process for each core is worth its start


@dataclass(frozen=True)
class MaskRecipe:
    """How masks are made; its digest is stored beside them.

    affinity: "attention" (transformers), "features" (self-similarity of the last stage) or "none".
    refine: a name in refine.REFINERS. box_threshold: share of a CAM's maximum inside whose boxes it spreads, 0 =
    everywhere.
    alpha: background score = (1 - max over classes) ** alpha. scales: input sizes relative to the image, CAMs
    averaged. max_side: larger images are worked on at this many pixels, masks are written at full size.
    labels: foreground words are all classes "present" in the image, or the "row"'s own class alone.
    unsure: pixels whose two best scores differ by less are written as 255 (0: none). confidence: so are those whose
    best score is lower. half: bfloat16 blocks. resample: of the input. edges: "open" boxes leave the map's last row and
    column out. eps: added where a map is divided by its range.
    """

    affinity: str = "attention"
    refine: str = "grabcut"
    box_threshold: float = 0.4
    alpha: float = 1.0
    scales: tuple[float, ...] = (1.0,)
    max_side: int = 640
    labels: str = "present"
    unsure: float = 0.0
    half: bool = False
    resample: str = "bilinear"
    edges: str = "closed"
    eps: float = 0.0
    confidence: float = 0.0

    def __post_init__(self):
        named = {"affinity": AFFINITIES, "refine": tuple(REFINERS), "labels": LABELS}
        for name, allowed in (named | {"resample": RESAMPLING, "edges": EDGES}).items():
            if getattr(self, name) not in allowed:
                raise TLGError(f"{name}='{getattr(self, name)}': choose one of {', '.join(allowed)}")
        ranges = (("box_threshold", 0, 1), ("alpha", 0.05, 20), ("max_side", 32, 8192), ("unsure", 0, 1))
        ranges += (("eps", 0, 1), ("confidence", 0, 1))
        for name, low, high in ranges:
            if not low <= getattr(self, name) <= high:
                raise TLGError(f"{name}={getattr(self, name)}: must be between {low} and {high}")
        if not self.scales or not all(0.1 <= s <= 8 for s in self.scales):
            raise TLGError(f"scales={self.scales}: give numbers between 0.1 and 8, as 1.0,2.0")
        if self.refine == "crf" and not crf_installed():
            raise no_crf()


def default_recipe(clip, dataset: str, **overrides) -> MaskRecipe:
    """The measured defaults for a tower and a dataset (docs/masks.md), with changes by field name."""
    values: dict = {"box_threshold": 0.7 if dataset == "coco" else 0.4}
    if clip.kind != "vit":
        values.update(affinity="features", box_threshold=0.0, scales=(2.0,))
    elif dataset in ("pascal", "coco"):
        values.update(PUBLISHED, confidence=CONFIDENCE if overrides.get("refine") == "crf" else 0.0)
    fields = {f.name for f in dataclasses.fields(MaskRecipe)}
    unknown = sorted(set(overrides) - fields)
    if unknown:
        raise TLGError(f"unknown mask setting '{unknown[0]}': the names are {', '.join(sorted(fields))}")
    return MaskRecipe(**{**values, **overrides})


def recipe_values(texts: dict[str, str]) -> dict:
    """Settings as typed, {"scales": "1,2", "half": "true"}, in the types of MaskRecipe's fields."""
    defaults, values = dataclasses.asdict(MaskRecipe()), {}
    for name, text in texts.items():
        kind = type(defaults.get(name, ""))  # an unknown name stays text: default_recipe names it
        try:
            if kind is bool:
                values[name] = {"true": True, "false": False}[text.lower()]
            elif kind is tuple:
                values[name] = tuple(float(part) for part in text.strip("()[] ").split(",") if part.strip())
            else:
                values[name] = kind(text)
        except (ValueError, KeyError):
            wanted = {bool: "true or false", tuple: "numbers, as 1.0,2.0", int: "a whole number", float: "a number"}
            raise TLGError(f"{name}={text}: expected {wanted[kind]}") from None
    return values


@dataclass
class Stages:
    """Every stage of one image's masks, for P classes; h x w is the tower's grid, H x W the image.

    cam, spread: 0..1 [P, h, w] before and after the affinity; probability, refined: [1 + P, H, W], row 0
    background; argmax, label: uint8 [H, W], 0 background, k + 1 = classes[k], before and after refinement
    (label alone may hold 255, unsure).
    """

    classes: tuple[int, ...]
    cam: np.ndarray
    spread: np.ndarray
    probability: np.ndarray
    argmax: np.ndarray
    refined: np.ndarray
    label: np.ndarray

    def mask(self, class_id: int) -> np.ndarray:
        """Final mask of one class, uint8 {0, 1, 255} [H, W]."""
        mask = (self.label == self.classes.index(class_id) + 1).astype(np.uint8)
        mask[self.label == 255] = 255
        return mask

    def confidence(self, class_id: int) -> np.ndarray:
        """Refined foreground probability of one class, float32 0..1 [H, W]."""
        return self.refined[self.classes.index(class_id) + 1]


class MaskMaker:
    """Masks by one recipe: ``maker(images, classes)`` for images of one size, ``maker.one(image, classes)``.

    clip: tlg_lib.masks.clips.Clip; prompts: the words. Raises TLGError when the recipe does not fit the tower.
    """

    def __init__(self, clip, prompts: Prompts, recipe: MaskRecipe, device: str | torch.device = "cpu"):
        _check_affinity(clip, recipe)
        self.clip, self.recipe, self.device = clip, recipe, torch.device(device)
        text, background = encode_prompts(clip, prompts)
        self.text, self.background = text.to(self.device), background.to(self.device)  # [C, D], [Bg, D]

    def with_recipe(self, recipe: MaskRecipe) -> MaskMaker:
        """The same tower and words, which are not encoded again, under another recipe."""
        _check_affinity(self.clip, recipe)
        other = copy.copy(self)
        other.recipe = recipe
        return other

    def one(self, image: np.ndarray, classes: tuple[int, ...]) -> Stages:
        """Stages of one image uint8 [H, W, 3] for the class ids that it shows."""
        return self([image], [tuple(classes)])[0]

    def __call__(self, images: list[np.ndarray], classes: list[tuple[int, ...]]) -> list[Stages]:
        """Stages of images of one size, computed together."""
        small = [_at_most(image, self.recipe.max_side) for image in images]
        cams, spreads = self.coarse(small, classes)
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # OpenCV and NumPy work outside Python's lock
            return list(
                pool.map(
                    lambda image, work, ids, cam, wide: self.finish(
                        image, work, ids, cam[: len(ids)], wide[: len(ids)]
                    ),
                    images,
                    small,
                    classes,
                    cams,
                    spreads,
                )
            )

    def coarse(self, images: list[np.ndarray], classes: list[tuple[int, ...]]) -> tuple[np.ndarray, np.ndarray]:
        """(CAM, CAM after the affinity), 0..1 [B, P, h, w] each, on the grid of the largest scale."""
        most = max(len(ids) for ids in classes)
        padded = torch.tensor([list(ids) + [0] * (most - len(ids)) for ids in classes], device=self.device)
        present = torch.tensor([[k < len(ids) for k in range(most)] for ids in classes], device=self.device)
        pixels = torch.from_numpy(np.stack(images)).to(self.device).permute(0, 3, 1, 2)  # [B, 3, H, W]
        total, grid, maps = 0, None, None
        for scale in sorted(self.recipe.scales, reverse=True):
            maps_here = class_maps(
                self.clip,
                self._resized(pixels, scale),
                self.text[padded],
                present,
                self.background,
                half=self.recipe.half,
                eps=self.recipe.eps,
            )
            if grid is None:  # the largest scale comes first: it sets the grid and gives the affinity
                grid, maps = maps_here.cam.shape[-2:], maps_here
            total = total + _resize(maps_here.cam, grid)
        cam = total / len(self.recipe.scales)
        wide = cam
        if self.recipe.affinity != "none":
            attends = self.recipe.affinity == "attention"
            alike = maps.attention if attends else feature_similarity(maps.features)
            recipe = self.recipe
            wide = spread(cam, patch_affinity(alike), recipe.box_threshold, recipe.edges, recipe.eps)
        return cam.cpu().numpy(), wide.cpu().numpy()

    def _resized(self, pixels: Tensor, scale: float) -> Tensor:
        """Images at ``scale`` x their size; for transformers rounded up to multiples of the patch."""
        sides = [max(32, round(side * scale)) for side in pixels.shape[-2:]]
        if self.clip.kind == "vit":
            patches = self.clip.model.visual.patch_size
            sides = [-(-side // patch) * patch for side, patch in zip(sides, patches)]
        if sides == list(pixels.shape[-2:]):
            return pixels
        mode = self.recipe.resample
        resized = F.interpolate(pixels.float(), sides, mode=mode, align_corners=False, antialias=True)
        return resized.round().clamp(0, 255).to(torch.uint8)

    def finish(
        self, image: np.ndarray, work: np.ndarray, classes: tuple[int, ...], cam: np.ndarray, wide: np.ndarray
    ) -> Stages:
        """From ``coarse`` maps [P, h, w] of one image to its masks; work: the image at the size worked on."""
        scores = _resize(torch.from_numpy(wide)[None], work.shape[:2])[0].numpy()  # [P, H, W]
        background = (1 - scores.max(0, keepdims=True)) ** self.recipe.alpha
        probability = np.concatenate([background, scores])  # [1 + P, H, W]
        probability = probability / np.maximum(probability.sum(0), 1e-8)
        refined = REFINERS[self.recipe.refine](work, probability)
        probability, refined = (
            _resize(torch.from_numpy(p)[None], image.shape[:2])[0].numpy() for p in (probability, refined)
        )
        first, label = (p.argmax(0).astype(np.uint8) for p in (probability, refined))
        if self.recipe.unsure:
            best = np.sort(refined, 0)[-2:]
            label[best[1] - best[0] < self.recipe.unsure] = 255
        label[refined.max(0) < self.recipe.confidence] = 255
        return Stages(tuple(classes), cam, wide, probability, first, refined, label)


def _check_affinity(clip, recipe: MaskRecipe) -> None:
    if recipe.affinity == "attention" and clip.kind != "vit":
        raise TLGError(
            f"affinity=attention needs a transformer, {clip.name} is convolutional: use "
            "affinity=features or affinity=none"
        )


def _at_most(image: np.ndarray, side: int) -> np.ndarray:
    height, width = image.shape[:2]
    if max(height, width) <= side:
        return image
    factor = side / max(height, width)
    return resize_image(image, (max(1, round(height * factor)), max(1, round(width * factor))))


def _resize(maps: Tensor, size) -> Tensor:
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)


# --- a whole folder


def all_rows(data) -> list[Row]:
    """Every row of every split and fold of a SegmentationFolder, once, sorted."""
    return sorted({row for split in ("trn", "val") for fold in range(4) for row in data.rows(split, fold)})


def masks_folder(data) -> Path:
    return Path(data.masks)


def made_by(masks: str | Path) -> str:
    """The CLIP and the weights that made the masks of a folder, "" where no recipe of ours lies with them."""
    try:
        recipe = read_json(Path(masks) / "recipe.json")
        return f"{recipe['clip']} ({recipe['weights']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def confidence_folder(masks: str | Path) -> Path:
    """Where confidences lie: beside the masks, 8-bit grey, 0..255 = foreground score."""
    return Path(f"{masks}_conf")


def recipe_digest(clip, prompts: Prompts, recipe: MaskRecipe) -> str:
    """Short hash of the tower, its weights, the words and the recipe."""
    parts = {
        "version": VERSION,
        "clip": clip.name,
        "weights": clip.weights,
        "prompts": prompts.digest(),
        **dataclasses.asdict(recipe),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Job:
    """The masks of one image: classes named to the tower, and the classes whose masks are written."""

    image: str
    named: tuple[int, ...]
    written: tuple[int, ...]
    digest: str  # of the image file


def generate_masks(
    data,
    clip,
    rows: list[Row] | None = None,
    out: str | Path = "",
    *,
    prompts: Prompts | None = None,
    recipe: MaskRecipe | None = None,
    device: str = "cpu",
    workers: int = 0,
    batch: int = 16,
    overwrite: bool = False,
    progress: bool = True,
) -> dict:
    """Write masks (and confidences) of ``rows`` (by default all) into ``out`` (by default the data's folder).

    data: SegmentationFolder; clip: tlg_lib.masks.clips.Clip; workers: processes, 0 = this one; batch: images of one
    size computed together. Existing masks that were made by the same recipe from the same image stay.
    Returns {"made", "kept", "folder", "recipe"}: numbers of images, the folder, the digest. Raises TLGError
    naming the file of the first unreadable image, before anything is computed from it, and where masks that were made
    elsewhere would be written over.
    """
    from ..machine.locks import folder_lock

    prompts = prompts or load_prompts(data.dataset)
    recipe = recipe or default_recipe(clip, data.dataset)
    out = Path(out) if out else masks_folder(data)
    digest = recipe_digest(clip, prompts, recipe)
    jobs = _jobs(data, rows if rows is not None else all_rows(data), recipe)
    with folder_lock(out, wait=3600):
        if not (overwrite or (out / LOG).is_file()):
            _refuse_foreign(out, jobs)
        done = set() if overwrite else _finished(out, digest)
        left = [job for job in jobs if not _is_done(job, out, done)]
        if left:
            write_json(
                out / "recipe.json",
                {
                    "digest": digest,
                    "clip": clip.name,
                    "weights": clip.weights,
                    "prompts": prompts.digest(),
                    **dataclasses.asdict(recipe),
                },
            )
            batches = _batches(data, left, batch)
            results = _run(batches, data, clip, prompts, recipe, out, device, workers)
            results = track(
                results, total=len(batches), label=f"pseudo masks ({clip.name})", unit="batches", show=progress
            )
            with open(out / LOG, "a", encoding="utf-8") as log:
                for jobs_done in results:
                    entries = ([digest, job.image, job.digest, job.named, job.written] for job in jobs_done)
                    log.writelines(json.dumps(entry) + "\n" for entry in entries)
                    log.flush()
    return {"made": len(left), "kept": len(jobs) - len(left), "folder": str(out), "recipe": digest}


def _refuse_foreign(out: Path, jobs: list[_Job]) -> None:
    """Masks in a folder without our log are somebody's work."""
    there = list_masks(out).files
    names = [f"{job.image}--{c}" for job in jobs for c in job.written]
    lost = [there[name].name for name in names if name in there]
    if lost:
        raise TLGError(
            f"{out} holds {len(lost)} masks that were not made here ({some(lost)}): name another folder with --masks, "
            "or give --overwrite",
            code=2,
        )


def ensure_masks(data, clip_name: str = "mini", progress: bool = True) -> None:
    """Make the data's masks with the default recipe where they are missing or do not match.

    Masks that were made elsewhere, in a folder without our recipe.json, are never written over.
    """
    from .clips import load_clip

    out = masks_folder(data)
    if made_by(out) or not list_masks(out).files:
        make = partial(generate_masks, data, load_clip(clip_name), batch=32, progress=progress)
        rows = all_rows(data)
        try:
            make(rows, workers=one_per_core() if len(rows) >= MANY else 0)
        except WorkerKilled:  # memory for one may be there; what was made is kept
            make(rows)


def _jobs(data, rows: list[Row], recipe: MaskRecipe) -> list[_Job]:
    wanted = defaultdict(set)
    for image, class_id in rows:
        wanted[image].add(class_id)
    jobs = []
    for image, ids in sorted(wanted.items()):
        digest = hashlib.sha256(data.image_path(image).read_bytes()).hexdigest()[:16]
        if recipe.labels == "row":
            jobs += [_Job(image, (c,), (c,), digest) for c in sorted(ids)]
        else:
            named = sorted(ids | {value - 1 for value in data.classes_in(image)})
            jobs.append(_Job(image, tuple(named), tuple(sorted(ids)), digest))
    return jobs


def _finished(out: Path, digest: str) -> set[tuple]:
    """Entries of the log that this recipe made; a line cut by a crash is passed over."""
    entries = set()
    try:
        lines = (out / LOG).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return entries
    latest = {}
    for line in lines:
        try:
            recipe, image, image_digest, named, written = json.loads(line)
            for class_id in written:
                latest[str(image), int(class_id)] = (recipe, image_digest, tuple(map(int, named)))
        except (ValueError, TypeError, OverflowError, RecursionError):
            continue
    return {(key, value[1:]) for key, value in latest.items() if value[0] == digest and isinstance(value[1], str)}


def _is_done(job: _Job, out: Path, done: set[tuple]) -> bool:
    return all(
        ((job.image, c), (job.digest, job.named)) in done
        and (out / f"{job.image}--{c}.png").is_file()
        and (confidence_folder(out) / f"{job.image}--{c}.png").is_file()
        for c in job.written
    )


def _batches(data, jobs: list[_Job], batch: int) -> list[list[_Job]]:
    """Jobs in groups of one image size, so that a batch is one tensor."""
    by_size = defaultdict(list)
    for job in jobs:
        by_size[image_size(data.image_path(job.image))].append(job)
    return [group[i : i + batch] for group in by_size.values() for i in range(0, len(group), batch)]


def _run(batches, data, clip, prompts, recipe, out, device, workers):
    """Yield the jobs of each batch once its masks are written."""
    if workers <= 1:
        maker = MaskMaker(clip, prompts, recipe, device)
        yield from (_write_batch(jobs, maker=maker, data=data, out=out) for jobs in batches)
        return
    devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if str(device) == "cuda" else [device]
    places = APART.Queue()
    for number in range(workers):
        places.put(devices[number % len(devices)])
    about = (places, workers, clip.name, clip.weights_file, prompts, recipe, data, out)
    for _, done in run_jobs([("", _work, (jobs,)) for jobs in batches], workers, _start_worker, about):
        yield done


_WORKER: dict = {}


def _start_worker(devices, workers, clip_name, weights_file, prompts, recipe, data, out) -> None:
    from .clips import load_clip

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    device = devices.get()
    _WORKER.update(
        maker=MaskMaker(load_clip(clip_name, weights_file, device), prompts, recipe, device), data=data, out=out
    )


def _work(jobs: list[_Job]) -> list[_Job]:
    return _write_batch(jobs, **_WORKER)


def _write_batch(jobs: list[_Job], maker: MaskMaker, data, out: Path) -> list[_Job]:
    images = [data.image(job.image) for job in jobs]
    groups = defaultdict(list)
    for position, image in enumerate(images):  # one group, unless a header lied about the size
        groups[image.shape].append(position)
    for positions in groups.values():
        found = maker([images[i] for i in positions], [jobs[i].named for i in positions])
        for i, stages in zip(positions, found):
            for class_id in jobs[i].written:
                save_masks(out, jobs[i].image, class_id, stages)
    return jobs


def save_masks(out: str | Path, image_id: str, class_id: int, stages: Stages) -> None:
    """Write ``<image>--<class>.png`` (palette, pixel = class + 1, 255 unsure) and its confidence."""
    mask = stages.mask(class_id)
    name = f"{image_id}--{class_id}.png"
    confidence = np.clip(255 * stages.confidence(class_id), 0, 255).round().astype(np.uint8)
    write_mask(confidence_folder(out) / name, confidence, palette=False)
    write_mask(Path(out) / name, np.where(mask == 1, class_id + 1, mask).astype(np.uint8))
