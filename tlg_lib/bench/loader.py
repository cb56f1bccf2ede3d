"""Images a second that worker processes read, against what training steps consume (``tlg bench loader``).

The pictures are generated: of the size of VOC's photographs and as heavy on disk (500 x 375 pixels, about 100 kB), with
label maps and pseudo masks beside them, in VOC's layout.
"""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..batches import BatchMaker, Reader
from ..config import make_config
from ..data.features import FeatureStore
from ..data.folder import SegmentationFolder
from ..data.images import write_mask
from ..episodes import TrainingSampler
from ..losses import total_loss
from ..machine import loader
from .cases import Case, build
from .measure import clock
from .table import markdown

HEIGHT, WIDTH, CLASSES = 375, 500, 20


def make_pictures(root: Path, per_class: int = 8, seed: int = 0) -> SegmentationFolder:
    """Write CLASSES x per_class pictures of one class each in VOC's layout; returns the folder."""
    rng = np.random.default_rng(seed)
    for name in ("JPEGImages", "SegmentationClassAug", "PseudoMasks"):
        (root / name).mkdir(parents=True)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for class_id in range(CLASSES):
        for number in range(per_class):
            coarse = Image.fromarray(rng.integers(0, 256, (8, 10, 3), dtype=np.uint8))
            smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).astype(np.int16)
            grain = rng.normal(0, 14, (HEIGHT, WIDTH, 1))  # as much as makes a file as heavy as a photograph's
            row, column = rng.uniform(0.3, 0.7, 2) * (HEIGHT, WIDTH)
            inside = ((y - row) / 90) ** 2 + ((x - column) / 120) ** 2 < 1
            label, image_id = np.where(inside, class_id + 1, 0).astype(np.uint8), f"2000_{class_id:02d}{number:04d}"
            picture = (smooth + grain).clip(0, 255).astype(np.uint8)
            Image.fromarray(picture).save(root / "JPEGImages" / f"{image_id}.jpg", quality=92)
            write_mask(root / "SegmentationClassAug" / f"{image_id}.png", label)
            write_mask(root / "PseudoMasks" / f"{image_id}--{class_id}.png", label)
    return SegmentationFolder(root, "pascal")


class Draws:
    """Batches without end for ``read_ahead``: pass after pass over the folder's pictures."""

    def __init__(self, data: SegmentationFolder, batch: int, count: int = 10**6):
        rows = [(image, int(image[5:7])) for image in data.image_ids]
        self.sampler, self.count = TrainingSampler(rows, batch=batch, seed=0), count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        return self.sampler.batch(index)


class Fresh(Reader):
    """Reads every mask from its file: those of a few pictures fit in memory, those of Pascal's 10,582 do not."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.masks._kept = self.masks._load


def rate(data: SegmentationFolder, size: int, batch: int, workers: int, device: str, seconds: float) -> dict:
    """Images a second that arrive on the device, once what was read ahead is used up; ``start``: seconds until then."""
    reader = Fresh(make_config("pascal", image_size=(size, size), batch=batch, workers=workers), data, True)
    began, images, first = time.perf_counter(), 0, 0.0
    with closing(loader.read_ahead(reader, Draws(data, batch), workers, torch.device(device))) as batches:
        for number, read in enumerate(batches):
            now = time.perf_counter()
            if number < loader.AHEAD * workers:
                continue
            if not first:
                first = now
                continue
            images += len(read.images)
            if now - first > seconds:
                break
    return {"workers": workers, "start": round(first - began, 2), "images_per_second": round(images / (now - first), 1)}


def training_row(case: Case, data: SegmentationFolder, workers: int, count: int) -> dict:
    """Seconds of ``count`` training steps of `extended` on batches that workers read ahead, and on one batch in memory.

    Their difference is what a step waits for its batch.
    """
    config = case.config("extended").replace(workers=workers)
    network = build(case, ("extended",))["extended"]
    store = FeatureStore(data, network.backbone, config.image_size, mode="off", device=case.device)
    make = BatchMaker(config, data, store)
    make.read = Fresh(config, data, True)
    parameters = list(network.model.parameters())

    def step(batch):
        masks = batch.query_mask, batch.support_mask[:, 0]
        network.optimizer.zero_grad(set_to_none=True)
        with network.autocast():
            output = network.network(batch.query, batch.support[0], *masks, batch.class_ids, config.support_loss > 0)
        total_loss(output, batch, config, parameters).backward()
        network.optimizer.step()

    draws = Draws(data, case.batch)
    network.network.train()
    with closing(make.each(draws, training=True)) as batches:
        for _ in range(loader.AHEAD * workers if case.device != "cpu" else 1):  # what was read before the first step
            step(next(batches))
        began = clock(case.device)
        for _ in range(count):
            step(next(batches))
        with_loader = (clock(case.device) - began) / count
    reads = [make.read(draws[i], True).to(torch.device(case.device)) for i in range(3)]
    step(make._finish(reads[0], True))
    began = clock(case.device)
    for i in range(count):
        step(make._finish(reads[i % 3], True))
    in_memory = (clock(case.device) - began) / count
    images = float(np.mean([len(read.images) for read in reads]))
    return {
        "workers": workers,
        "seconds": with_loader,
        "seconds_in_memory": in_memory,
        "images_per_step": images,
        "images_per_second_needed": images / in_memory,
    }


def loader_text(result: dict) -> str:
    """Markdown of the result of ``tlg bench loader``."""
    case, rows = result["case"], []
    for found in result["rates"]:
        rows.append([found["workers"], f"{found['images_per_second']:.0f}", f"{found['start']:.1f}"])
    title = f"### Loader: {case['size']} px, batch {case['batch']}, {result['cores']} cores, to {case['device']}"
    table = markdown(["workers (0: this process)", "images a second", "seconds until the first batches"], rows)
    row = result.get("training")
    if not row:
        return f"{title}\n\n{table}"
    return (
        f"{title}\n\n{table}\n\nA training step of `extended` ({case['backbone']}, {case['precision']}) takes "
        f"{row['seconds']:.3g} s with batches read ahead by {row['workers']} workers, {row['seconds_in_memory']:.3g} s "
        f"with batches in memory: it consumes {row['images_per_second_needed']:.3g} images a second."
    )
