"""Frozen image classifiers as sources of feature maps, behind one interface (docs/design.md, 3.1 and 4).

``load_backbone(config)`` gives a module that turns uint8 RGB images into a list of maps, low to high. It
has no learnable parameter, stays in evaluation mode, and computes without gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .config import Config
from .machine.weights import PIP_PACKAGES, classifier


@dataclass(frozen=True)
class Layout:
    """Which maps a backbone gives: channels per layer, and the layers of strides 8, 16 and 32.

    ``rounds_up``: side of a map = ceil(image side / stride); else floor (max pooling without padding).
    """

    channels: tuple[int, ...]
    levels: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    rounds_up: bool = True

    def grids(self, image_size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """(height, width) of the maps at strides 8, 16 and 32 for images of ``image_size``."""
        sizes = [image_size]
        for _ in range(5):
            height, width = ((n + self.rounds_up) // 2 for n in sizes[-1])
            sizes.append((height, width))
        return tuple(sizes[3:])


LAYOUTS = {
    "efficientnet_lite0": Layout(
        channels=(40,) * 2 + (80,) * 3 + (112,) * 3 + (192,) * 4 + (320,),
        levels=((0, 1), (2, 3, 4, 5, 6, 7), (8, 9, 10, 11, 12)),
    ),
    "efficientnet_lite2": Layout(
        channels=(48,) * 3 + (88,) * 4 + (120,) * 4 + (208,) * 5 + (352,),
        levels=((0, 1, 2), (3, 4, 5, 6, 7, 8, 9, 10), (11, 12, 13, 14, 15, 16)),
    ),
    "resnet50": Layout(
        channels=(512,) * 4 + (1024,) * 6 + (2048,) * 3, levels=((0, 1, 2, 3), (4, 5, 6, 7, 8, 9), (10, 11, 12))
    ),
    "vgg16": Layout(channels=(512,) * 7, levels=((0, 1, 2), (3, 4, 5), (6,)), rounds_up=False),
}


class Backbone(nn.Module):
    """Images [B, 3, H, W], uint8 RGB (or float on the same 0..255 scale) -> list of maps, low to high.

    Attributes: ``name``; ``weights`` ("imagenet", "random" or "sha256:<12 digits>" of the file that was
    named); ``channels`` and ``levels`` as in Layout. Subclasses give ``_maps``: normalised images -> maps.
    """

    network: Any  # timm's or torchvision's, whose parts are found by their names
    mean: Tensor
    std: Tensor

    def __init__(self, name: str, network: nn.Module, weights: str, mean: Tensor, std: Tensor):
        super().__init__()
        self.name, self.weights = name, weights
        self.channels, self.levels = LAYOUTS[name].channels, LAYOUTS[name].levels
        # Channels stand last in memory: faster convolutions, and maps that correlate without a transposed copy.
        self.network = network.to(memory_format=torch.channels_last)
        self.register_buffer("mean", mean.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", std.view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Backbone:
        """Stay in evaluation mode: batch statistics of a frozen network must not move."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        if images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(f"expected images [B, 3, H, W], got {tuple(images.shape)}")
        return self._maps((images.to(self.mean.dtype) - self.mean) / self.std)

    def _maps(self, x: Tensor) -> list[Tensor]:
        raise NotImplementedError


class EfficientNetLite(Backbone):
    """Block outputs at strides 8, 16 and 32; Lite0: 2 x 40, 3 x 80 and 3 x 112, 4 x 192 and 1 x 320 channels."""

    def _maps(self, x: Tensor) -> list[Tensor]:
        network = self.network
        x = network.bn1(network.conv_stem(x))
        maps = []
        for index, stage in enumerate(network.blocks):
            for block in stage:
                x = block(x)
                if index >= 2:
                    maps.append(x)
        return maps


class ResNet50(Backbone):
    """Outputs of the 13 bottlenecks of layer2..layer4, after the residual addition, before the last ReLU.

    The frozen batch normalisations are folded into the convolutions before them.
    """

    def __init__(self, name: str, network: Any, weights: str, mean: Tensor, std: Tensor):
        network.eval().requires_grad_(False)
        network.conv1 = fuse_conv_bn_eval(network.conv1, network.bn1)
        del network.bn1
        for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
            for block in stage:
                for i in (1, 2, 3):
                    conv, norm = getattr(block, f"conv{i}"), getattr(block, f"bn{i}")
                    setattr(block, f"conv{i}", fuse_conv_bn_eval(conv, norm))
                    delattr(block, f"bn{i}")
                if block.downsample is not None:
                    block.downsample = fuse_conv_bn_eval(*block.downsample)
        super().__init__(name, network, weights, mean, std)

    def _maps(self, x: Tensor) -> list[Tensor]:
        network = self.network
        x = network.maxpool(network.conv1(x).relu_())
        maps = []
        for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
            for block in stage:
                y = block.conv3(block.conv2(block.conv1(x).relu_()).relu_())
                y += x if block.downsample is None else block.downsample(x)
                if stage is not network.layer1:
                    maps.append(y)
                x = torch.relu(y)
        return maps


class VGG16(Backbone):
    """Outputs of ``features`` modules 17, 19, 21 (stride 8), 24, 26, 28 (16) and 30 (32)."""

    LAYERS = (17, 19, 21, 24, 26, 28, 30)

    def _maps(self, x: Tensor) -> list[Tensor]:
        maps = []
        for index, module in enumerate(self.network.features):
            # Out of place: torchvision's in-place ReLU would overwrite the convolution output kept before it.
            x = torch.relu(x) if isinstance(module, nn.ReLU) else module(x)
            if index in self.LAYERS:
                maps.append(x)
        return maps


def load_backbone(config: Config) -> Backbone:
    """The backbone that ``config.backbone`` and ``config.backbone_weights`` name.

    Weights: "imagenet" (a pip package, or torchvision's own download with its checksum), "random" (only by
    that name; seeded by ``config.seed``), or the path of a state-dict file. Raises TLGError: code 3 for a
    missing or unfitting file, 7 when a download is impossible.
    """
    name = config.backbone
    network, label = classifier(name, config.backbone_weights, config.seed)
    if name in PIP_PACKAGES:
        return EfficientNetLite(name, network, label, torch.full((3,), 127.0), torch.full((3,), 128.0))
    mean, std = 255 * torch.tensor([0.485, 0.456, 0.406]), 255 * torch.tensor([0.229, 0.224, 0.225])
    return (ResNet50 if name == "resnet50" else VGG16)(name, network, label, mean, std)
