"""One benchmark case: inputs, weights, and the operations to time, for the straightforward network and the library's.

Operations start from uint8 images, so the frozen backbone is part of each: ``forward1`` and ``forward5`` (query
masks from one or five supports), ``step`` (loss, gradients and AdamW update), ``after1`` (1-shot from given maps).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import backbones
from ..config import Config, make_config
from ..machine.device import check_compile
from ..metrics import vote
from ..text_prior import random_text_vectors

CLASSES, TEXT_WIDTH, MOST_SHOTS = 20, 512, 5


@dataclass(frozen=True)
class Case:
    """What is measured. size: image side in pixels; precision: "32-true" or "bf16-mixed" (library only)."""

    backbone: str = "resnet50"
    size: int = 400
    batch: int = 1
    device: str = "cpu"
    precision: str = "32-true"
    compile: bool = False
    channels_last: bool = False
    activation_checkpointing: bool = False
    dropout: float = 0.1

    def config(self, variant: str) -> Config:
        """The paper's widths for every backbone, so that backbones and variants differ in nothing else."""
        return make_config(
            "pascal",
            variant=variant,
            backbone=self.backbone,
            backbone_weights="random",
            image_size=(self.size, self.size),
            batch=self.batch,
            dropout=self.dropout,
            precision=self.precision,
            compile=self.compile,
            channels_last=self.channels_last,
            activation_checkpointing=self.activation_checkpointing,
        )

    def to_dict(self) -> dict:
        return asdict(self)


@dataclass
class Inputs:
    """Random pictures, smooth at the scale of objects, and blocky masks; the same for both networks."""

    query: Tensor  # uint8 [B, 3, H, W]
    support: list[Tensor]  # K x uint8 [B, 3, H, W]
    query_mask: Tensor  # float {0, 1} [B, 1, H, W]
    support_mask: list[Tensor]  # K x float {0, 1} [B, 1, H, W]
    query_target: Tensor  # long {0, 1} [B, H, W]
    support_target: Tensor  # long {0, 1} [B, H, W], of the first support
    class_ids: Tensor  # long [B]


def make_inputs(case: Case, seed: int = 0) -> Inputs:
    generator = torch.Generator().manual_seed(seed)

    def picture() -> Tensor:
        coarse = torch.rand(case.batch, 3, 12, 12, generator=generator)
        smooth = F.interpolate(coarse, (case.size, case.size), mode="bicubic", align_corners=False)
        grain = 0.1 * torch.rand(smooth.shape, generator=generator)
        return (255 * (smooth + grain)).clamp(0, 255).to(torch.uint8).to(case.device)

    def mask() -> Tensor:
        blocks = torch.randint(0, 2, (case.batch, 1, 8, 8), generator=generator).float()
        return F.interpolate(blocks, (case.size, case.size), mode="nearest").to(case.device)

    return Inputs(
        picture(),
        [picture() for _ in range(MOST_SHOTS)],
        mask(),
        [mask() for _ in range(MOST_SHOTS)],
        mask()[:, 0].long(),
        mask()[:, 0].long(),
        torch.randint(0, CLASSES, (case.batch,), generator=generator).to(case.device),
    )


