"""Feature maps of the frozen backbone: computed once per image, kept on disk, mapped into memory.

The backbone never changes, so its maps depend on the image, the size and the weights alone (docs/design.md, 9).
One .npy file per layer, float32 [N, C, h, w], is filled in order; a marker counts the finished images, so an
interrupted build goes on where it stopped. Without a cache, images shared by the episodes of a batch run once.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import TLGError
from ..machine.paths import cache_home, write_json
from ..machine.progress import track
from .folder import SegmentationFolder
from .images import resize_image

CACHE_LIMIT = 8 << 30  # bytes; above this "auto" computes features on the fly


class FeatureStore:
    """``store(image_ids)`` -> the backbone's maps for these images, a list of float32 [B, C_l, h_l, w_l].

    mode: "on" caches, "off" computes each time, "auto" caches when the whole folder stays under CACHE_LIMIT.
    """

    def __init__(
        self,
        data: SegmentationFolder,
        backbone,
        image_size: tuple[int, int],
        *,
        mode: str = "auto",
        device: str | torch.device = "cpu",
        progress: bool = True,
        batch: int = 16,
    ):
        self.data, self.backbone, self.image_size = data, backbone, tuple(image_size)
        self.device, self.batch, self.progress = torch.device(device), batch, progress
        self.maps: list[np.ndarray] | None = None
        self.index: dict[str, int] = {}
        if mode != "off":
            shapes = [tuple(m.shape[1:]) for m in self._compute_tensor(self._blank())]
            needed = 4 * len(data.image_ids) * sum(int(np.prod(s)) for s in shapes)
            if mode == "on" or needed <= CACHE_LIMIT:
                self._open_cache(shapes, needed)

    def __call__(self, image_ids: list[str]) -> list[Tensor]:
        if self.maps is not None:
            rows = [self.index[i] if i in self.index else self._unknown(i) for i in image_ids]
            return [torch.from_numpy(m[rows]).to(self.device) for m in self.maps]  # each [B, C, h, w]
        unique = list(dict.fromkeys(image_ids))
        place = [unique.index(i) for i in image_ids]
        return [m[place] for m in self._compute(unique)]

    def _unknown(self, image_id: str):
        self.data.image_path(image_id)  # raises its own line when the file is missing
        raise TLGError(f"image {image_id} was added after its features were cached: run again", code=3)

    def _blank(self) -> Tensor:
        return torch.zeros(1, 3, *self.image_size, dtype=torch.uint8)

    def _compute_tensor(self, images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return [m.float() for m in self.backbone(images.to(self.device))]

    def _compute(self, image_ids: list[str]) -> list[Tensor]:
        images = [resize_image(self.data.image(i), self.image_size) for i in image_ids]
        return self._compute_tensor(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))  # [B, 3, H, W]

    def _digest(self) -> str:
        """Changes with the weights, the size, the arithmetic of this torch build, and any image file."""
        parts = [self.backbone.name, self.backbone.weights, str(self.image_size), torch.__version__, self.device.type]
        for image_id in self.data.image_ids:
            stat = self.data.image_path(image_id).stat()
            parts.append(f"{image_id}/{stat.st_size}/{stat.st_mtime_ns}")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def _open_cache(self, shapes: list[tuple[int, ...]], needed: int) -> None:
        from ..machine.locks import folder_lock

        name = f"{self.data.root.resolve().name}-{self.backbone.name}-{self._digest()}"
        folder = cache_home() / "features" / name
        images = self.data.image_ids
        marker = folder / "done.json"
        if _finished(marker) < len(images):
            folder.mkdir(parents=True, exist_ok=True)
            with folder_lock(folder, wait=True):
                self._fill(folder, marker, shapes, needed)
        self.maps = [np.load(folder / f"layer{i:02d}.npy", mmap_mode="r") for i in range(len(shapes))]
        self.index = {image: i for i, image in enumerate(images)}

    def _fill(self, folder: Path, marker: Path, shapes, needed: int) -> None:
        images, done = self.data.image_ids, _finished(marker)  # asked again: another process may have built it
        if done >= len(images):
            return
        if done == 0 and shutil.disk_usage(folder).free < needed + (200 << 20):
            raise TLGError(
                f"the feature cache needs {needed >> 20} MB in {folder}: free some space, set TLG_HOME "
                "to another disk, or use --set cache_features=off",
                code=5,
            )
        maps = [
            np.lib.format.open_memmap(
                folder / f"layer{i:02d}.npy",
                mode="r+" if done else "w+",
                dtype=np.float32,
                shape=None if done else (len(images), *shape),
            )
            for i, shape in enumerate(shapes)
        ]
        starts = range(done, len(images), self.batch)
        for start in track(
            starts, total=len(starts), label="backbone features, once", unit="batches", show=self.progress
        ):
            for stored, computed in zip(maps, self._compute(images[start : start + self.batch])):
                stored[start : start + len(computed)] = computed.cpu().numpy()
            if (start // self.batch) % 20 == 19:
                _flush(maps, marker, start + self.batch)
        _flush(maps, marker, len(images))


def _flush(maps, marker: Path, count: int) -> None:
    for stored in maps:
        stored.flush()
    write_json(marker, {"images": count})


def _finished(marker: Path) -> int:
    try:
        return int(json.loads(marker.read_text())["images"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
