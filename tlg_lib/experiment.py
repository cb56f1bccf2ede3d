"""What a config needs before anything can be trained or scored: data, backbone, features, text, episodes.

Opening an experiment does every check of the inputs first (folder, lists, pseudo masks, shots), so bad input
stops before long work.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from .config import Config
from .data.batches import BatchMaker
from .data.features import FeatureStore
from .data.folder import SegmentationFolder, open_folder
from .data.images import image_size, mask_size
from .episodes import Episode, TrainingSampler, test_episodes, wrong_support
from .errors import TLGError
from .paths import PACKAGE, data_home

_OPEN: dict[tuple, "Experiment"] = {}
SMALL_TEST_LIST = 200  # rows; below this a fold tests on both of its lists and trains on both of the others'


@dataclass
class Experiment:
    """Everything that does not depend on the network: shared by all runs on the same inputs."""

    data: SegmentationFolder
    backbone: torch.nn.Module
    store: FeatureStore
    text: object  # TextVectors, or None without HC
    device: torch.device

    def batches(self, config: Config) -> BatchMaker:
        return BatchMaker(config, self.data, self.store)

    def both_splits(self, config: Config) -> bool:
        """Small subsets of Pascal use both lists of each fold, so that no class is starved (said in results)."""
        return config.dataset == "pascal" and len(self.data.rows("val", config.fold)) < SMALL_TEST_LIST

    def sampler(self, config: Config) -> TrainingSampler:
        rows = self.data.training_rows(config.fold, self.both_splits(config))
        return TrainingSampler(rows, batch=config.batch, seed=config.seed, negatives=config.negatives,
                               names=self.data.classes)

    def test_episodes(self, config: Config, count: int | None = None) -> list[Episode]:
        rows = self.data.test_rows(config.fold, self.both_splits(config))
        return test_episodes(rows, dataset=config.dataset, fold=config.fold, shots=config.shots, seed=config.seed,
                             count=count or config.eval_episodes, names=self.data.classes)

    def scored_episodes(self, config: Config, control: str = "") -> list[Episode]:
        """The episodes that a score rests on: several shots and controls are scored on ``extra_episodes`` at most."""
        if config.shots > 1 or control:
            config = config.replace(eval_episodes=min(config.eval_episodes, config.extra_episodes))
        return self.wrong_support(config) if control else self.test_episodes(config)

    def wrong_support(self, config: Config) -> list[Episode]:
        rows = self.data.test_rows(config.fold, self.both_splits(config))
        return wrong_support(self.test_episodes(config), rows, config.seed)

    def base_episodes(self, config: Config, count: int) -> list[Episode]:
        """Episodes of base classes, evenly spread over them, for choices that must not see test classes."""
        rows = self.data.base_rows(config.fold)
        spread = [rows[(i * 7919) % len(rows)] for i in range(len(rows))] if len(rows) % 7919 else rows
        return test_episodes(spread, dataset=config.dataset, fold=config.fold, shots=config.shots, seed=config.seed,
                             count=count, names=self.data.classes)


def pick_device(name: str) -> torch.device:
    """ "auto" takes CUDA where there is one; a device that is not there is refused."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise TLGError(f"device '{name}' cannot be used here ({str(error).splitlines()[0]}): try --set device=cpu")
    return device


def data_root(config: Config) -> Path:
    """The dataset's folder: the one named, or where `tlg data` puts it (VOC2012, COCO2014, mini)."""
    if config.data:
        return Path(config.data).expanduser().resolve()
    return data_home() / {"mini": "mini", "pascal": "voc", "coco": "coco"}[config.dataset]


def open_data(config: Config) -> SegmentationFolder:
    """The dataset; `mini` is generated, and its pseudo masks are made, when they are not there yet."""
    root = data_root(config)
    if config.dataset == "mini" and not config.data:
        from .data.mini import ensure_mini

        ensure_mini(root)
    data = open_folder(str(root), config.dataset, config.masks)
    if config.dataset == "mini" and not config.masks:
        from .masks.generate import ensure_masks

        ensure_masks(data)
    return data


