"""Episodes to tensors: features, pseudo masks and targets of a batch, all at the network's image size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .config import Config
from .data.features import FeatureStore
from .data.folder import SegmentationFolder
from .data.images import resize_image, resize_mask
from .episodes import Episode


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


class BatchMaker:
    """Turns episodes into an EpisodeBatch on a device; small sets keep their resized masks in memory."""

    def __init__(self, config: Config, data: SegmentationFolder, store: FeatureStore):
        self.config, self.data, self.store = config, data, store
        height, width = config.image_size
        keep = max(64, (256 << 20) // (height * width))  # at most 256 MB of masks
        self._pseudo = lru_cache(keep)(self._load_pseudo)
        self._true = lru_cache(keep)(self._load_true)
        self._boxed = lru_cache(keep)(self._load_boxed)
        self._supports = {"pseudo": self._pseudo, "drawn": self._true, "boxes": self._boxed}[config.support_masks]

    def _load_pseudo(self, image: str, class_id: int) -> np.ndarray:
        return resize_mask(self.data.pseudo_mask(image, class_id), self.config.image_size)

    def _load_true(self, image: str, class_id: int) -> np.ndarray:
        return resize_mask(self.data.mask(image, class_id), self.config.image_size)

    def _load_boxed(self, image: str, class_id: int) -> np.ndarray:
        """What a user's box round the object becomes (masks/drawn.py)."""
        from .masks.drawn import cut

        inside = self.data.mask(image, class_id) == 1
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        if len(rows) < 2 or len(columns) < 2:  # too thin for a box
            return resize_mask(inside.astype(np.uint8), self.config.image_size)
        box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        return resize_mask(cut(self.data.image(image), [box], [], []), self.config.image_size)

    def __call__(self, episodes: list[Episode], training: bool = False) -> EpisodeBatch:
        """training=False leaves the targets equal to the truth."""
        shots, size, device = len(episodes[0].support), len(episodes), self.store.device
        images = [e.query for e in episodes] + [s for e in episodes for s in e.support]
        maps = self.store(images)  # the images of a batch in one call
        supports = [[m[size + k :: shots] for m in maps] for k in range(shots)]
        stack = lambda arrays: torch.from_numpy(np.stack(arrays)).to(device)  # noqa: E731
        pseudo = stack([self._pseudo(e.query, e.class_id) for e in episodes])  # [B, H, W]
        support_pseudo = stack([self._supports(s, e.support_class) for e in episodes for s in e.support])
        support_pseudo = support_pseudo.unflatten(0, (size, shots))  # [B, K, H, W]
        true = stack([self._true(e.query, e.class_id) for e in episodes])
        target, support_target = true, support_pseudo
        if training and self.config.supervision == "image":
            target = pseudo
        elif training and self.config.support_loss > 0:
            support_target = stack([self._true(s, e.support_class) for e in episodes for s in e.support])
            support_target = support_target.unflatten(0, (size, shots))
        return EpisodeBatch(
            episodes,
            [m[:size] for m in maps],
            supports,
            (pseudo == 1).float()[:, None],
            (support_pseudo == 1).float()[:, :, None],
            target.long(),
            support_target.long(),
            true.long(),
            torch.tensor([e.class_id for e in episodes], device=device),
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
