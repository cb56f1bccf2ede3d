"""What a config needs before anything can be trained or scored: data, backbone, features, text, episodes.

Opening an experiment does every check of the inputs first (folder, lists, pseudo masks, shots), so bad input
stops before long work. A job opens its inputs at its door and hands them on; nothing is remembered behind its back.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from .backbones import Backbone, load_backbone
from .batches import BatchMaker, Masks
from .config import Config
from .data.features import FeatureStore
from .data.folder import SegmentationFolder, open_folder
from .machine.device import pick_device
from .protocol import Protocol, check_rows, data_root
from .text_prior import TextVectors, text_vectors


@dataclass
class Experiment(Protocol):
    """Everything that does not depend on the network: shared by all runs on the same inputs."""

    backbone: Backbone
    store: FeatureStore
    text: TextVectors | None  # None without HC
    device: torch.device
    masks: dict[tuple[int, int], Masks] = field(default_factory=dict)  # by image size, kept for all makers

    def batches(self, config: Config) -> BatchMaker:
        size = config.image_size
        if size not in self.masks:
            self.masks[size] = Masks(self.data, size)
        return BatchMaker(config, self.data, self.store, self.masks[size])


def open_data(config: Config) -> SegmentationFolder:
    """The dataset; `mini` is generated, and its pseudo masks are made, when they are not there yet."""
    root = data_root(config)
    if config.dataset == "mini":
        from .data.mini.make import ensure_mini, is_locked

        if not config.data or is_locked(root):
            ensure_mini(root, locked=is_locked(root))
    data = open_folder(str(root), config.dataset, config.masks)
    if config.dataset == "mini" and not config.masks:
        from .masks.generate import ensure_masks

        ensure_masks(data)
    return data


def open_experiment(config: Config, progress: bool = True) -> Experiment:
    """Open and check the inputs of ``config``. Raises TLGError before any long work."""
    device = pick_device(config.device)
    data = open_data(config)
    check_rows(config, Protocol(data), progress)
    backbone = load_backbone(config).to(device)
    store = FeatureStore(
        data,
        backbone,
        config.image_size,
        mode=config.cache_features,
        bits=config.feature_bits,
        device=device,
        progress=progress,
    )
    text = None
    if config.use_hc:
        from .masks.clips import load_clip
        from .masks.prompts import load_prompts

        text = text_vectors(load_clip(config.clip, config.clip_weights), load_prompts(config.dataset))
    return Experiment(data, backbone, store, text, device)
