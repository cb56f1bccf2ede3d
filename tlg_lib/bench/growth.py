"""What more images cost before any is decoded: lists, draws, the size of cached features (``tlg bench images``).

The folder is simulated: files without content, by VOC's names, of 80 classes of which the largest holds half of the
images, as COCO's ``person`` does.
"""

from __future__ import annotations

import tempfile
import time
import tracemalloc
from pathlib import Path

from ..backbones import LAYOUTS
from ..config import make_config
from ..data.listing import list_images
from ..episodes import TrainingSampler, test_episodes
from .table import markdown

COUNTS = (1_000, 10_000, 100_000)
CLASSES, BATCHES, EPISODES = 80, 50, 1000
FEATURES = {"pascal-lite": "EfficientNet-Lite0, 224 px", "pascal": "ResNet-50, 400 px"}


def feature_bytes(preset: str) -> int:
    """Of one image's cached maps: float32, all layers."""
    config = make_config(preset)
    layout = LAYOUTS[config.backbone]
    grids = layout.grids(config.image_size)
    return 4 * sum(layout.channels[i] * h * w for layers, (h, w) in zip(layout.levels, grids) for i in layers)


def measure_images(count: int) -> dict:
    """Seconds and MiB for a folder of ``count`` images with one row each."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            (Path(folder) / f"2008_{number:06d}.jpg").touch()
        tracemalloc.start()
        listed, listing = _timed(lambda: list_images(folder))
        rows = [(image, 0 if n % 2 else n // 2 % CLASSES) for n, image in enumerate(listing.files)]
        first, sampler = _timed(lambda: _begun(rows))
        memory = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
    draws, _ = _timed(lambda: [sampler.batch(step) for step in range(BATCHES)])
    tested, _ = _timed(lambda: test_episodes(rows, dataset="coco", fold=0, shots=5, seed=0, count=EPISODES))
    return {
        "images": count,
        "listing": listed,
        "first_batch": first,
        "batch": draws / BATCHES,
        "test_list": tested,
        "memory_mib": memory,
        "features_gib": {preset: count * feature_bytes(preset) / 2**30 for preset in FEATURES},
    }


def _begun(rows) -> TrainingSampler:
    sampler = TrainingSampler(rows, batch=20, seed=0)
    sampler.batch(0)
    return sampler


def _timed(run):
    began = time.perf_counter()
    found = run()
    return time.perf_counter() - began, found


def images_table(results: list[dict]) -> str:
    rows = [
        [
            f"{r['images']:,}",
            f"{r['listing']:.2f}",
            f"{r['first_batch']:.2f}",
            f"{1000 * r['batch']:.2f}",
            f"{r['test_list']:.2f}",
            f"{r['memory_mib']:.0f}",
            *(f"{r['features_gib'][preset]:.1f}" for preset in FEATURES),
        ]
        for r in results
    ]
    header = ["images", "listing, s", "sampler to its first batch, s", "a batch of 20, ms"]
    header += [f"{EPISODES:,} test episodes of 5 shots, s", "memory of the lists, MiB"]
    return markdown(header + [f"cached features, {name}, GiB" for name in FEATURES.values()], rows)
