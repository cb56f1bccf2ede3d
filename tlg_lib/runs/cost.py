"""What a sweep will cost, before it runs: seconds per training step and per episode, measured here."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from ..config import Config
from .jobs import read_status
from .spec import Cell, Spec

MEASURED_BATCH = 2  # on a CPU; larger batches are extrapolated in proportion, which is pessimistic by about a third
# Settings that do not change the time of a step.
TIMELESS = tuple(
    "preset data masks fold seed shots supervision backbone_weights clip_weights steps lr weight_decay schedule "
    "query_loss noisy_targets checkpoint_every epoch_steps workers eval_episodes extra_episodes epoch_episodes "
    "eval_batch threshold dropout flip".split()
)


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step at the config's batch, and of one 1-shot test episode."""

    step: float
    episode: float


def measure(config: Config) -> StepTime:
    """Time the config's network on random images: the better of two steps and predictions after a warm-up.

    The backbone has random weights (the time is the same); it is left out where the config caches features,
    as each image is then seen by it once. Needs no data.
    """
    import torch

    from ..backbones import load_backbone
    from ..machine.device import pick_device
    from ..model import build_model
    from ..text_prior import TextVectors

    device = pick_device(config.device)
    batch = config.batch if device.type == "cuda" else min(config.batch, MEASURED_BATCH)
    backbone = load_backbone(config.replace(backbone_weights="random")).to(device)
    vectors = torch.nn.functional.normalize(torch.randn(80, 512), dim=1)
    model = build_model(config, backbone, TextVectors(vectors, vectors, vectors) if config.use_hc else None).to(device)
    images = torch.randint(0, 256, (batch, 3, *config.image_size), dtype=torch.uint8, device=device)
    masks = torch.ones(batch, 1, *config.image_size, device=device)
    classes = torch.zeros(batch, dtype=torch.long, device=device)

    @torch.no_grad()
    def features():
        return backbone(images)

    def train_step():
        output = model(maps, maps, masks, masks, classes, True)
        (output.query_logits.mean() + output.support_logits.mean()).backward()

    @torch.no_grad()
    def predict():
        model(maps, maps, masks, masks, classes, False)

    def seconds(function) -> float:
        function()
        best = float("inf")
        for _ in range(2):
            began = time.perf_counter()
            function()
            if device.type == "cuda":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - began)
        return best

    maps = features()
    backbone_time = 0.0 if config.cache_features != "off" else 2 * seconds(features)  # query and support
    step = seconds(train_step) + backbone_time
    model.eval()
    return StepTime(step * config.batch / batch, (seconds(predict) + backbone_time) / batch)


def cell_seconds(config: Config, times: StepTime) -> float:
    """Training, the per-epoch curve, and the final scores: last and best epoch, wrong support, K shots."""
    epochs = -(-config.steps // config.epoch_steps)
    shots = 3 + (config.shots if config.shots > 1 else 0)
    episodes = epochs * 2 * config.epoch_episodes + config.eval_episodes * shots
    return config.steps * times.step + episodes * times.episode


def estimate(spec: Spec, folder: Path, cells: list[Cell]) -> dict[str, float]:
    """Seconds of each of ``cells`` by name.

    A finished cell of the same kind counts as it was; else each network of its own speed is measured once.
    """
    lasted: dict[str, list[float]] = {}
    for cell in spec.cells:
        status = read_status(folder / cell.name)
        if status["state"] == "done" and isinstance(status.get("seconds"), (int, float)):
            lasted.setdefault(cell.config.digest(without=("fold", "seed", "data", "masks")), []).append(
                status["seconds"]
            )
    measured: dict[str, StepTime] = {}
    found = {}
    for cell in cells:
        alike = lasted.get(cell.config.digest(without=("fold", "seed", "data", "masks")))
        if alike:
            found[cell.name] = sum(alike) / len(alike)
            continue
        kind = cell.config.digest(without=TIMELESS)
        if kind not in measured:
            measured[kind] = measure(cell.config)
        found[cell.name] = cell_seconds(cell.config, measured[kind])
    return found


def words(seconds: float) -> str:
    """ "45 s", "12 min", "3.5 h" or "2.1 days"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 172_800:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86_400:.1f} days"
