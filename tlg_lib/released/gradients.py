"""Gradient reach: which parameters exist, take part in the computation, and get a gradient from the loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..backbones import LAYOUTS
from ..config import Config, make_config
from ..model import build_model
from ..text_prior import random_text_vectors
from .convert import UNUSED_PARAMETERS

# Counted in AFANet's public code with ResNet-50, outside the backbone: what the paper's "1/24" is held against.
AFANET_DEFINED = 113_394_321
AFANET_LEARNING = 3_277_728
PAPER_CLAIM = 24
TEXT_DIM = 512  # of CLIP's text embeddings; the report's numbers depend on it through HC's projection


@dataclass(frozen=True)
class Reach:
    """Parameter counts of one module. used: its module runs in a forward pass; learning: gets a non-zero gradient."""

    module: str
    defined: int
    used: int
    learning: int


def gradient_reach(config: Config) -> list[Reach]:
    """One training step's reach, module by module, the frozen backbone left out.

    Found by doing it: a loss on random maps, in training mode without dropout. A parameter is used when its module
    runs, and learns when its gradient has an entry other than 0. For ``released`` the layers that the authors
    define and never use are listed too.
    """
    config = config.replace(dropout=0.0)
    layout = LAYOUTS[config.backbone]
    model = build_model(config, layout, random_text_vectors(1, TEXT_DIM))
    model.train()
    generator = torch.Generator().manual_seed(0)
    grids = layout.grids(config.image_size)

    def maps():
        out = []
        for grid, layers in zip(grids, layout.levels):
            out += [torch.randn(1, layout.channels[layer], *grid, generator=generator) for layer in layers]
        return out

    height, width = config.image_size
    masks = (torch.rand(2, 1, 1, 8, 8, generator=generator) > 0.5).float()
    masks = [F.interpolate(mask, size=(height, width)) for mask in masks]
    target = (torch.rand(1, height, width, generator=generator) > 0.5).long()

    used: set[str] = set()
    hooks = [
        module.register_forward_hook(lambda module, inputs, output, name=name: used.add(name))
        for name, module in model.named_modules()
    ]
    output = model(maps(), maps(), *masks, torch.zeros(1, dtype=torch.long), config.support_loss > 0)
    for hook in hooks:
        hook.remove()
    loss = config.query_loss * F.cross_entropy(output.query_logits, target)
    if output.support_logits is not None:
        loss = loss + config.support_loss * F.cross_entropy(output.support_logits, target)
    loss.backward()

    counts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        row = counts.setdefault(_part(name), [0, 0, 0])
        row[0] += parameter.numel()
        # `other` of a 4D convolution may run as a matrix product of its weights, so its parent is asked.
        owner = name.rsplit(".", 1)[0].removesuffix(".other").removesuffix(".this")
        row[1] += parameter.numel() * (owner in used)
        row[2] += reached(parameter)
    rows = [Reach(part, *numbers) for part, numbers in counts.items()]
    if config.variant == "released" and config.backbone == "resnet50":
        rows += [Reach(f"{name} (in the authors' file only)", n, 0, 0) for name, n in UNUSED_PARAMETERS.items()]
    return rows


def reached(parameter: torch.Tensor) -> int:
    """How many numbers a parameter has that learns: all of its own where its gradient has an entry other than 0."""
    return parameter.numel() if parameter.grad is not None and bool(parameter.grad.any()) else 0


def _part(name: str) -> str:
    """Module of a parameter as the report groups them: two levels deep."""
    parts = name.split(".")
    return ".".join(parts[:2]) if len(parts) > 2 else parts[0]


def total(rows: list[Reach], name: str = "total outside the backbone") -> Reach:
    return Reach(name, sum(r.defined for r in rows), sum(r.used for r in rows), sum(r.learning for r in rows))


def print_report(variant: str = "released", backbone: str = "resnet50") -> None:
    """Print the table for a variant at the paper's setting (preset "pascal"), and the paper's claim beside it."""
    rows = gradient_reach(make_config("pascal", variant=variant, backbone=backbone))
    everything = total(rows)
    print(f"gradient reach of variant={variant}, {backbone}, 400x400 (parameters)")
    print(f"{'module':<48} {'defined':>12} {'used':>12} {'learning':>12}")
    for row in [*rows, everything]:
        print(f"{row.module:<48} {row.defined:>12,} {row.used:>12,} {row.learning:>12,}")
    print(
        f"the paper: 1/{PAPER_CLAIM} of the parameters of existing methods. Counted: AFANet (ResNet-50) defines "
        f"{AFANET_DEFINED:,} outside its backbone, of which {AFANET_LEARNING:,} get a gradient; this network is "
        f"1/{AFANET_DEFINED / everything.defined:.1f} of the former by definition, and its {everything.learning:,} "
        f"learning parameters are 1/{AFANET_LEARNING / everything.learning:.2f} of the latter"
    )


def count_parameters(config, inputs=None) -> dict[str, int]:
    """Parameters outside the backbone: all, learnable, and those that the loss of 32 episodes reaches.

    A parameter counts as reached when its gradient has an entry that is not zero. Fewer episodes would leave a
    kernel without input where every masked object misses the few positions of the pooled grid that a stride keeps.
    inputs: those that the caller has open (inputs.py).
    """
    from ..inputs import Inputs
    from ..losses import total_loss

    experiment = (inputs or Inputs()).open(config)
    model = build_model(config, experiment.backbone, experiment.text).to(experiment.device).train()
    torch.manual_seed(0)
    make, sampler = experiment.batches(config), experiment.sampler(config.replace(batch=8))
    for step in range(4):
        batch = make(sampler.batch(step), training=True)
        output = model(
            batch.query,
            batch.support[0],
            batch.query_mask,
            batch.support_mask[:, 0],
            batch.class_ids,
            config.support_loss > 0,
        )
        total_loss(output, batch, config, list(model.parameters())).backward()
    return {
        "total": sum(p.numel() for p in model.parameters()),
        "learnable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "receiving_gradient": sum(reached(p) for p in model.parameters()),
    }
