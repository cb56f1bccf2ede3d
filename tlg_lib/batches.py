"""Episodes to tensors: features, pseudo masks and targets of a batch, all at the network's image size.

In two halves: a ``Reader`` brings what lies on disk into memory, here or in worker processes (machine/loader.py); a
``BatchMaker`` takes it to the device, where the backbone runs.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .config import Config
from .data.features import FeatureStore
from .data.folder import SegmentationFolder
from .data.images import resize_image, resize_mask
from .episodes import Episode
from .machine.loader import Groups, read_ahead


@dataclass
class EpisodeBatch:
    """B episodes with K supports. Masks are float or long at the image size H, W.

    query: list over layers of [B, C, h, w]; support: K such lists; *_mask: pseudo masks (the supports' as
    ``support_masks`` says), float {0, 1}, the network's inputs; *_target: long {0, 1, 255}, training targets by
    supervision; truth: long {0, 1, 255}, for scoring only.
    """

    episodes: list[Episode]
    query: list[Tensor]
    support: list[list[Tensor]]
    query_mask: Tensor  # [B, 1, H, W]
    support_mask: Tensor  # [B, K, 1, H, W]
    query_target: Tensor  # [B, H, W]
    support_target: Tensor  # [B, K, H, W]
    truth: Tensor  # [B, H, W]
    class_ids: Tensor  # [B]

    def flipped(self) -> EpisodeBatch:
        """Mirrored left to right: maps and masks together (the maps of a mirrored image are close to these)."""
        maps = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("episodes", "class_ids")}
        return replace(self, **{name: _mirrored(value) for name, value in maps.items()})


def _mirrored(x: Any) -> Any:
    return [_mirrored(y) for y in x] if isinstance(x, list) else x.flip(-1)


class Read(NamedTuple):
    """What a batch of B episodes with K supports needs from disk, at the image size H, W; masks uint8 {0, 1, 255}."""

    episodes: list[Episode]
    images: Tensor | None  # RGB, uint8 [U, H, W, 3], each image of the batch once; None where features are cached
    place: Tensor  # long [B + B * K]: the row of ``images`` of every query, then of every support
    pseudo: Tensor  # [B, H, W]
    support_pseudo: Tensor  # [B, K, H, W]
    true: Tensor  # [B, H, W]
    support_true: Tensor | None  # [B, K, H, W], where the support is a training target too
    class_ids: Tensor  # long [B]

    def to(self, device: torch.device) -> Read:
        """On the device; from pinned memory the copies run beside other work."""
        return Read._make(x.to(device, non_blocking=True) if isinstance(x, Tensor) else x for x in self)


class Masks:
    """Masks of a dataset at one size, uint8 {0, 1, 255} [H, W], kept in memory; a file that changed is read again."""

    def __init__(self, data: SegmentationFolder, image_size: tuple[int, int], share: int = 1):
        self.data, self.image_size = data, image_size
        keep = max(64, (512 << 20) // (image_size[0] * image_size[1] * share))  # at most 512 MB by all that share
        self._kept = lru_cache(keep)(self._load)

    def pseudo(self, image: str, class_id: int) -> np.ndarray:
        return self._kept("pseudo", image, class_id, _changed(self.data.pseudo_mask_path(image, class_id)))

    def drawn(self, image: str, class_id: int) -> np.ndarray:
        return self._kept("drawn", image, class_id, _changed(self.data.label_path(image)))

    def boxes(self, image: str, class_id: int) -> np.ndarray:
        """What a user's box round the object becomes (masks/drawn.py)."""
        return self._kept("boxes", image, class_id, _changed(self.data.label_path(image)))

    def _load(self, kind: str, image: str, class_id: int, changed: int) -> np.ndarray:
        if kind == "boxes":
            return self._boxed(image, class_id)
        read = self.data.pseudo_mask if kind == "pseudo" else self.data.mask
        return resize_mask(read(image, class_id), self.image_size)

    def _boxed(self, image: str, class_id: int) -> np.ndarray:
        from .masks.drawn import cut

        inside = self.data.mask(image, class_id) == 1
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        if len(rows) < 2 or len(columns) < 2:  # too thin for a box
            return resize_mask(inside.astype(np.uint8), self.image_size)
        box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        return resize_mask(cut(self.data.image(image), [box], [], []), self.image_size)