def open_experiment(config: Config, progress: bool = True) -> Experiment:
    """Open, check and share the inputs of ``config``. Raises TLGError before any long work."""
    from .backbones import load_backbone
    from .text_prior import text_vectors

    device = pick_device(config.device)
    key = (config.data, config.masks, config.dataset, config.backbone, config.backbone_weights, config.clip,
           config.clip_weights, config.image_size, config.cache_features, config.use_hc, str(device),
           os.environ.get("TLG_HOME"))
    if key in _OPEN:
        experiment = _OPEN[key]
        check_rows(config, experiment)
        return experiment
    data = open_data(config)
    experiment = Experiment(data, None, None, None, device)
    check_rows(config, experiment)
    experiment.backbone = load_backbone(config).to(device)
    experiment.store = FeatureStore(data, experiment.backbone, config.image_size, mode=config.cache_features,
                                    device=device, progress=progress)
    if config.use_hc:
        from .clips import load_clip
        from .masks.prompts import load_prompts

        experiment.text = text_vectors(load_clip(config.clip, config.clip_weights), load_prompts(config.dataset))
    _OPEN[key] = experiment
    return experiment


def check_rows(config: Config, experiment: Experiment) -> None:
    """Lists are not empty, classes have enough images, every listed image has a file and a pseudo mask."""
    data, both = experiment.data, experiment.both_splits(config)
    experiment.test_episodes(config, count=1)
    rows = data.training_rows(config.fold, both) + data.test_rows(config.fold, both) + data.base_rows(config.fold)
    TrainingSampler(rows, batch=1, seed=0, names=data.classes)
    known = set(data.image_ids)
    lost = [image for image, _ in rows if image not in known]
    if lost:
        data.image_path(lost[0])
    _check_sizes(data, rows)
    missing = data.missing_masks(rows)
    if missing:
        image, class_id = missing[0]
        raise TLGError(f"{len(missing)} of {len(rows)} rows have no pseudo mask in {data.masks} (first: {image}, "
                       f"class '{data.classes[class_id]}'): make them with `tlg masks make --data {data.root}`", code=3)


def _check_sizes(data: SegmentationFolder, rows) -> None:
    """Label maps and pseudo masks have the size of their image: resizing them all alike would hide that."""
    for image, class_id in rows:
        path = data.image_path(image)
        for mask in (data.root / "SegmentationClassAug" / f"{image}.png", data.pseudo_mask_path(image, class_id)):
            if mask.is_file() and _mask_size(mask) != _image_size(path):
                raise TLGError(f"{mask} is {_words(_mask_size(mask))}, its image {path.name} {_words(_image_size(path))}"
                               " (height x width): a mask must have the size of its image, make it again", code=3)


_image_size, _mask_size = lru_cache(maxsize=None)(image_size), lru_cache(maxsize=None)(mask_size)


def _words(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]} pixels"


def data_digest(config: Config, experiment: Experiment) -> str:
    """Changes with the lists and with any image, label map or pseudo mask that the run uses.

    Label maps and pseudo masks count with their content, images with their size in bytes: reading all of
    COCO's photographs at every start would take minutes.
    """
    data, both = experiment.data, experiment.both_splits(config)
    rows = sorted(set(data.training_rows(config.fold, both) + data.test_rows(config.fold, both)))
    running = hashlib.sha256()
    for image, class_id in rows:
        masks = (data.root / "SegmentationClassAug" / f"{image}.png", data.pseudo_mask_path(image, class_id))
        marks = [data.image_path(image).stat().st_size, *(_content(path) for path in masks)]
        running.update(f"{image}/{class_id}/{marks}\n".encode())
    return running.hexdigest()[:16]


def _content(path: Path) -> int:
    """CRC-32 of a file, -1 where there is none; read once per process and change."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return -1
    return _crc(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=None)
def _crc(path: Path, size: int, changed: int) -> int:
    return zlib.crc32(path.read_bytes())


def environment() -> dict[str, str | int]:
    """Versions, device and commit, stamped on every result."""
    import platform

    import open_clip
    import timm
    import torchvision

    from . import __version__

    try:
        commit = subprocess.run(["git", "-C", str(PACKAGE.parent), "rev-parse", "--short=12", "HEAD"],
                                capture_output=True, text=True, timeout=10).stdout.strip() or "unknown"
    except (OSError, subprocess.SubprocessError):
        commit = "unknown"
    cuda = torch.cuda.is_available()
    return {
        "tlg_lib": __version__, "torch": torch.__version__, "torchvision": torchvision.__version__,
        "timm": timm.__version__, "open_clip": open_clip.__version__, "python": platform.python_version(),
        "device": torch.cuda.get_device_name(0) if cuda else "CPU", "cores": os.cpu_count() or 1,
        "commit": commit,
    }
