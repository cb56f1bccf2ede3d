"""Seconds per image of mask generation, stage by stage, for a CLIP tower with random weights."""

from __future__ import annotations

import statistics
import time
from functools import partial

import numpy as np
import torch


def random_clip(model: str, device: str = "cpu"):
    """An open_clip tower of this architecture as a Clip, weights drawn at random: nothing is downloaded."""
    import open_clip

    from ..masks.clips import Clip

    torch.manual_seed(0)
    network = open_clip.create_model(model, pretrained=None).to(device).eval().requires_grad_(False)
    kind = "cnn" if hasattr(network.visual, "attnpool") else "vit"
    mean, std = (255 * torch.tensor(v) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    return Clip(
        f"{model}, random weights",
        kind,
        network,
        open_clip.get_tokenizer(model),
        network.visual.output_dim,
        "random",
        "",
        mean,
        std,
    )


def bench_masks(
    model: str = "ViT-B-16",
    size: int = 400,
    batch: int = 1,
    repeats: int = 3,
    device: str = "cpu",
    refiners: list[str] | None = None,
    half: bool = False,
) -> dict:
    """Time the stages on random images of size x size pixels that show one class.

    Returns plain values: "seconds_per_image" of "cam and affinity", of each refiner ("guided", ..) and of the
    "total" with the default refiner (medians over ``repeats``, after one round that is not counted), and what
    was measured (model, weights, size, batch, device, threads).
    """
    from ..masks.generate import MaskMaker, default_recipe
    from ..masks.prompts import load_prompts
    from ..masks.refine import REFINERS, available_refiners

    clip = random_clip(model, device)
    recipe = default_recipe(clip, "pascal", half=half)
    maker = MaskMaker(clip, load_prompts("pascal"), recipe, device)
    rng = np.random.default_rng(0)
    images = [smooth_image(rng, size) for _ in range(batch)]
    classes = [(k % 20,) for k in range(batch)]
    guess = np.linspace(0, 1, size * size, dtype=np.float32).reshape(size, size)
    probability = np.stack([1 - guess, guess])
    seconds: dict[str, list[float]] = {}
    names = refiners or [name for name in available_refiners() if name != "none"]
    for round_ in range(repeats + 1):
        taken = {"cam and affinity": _timed(lambda: maker.coarse(images, classes), device) / batch}
        taken.update({name: _timed(partial(REFINERS[name], images[0], probability), "cpu") for name in names})
        taken["total"] = _timed(lambda: maker(images, classes), device) / batch
        if round_:
            for name, value in taken.items():
                seconds.setdefault(name, []).append(value)
    return {
        "model": model,
        "weights": "random",
        "size": size,
        "batch": batch,
        "device": device,
        "half": half,
        "threads": torch.get_num_threads(),
        "refine": recipe.refine,
        "repeats": repeats,
        "seconds_per_image": {name: round(statistics.median(values), 4) for name, values in seconds.items()},
    }


def smooth_image(rng: np.random.Generator, size: int) -> np.ndarray:
    """A random picture with large soft shapes, uint8 [size, size, 3]."""
    from ..data.images import resize_image

    return resize_image(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), (size, size))


def _timed(work, device: str) -> float:
    began = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
