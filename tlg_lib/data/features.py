"""Feature maps of the frozen backbone: computed once per image, kept on disk, mapped into memory.

The backbone never changes, so its maps depend on the image, the size and the weights alone (docs/design.md, 9).
One .npy file per layer, float32 or float16 [N, C, h, w], is filled in order; a marker counts the finished images and
holds a checksum of each one's maps, so an interrupted build goes on where it stopped. A file that is missing or cut off
is made again, and so are maps whose checksum differs when they are first used. On a GPU with room they are brought over
once. Without a cache, images shared by the episodes of a batch run once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import TLGError
from ..machine.locks import folder_lock
from ..machine.paths import cache_home, disk_error, read_sealed, write_sealed
from ..machine.progress import track
from .digest import contents
from .folder import SegmentationFolder
from .images import resize_image

CACHE_LIMIT = 8 << 30  # bytes; above this "auto" computes features on the fly


class FeatureStore:
    """``store(image_ids)`` -> the backbone's maps for these images, a list of float32 [B, C_l, h_l, w_l].

    mode: "on" caches, "off" computes each time, "auto" caches when the whole folder stays under CACHE_LIMIT.
    bits: 16 rounds the maps to half precision, cached or not: half the disk, and half the memory on a GPU.
    """

    def __init__(
        self,
        data: SegmentationFolder,
        backbone,
        image_size: tuple[int, int],
        *,
        mode: str = "auto",
        bits: int = 32,
        device: str | torch.device = "cpu",
        progress: bool = True,
        batch: int = 16,
    ):
        self.data, self.backbone, self.image_size = data, backbone, tuple(image_size)
        self.device, self.batch, self.progress = torch.device(device), batch, progress
        self.dtype, self.kept = np.dtype(f"float{bits}"), torch.float16 if bits == 16 else torch.float32
        self.maps: list[np.ndarray] | None = None
        self.resident: list[Tensor] | None = None  # on a device with room for them; [] where there is none
        self.index: dict[str, int] = {}
        self.folder, self.sums, self.checked = Path(), [], set()
        if mode != "off":
            shapes = [tuple(m.shape[1:]) for m in self.compute(self._blank())]
            needed = self.dtype.itemsize * len(data.image_ids) * sum(int(np.prod(s)) for s in shapes)
            if mode == "on" or needed <= CACHE_LIMIT:
                self._open_cache(shapes, needed)

    def __call__(self, image_ids: list[str]) -> list[Tensor]:
        if self.maps is not None:
            rows = [self.index[i] if i in self.index else self._unknown(i) for i in image_ids]
            if self.resident is None:
                self.resident = self._to_device()
            if self.resident:
                chosen = torch.tensor(rows).to(self.device, non_blocking=True)
                return [m[chosen].float() for m in self.resident]
            self._check(rows)
            return [torch.from_numpy(m[rows]).to(self.device).float() for m in self.maps]  # each [B, C, h, w]
        unique = list(dict.fromkeys(image_ids))
        place = [unique.index(i) for i in image_ids]
        return [m[place] for m in self._compute(unique)]

    @property
    def cached(self) -> bool:
        """Whether maps come from disk: then nobody needs to read the images."""
        return self.maps is not None

    def _to_device(self) -> list[Tensor]:
        """All maps on the device, whole and checked, where they take no more than ``room``; else []."""
        if not self.maps or sum(m.nbytes for m in self.maps) > room(self.device):
            return []
        self._check(range(len(self.sums)))
        found = [torch.empty(m.shape, dtype=self.kept, device=self.device) for m in self.maps]
        for target, stored in zip(found, self.maps):
            for start in range(0, len(stored), self.batch):
                target[start : start + self.batch] = torch.from_numpy(stored[start : start + self.batch].copy())
        return found

    def _unknown(self, image_id: str):
        self.data.image_path(image_id)  # raises its own line when the file is missing
        raise TLGError(f"image {image_id} was added after its features were cached: run again", code=3)

    def _blank(self) -> Tensor:
        return torch.zeros(1, *self.image_size, 3, dtype=torch.uint8)

    def compute(self, images: Tensor) -> list[Tensor]:
        """The maps of images that the caller has read, RGB uint8 [B, H, W, 3]."""
        with torch.no_grad():
            maps = [m.float() for m in self.backbone(images.to(self.device).permute(0, 3, 1, 2))]
            return maps if self.kept == torch.float32 else [self._rounded(m) for m in maps]

    def _rounded(self, maps: Tensor) -> Tensor:
        """The float32 of the nearest 16 bits. Raises TLGError where a value needs more."""
        found = maps.half().float()
        if not found.isfinite().all():
            raise TLGError(
                f"features of {self.backbone.name} reach {float(maps.abs().max()):.3g}, more than 16 bits hold: "
                "use --set feature_bits=32",
                code=3,
            )
        return found

    def _compute(self, image_ids: list[str]) -> list[Tensor]:
        images = [resize_image(self.data.image(i), self.image_size) for i in image_ids]
        return self.compute(torch.from_numpy(np.stack(images)))

    def _digest(self) -> str:
        """Changes with the weights, the size, the arithmetic of this torch build, and any image's content."""
        parts = [self.backbone.name, self.backbone.weights, str(self.image_size), torch.__version__, self.device.type]
        paths = [self.data.image_path(image_id) for image_id in self.data.image_ids]
        marks = contents(self.data.root, paths)
        parts += [f"{image_id}/{marks[path]}" for image_id, path in zip(self.data.image_ids, paths)]
        parts += ["16 bits"] * (self.kept == torch.float16)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def _open_cache(self, shapes: list[tuple[int, ...]], needed: int) -> None:
        name = f"{self.data.root.resolve().name[:60]}-{self.backbone.name}-{self._digest()}"
        self.folder = cache_home() / "features" / name
        images = self.data.image_ids
        self.sums = _finished(self.folder)
        self.maps = self._open_maps(shapes)
        if self.maps is None or len(self.sums) < len(images):
            with folder_lock(self.folder, wait=True):
                try:
                    self.sums = self._fill(shapes, needed)
                except OSError as error:
                    raise disk_error(self.folder, error) from None
            self.maps = self._open_maps(shapes)
        self.index = {image: i for i, image in enumerate(images)}

    def _fill(self, shapes, needed: int) -> list[int]:
        """Compute what is missing; returns the checksum of every image's maps."""
        images, sums = self.data.image_ids, _finished(self.folder)  # asked again: another process may have built it
        maps = self._open_maps(shapes, "r+") if sums else None
        if len(sums) == len(images) and maps is not None:
            return sums
        if maps is None:
            sums = []
            if shutil.disk_usage(self.folder).free < needed + (200 << 20):
                raise TLGError(
                    f"the feature cache needs {needed >> 20} MB in {self.folder}: free some space, set TLG_HOME "
                    "to another disk, or use --set cache_features=off",
                    code=5,
                )
            maps = [_new_map(_layer(self.folder, i), s, self.dtype) for i, s in enumerate(self._shapes(shapes))]
        del sums[len(sums) - len(sums) % self.batch :]  # a batch is always of the same images, for equal bits
        starts = range(len(sums), len(images), self.batch)
        for start in track(
            starts, total=len(starts), label="backbone features, once", unit="batches", show=self.progress
        ):
            sums += self._fill_batch(maps, start)
            if (start // self.batch) % 20 == 19:
                _flush(maps, self.folder, sums)
        _flush(maps, self.folder, sums)
        return sums

    def _fill_batch(self, maps: list[np.ndarray], start: int) -> list[int]:
        """Compute and store one batch, always the same images together; returns their checksums."""
        ids = self.data.image_ids[start : start + self.batch]
        computed = [maps_of_layer.cpu().numpy().astype(self.dtype, copy=False) for maps_of_layer in self._compute(ids)]
        for stored, new in zip(maps, computed):
            stored[start : start + len(ids)] = new
        return [_sum(computed, i) for i in range(len(ids))]

    def _check(self, rows: Iterable[int]) -> None:
        """Compare the maps of rows that this process has not used yet with their checksums; make bad ones again."""
        for row in set(rows) - self.checked:
            if _sum(self.maps, row) != self.sums[row]:
                with folder_lock(self.folder, wait=True):
                    start = row - row % self.batch
                    maps = self._open_maps([m.shape[1:] for m in self.maps], "r+")
                    self.sums[start : start + self.batch] = self._fill_batch(maps, start)
                    _flush(maps, self.folder, self.sums)
            self.checked.add(row)

    def _shapes(self, shapes) -> list[tuple[int, ...]]:
        return [(len(self.data.image_ids), *shape) for shape in shapes]

    def _open_maps(self, shapes, mode: str = "r") -> list[np.ndarray] | None:
        """The layers' files, mapped; None unless all are there, whole and of these shapes [C, h, w]."""
        if mode != "r" and self._open_maps(shapes) is None:
            return None  # opened for writing, a file that was cut off would be filled up with zeros
        try:
            paths = [_layer(self.folder, i) for i in range(len(shapes))]
            maps = [np.load(path, mmap_mode=mode, allow_pickle=False) for path in paths]
        except (OSError, ValueError, EOFError):
            return None
        fits = all(m.shape == shape and m.dtype == self.dtype for m, shape in zip(maps, self._shapes(shapes)))
        return maps if fits else None


def room(device: torch.device) -> int:
    """Bytes that features may take on the device: a third of a GPU's free memory; nothing elsewhere, where they are
    mapped from files."""
    return torch.cuda.mem_get_info(device)[0] // 3 if device.type == "cuda" else 0


def _layer(folder: Path, number: int) -> Path:
    return folder / f"layer{number:02d}.npy"


def _new_map(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A file of zeros whose blocks are the disk's: a full one is told now, not by a signal on some later write."""
    path.unlink(missing_ok=True)
    stored = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return stored


def _sum(maps: list[np.ndarray], row: int) -> int:
    running = 0
    for stored in maps:
        running = zlib.crc32(np.ascontiguousarray(stored[row]), running)
    return running


def _flush(maps, folder: Path, sums: list[int]) -> None:
    for stored in maps:
        stored.flush()
    write_sealed(folder / "done.json", {"sums": sums})


def _finished(folder: Path) -> list[int]:
    try:
        return list(read_sealed(folder / "done.json")["sums"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