def _changed(path: Path) -> int:
    """When the file was changed last, in nanoseconds; 0 where there is none, which reading it will tell."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


class Reader:
    """Reads what batches need, each image of a batch once. Travels to workers without the masks that it keeps.

    Args: images -- whether photographs are read as well, as they are where their features are not cached; masks -- that
    several readers share, by default its own.
    """

    def __init__(self, config: Config, data: SegmentationFolder, images: bool, masks: Masks | None = None):
        self.config, self.data, self.images = config, data, images
        self.masks = masks or Masks(data, config.image_size, max(1, config.workers) if images else 1)
        self.supports = {"pseudo": self.masks.pseudo, "drawn": self.masks.drawn, "boxes": self.masks.boxes}

    def __reduce__(self):
        return type(self), (self.config, self.data, self.images)

    def __call__(self, episodes: list[Episode], training: bool = False) -> Read:
        """training=False leaves out what only a training target needs. Raises TLGError naming a file."""
        shots = len(episodes[0].support)
        named = [e.query for e in episodes] + [s for e in episodes for s in e.support]
        once = {image: row for row, image in enumerate(dict.fromkeys(named))}
        pairs = [(s, e.support_class) for e in episodes for s in e.support]
        stack = lambda arrays: torch.from_numpy(np.stack(arrays))  # noqa: E731
        images = [resize_image(self.data.image(i), self.config.image_size) for i in once] if self.images else []
        pseudo = stack([self.masks.pseudo(e.query, e.class_id) for e in episodes])
        supports = self.supports[self.config.support_masks]
        support_pseudo = stack([supports(*pair) for pair in pairs]).unflatten(0, (len(episodes), shots))
        support_true = None
        if training and self.config.supervision == "pixel" and self.config.support_loss > 0:
            support_true = stack([self.masks.drawn(*pair) for pair in pairs]).unflatten(0, (len(episodes), shots))
        return Read(
            episodes,
            stack(images) if images else None,
            torch.tensor([once[image] for image in named]),
            pseudo,
            support_pseudo,
            stack([self.masks.drawn(e.query, e.class_id) for e in episodes]),
            support_true,
            torch.tensor([e.class_id for e in episodes]),
        )


class BatchMaker:
    """Turns episodes into an EpisodeBatch on a device. masks: kept ones that several makers share."""

    def __init__(self, config: Config, data: SegmentationFolder, store: FeatureStore, masks: Masks | None = None):
        self.config, self.store, self.read = config, store, Reader(config, data, not store.cached, masks)

    def __call__(self, episodes: list[Episode], training: bool = False) -> EpisodeBatch:
        """training=False leaves the targets equal to the truth."""
        return self._finish(self.read(episodes, training).to(self.store.device), training)

    def each(self, groups: Groups, training: bool = False) -> Generator[EpisodeBatch, None, None]:
        """The batch of each group in turn, read ahead by ``config.workers`` processes where images are read.

        The batches are the same to the bit as one by one. Raises WorkerKilled when a worker is gone.
        """
        workers = self.config.workers if self.read.images else 0
        for read in read_ahead(self.read, groups, workers, self.store.device, training):
            yield self._finish(read, training)

    def _finish(self, read: Read, training: bool) -> EpisodeBatch:
        """The features and masks of what was read and lies on the device."""
        size, shots = read.support_pseudo.shape[:2]
        if read.images is None:
            named = [e.query for e in read.episodes] + [s for e in read.episodes for s in e.support]
            maps = self.store(named)  # the images of a batch in one call
        else:
            with torch.autocast(self.store.device.type, torch.bfloat16, self.config.precision == "bf16-mixed"):
                maps = [m[read.place] for m in self.store.compute(read.images)]
        target, support_target = read.true, read.support_pseudo
        if training and self.config.supervision == "image":
            target = read.pseudo
        elif read.support_true is not None:
            support_target = read.support_true
        return EpisodeBatch(
            read.episodes,
            [m[:size] for m in maps],
            [[m[size + k :: shots] for m in maps] for k in range(shots)],
            (read.pseudo == 1).float()[:, None],
            (read.support_pseudo == 1).float()[:, :, None],
            target.long(),
            support_target.long(),
            read.true.long(),
            read.class_ids,
        )


class EpisodeDataset(torch.utils.data.Dataset):
    """Episodes as tensors for a ``torch.utils.data.DataLoader``, with or without workers; no backbone involved.

    Args: data -- of ``data.folder.open_folder``; episodes -- of ``test_episodes`` or of ``TrainingSampler.batch``, all
    with the same number of supports; image_size -- (height, width) to which everything is resized, pixels.
    Item i is a dictionary, which the default collation stacks: ``query`` uint8 [3, H, W] and ``support`` uint8
    [K, 3, H, W], RGB (what ``load_backbone(config)`` takes); ``query_mask`` [1, H, W] and ``support_mask``
    [K, 1, H, W], pseudo masks, float {0, 1}; ``truth`` long {0, 1, 255} [H, W]; ``class_id`` long.
    """

    def __init__(self, data: SegmentationFolder, episodes: Sequence[Episode], image_size: tuple[int, int]):
        self.data, self.episodes, self.image_size = data, list(episodes), image_size

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        episode, supports = self.episodes[index], self.episodes[index].support
        return {
            "query": self._image(episode.query),
            "support": torch.stack([self._image(s) for s in supports]),
            "query_mask": self._pseudo(episode.query, episode.class_id),
            "support_mask": torch.stack([self._pseudo(s, episode.support_class) for s in supports]),
            "truth": torch.from_numpy(
                resize_mask(self.data.mask(episode.query, episode.class_id), self.image_size)
            ).long(),
            "class_id": torch.tensor(episode.class_id),
        }

    def _image(self, image: str) -> Tensor:
        return torch.from_numpy(resize_image(self.data.image(image), self.image_size)).permute(2, 0, 1)  # [3, H, W]

    def _pseudo(self, image: str, class_id: int) -> Tensor:
        mask = resize_mask(self.data.pseudo_mask(image, class_id), self.image_size)
        return torch.from_numpy(mask == 1).float()[None]  # [1, H, W]