class Plain:
    """The straightforward network with a backbone that runs for each image of each episode and shot."""

    name = "straightforward"

    def __init__(self, case: Case, backbone):
        from ..released.plain import Straightforward  # with POT, which the library's own networks do without

        self.case, self.backbone = case, backbone
        config, text = case.config("released"), random_text_vectors(CLASSES, TEXT_WIDTH)
        grids = backbones.LAYOUTS[case.backbone].grids(config.image_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = Straightforward(
                backbone.channels,
                backbone.levels,
                grids,
                (text.name, text.attribute, text.background),
                width=config.width,
                widths_4d=config.widths_4d,
                token_count=config.token_count,
                reg=config.transport_reg,
                dropout=config.dropout,
            ).to(case.device)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=config.lr, weight_decay=config.weight_decay)

    def maps(self, inputs: Inputs, shot: int) -> tuple[list[Tensor], list[Tensor]]:
        return self.backbone(inputs.query), self.backbone(inputs.support[shot])

    def logits(self, query, support, inputs: Inputs, shot: int) -> tuple[Tensor, Tensor]:
        return self.network(query, support, inputs.query_mask, inputs.support_mask[shot], inputs.class_ids)

    @torch.no_grad()
    def forward(self, inputs: Inputs, shots: int) -> Tensor:
        """Query masks bool [B, H, W]."""
        self.network.eval()
        single = [self.logits(*self.maps(inputs, k), inputs, k)[0].softmax(1)[:, 1] > 0.5 for k in range(shots)]
        return vote(torch.stack(single, 1))

    @torch.no_grad()
    def after(self, query, support, inputs: Inputs) -> Tensor:
        """1-shot query masks from given maps."""
        self.network.eval()
        return self.logits(query, support, inputs, 0)[0].argmax(1)

    def loss(self, inputs: Inputs) -> Tensor:
        """1.4 x query + 0.6 x support cross-entropy, network in training mode."""
        self.network.train()
        query, support = self.logits(*self.maps(inputs, 0), inputs, 0)
        return 1.4 * F.cross_entropy(query, inputs.query_target) + 0.6 * F.cross_entropy(support, inputs.support_target)

    def step(self, inputs: Inputs) -> Tensor:
        """One optimizer step; returns the loss, which nobody has waited for."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(inputs)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


class Library(Plain):
    """The library's network; images go through the backbone in one batch, the query once for all shots."""

    def __init__(self, case: Case, backbone, variant: str, weights: dict[str, Tensor] | None = None):
        from ..model import build_model
        from ..train import make_optimizer

        self.case, self.backbone, self.name = case, backbone, variant
        config = case.config(variant)
        self.model = build_model(config, backbone, random_text_vectors(CLASSES, TEXT_WIDTH)).to(case.device)
        if weights is not None:
            self.model.load_state_dict(weights)
        check_compile(case.compile)
        self.network = torch.compile(self.model) if case.compile else self.model
        self.optimizer = make_optimizer(self.model, config)

    def autocast(self):
        return torch.autocast(torch.device(self.case.device).type, torch.bfloat16, self.case.precision == "bf16-mixed")

    def maps(self, inputs: Inputs, shot: int) -> tuple[list[Tensor], list[Tensor]]:
        both = self.backbone(torch.cat((inputs.query, inputs.support[shot])))
        return tuple(zip(*(m.chunk(2) for m in both)))

    def logits(self, query, support, inputs: Inputs, shot: int, need_support: bool = True):
        return self.network(
            list(query), list(support), inputs.query_mask, inputs.support_mask[shot], inputs.class_ids, need_support
        )

    @torch.no_grad()
    def forward(self, inputs: Inputs, shots: int) -> Tensor:
        from ..model import predict_shots

        self.network.eval()
        with self.autocast():
            every = self.backbone(torch.cat((inputs.query, *inputs.support[:shots])))
            query, *supports = zip(*(m.chunk(1 + shots) for m in every))  # 1 + K tuples of maps
            pairs = [(list(maps), mask) for maps, mask in zip(supports, inputs.support_mask)]
            single = predict_shots(
                self.network, list(query), pairs, inputs.query_mask, inputs.class_ids
            )  # [K, B, H, W]
        return vote(single.transpose(0, 1) > 0.5)

    @torch.no_grad()
    def after(self, query, support, inputs: Inputs) -> Tensor:
        self.network.eval()
        with self.autocast():
            return self.logits(query, support, inputs, 0, False)[0].argmax(1)

    def loss(self, inputs: Inputs) -> Tensor:
        with self.autocast():
            return super().loss(inputs)


def released_weights(plain: Plain, config: Config) -> dict[str, Tensor]:
    """The straightforward network's weights under the library's names (variant `released`)."""
    from ..model import build_model
    from ..released.convert import release_key

    layout = backbones.LAYOUTS[config.backbone]
    own = build_model(config, layout, random_text_vectors(CLASSES, TEXT_WIDTH)).state_dict()
    theirs = plain.network.state_dict()
    return {key: theirs[release_key(key)].clone() for key in own}


def build(case: Case, names: tuple[str, ...] = ("straightforward", "released", "extended")) -> dict[str, Plain]:
    """The networks to compare, on one backbone; `released` has the straightforward network's weights."""
    backbone = backbones.load_backbone(case.config("released")).to(case.device)
    networks: dict[str, Plain] = {"straightforward": Plain(case, backbone)} if "straightforward" in names else {}
    for name in names:
        if name != "straightforward":
            plain = networks.get("straightforward")
            weights = released_weights(plain, case.config(name)) if name == "released" and plain else None
            networks[name] = Library(case, backbone, name, weights)
    return {name: networks[name] for name in names}
