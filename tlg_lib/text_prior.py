"""Heterogeneous CLIP text (HC): words of the class shape each branch's map differently (paper, III)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .capture import record
from .errors import TLGError

# A learned map is 1 + SLOWNESS x projection: multiplying every channel, it would otherwise outrun the features
# that it weighs (on mini, 150 steps: 62.1 mIoU at 1.0 against 66.0 without HC).
SLOWNESS = 0.1


@dataclass(frozen=True)
class TextVectors:
    """Unit-length text embeddings per class: float32 [classes, D] each.

    name: the class; attribute: the class with its attributes ("bicycle with wheels"); background: its usual
    surroundings ("road,park").
    """

    KINDS = ("name", "attribute", "background")

    name: Tensor
    attribute: Tensor
    background: Tensor

    @property
    def dim(self) -> int:
        return self.name.shape[1]


def text_vectors(clip, prompts) -> TextVectors:
    """Encode a dataset's prompts with a CLIP text tower.

    Args: clip -- tlg_lib.masks.clips.Clip; prompts -- tlg_lib.masks.prompts.Prompts (.names[c] synonyms,
    .attributes[c], .background[c], .template with one {}).
    Returns TextVectors, row c = class c. One prompt per class and kind: synonyms are joined by commas.
    """

    def encode(phrases):
        sentences = [prompts.template.format(_phrase(p)) for p in phrases]
        return F.normalize(clip.encode_text(sentences).float(), dim=-1)

    return TextVectors(encode(prompts.names), encode(prompts.attributes), encode(prompts.background))


def _phrase(words) -> str:
    return words if isinstance(words, str) else ",".join(words)


def random_text_vectors(classes: int, dim: int, seed: int = 0) -> TextVectors:
    """Random unit vectors in place of embeddings, for tests and for reports that only count parameters."""
    generator = torch.Generator().manual_seed(seed)
    draw = (F.normalize(torch.randn(classes, dim, generator=generator), dim=-1) for _ in range(3))
    return TextVectors(*draw)


class HeterogeneousText(nn.Module):
    """Project text vectors to spatial maps and multiply the branches' maps with them.

    Support: the attribute map. Query: a 1x1 mix of the name map and the background map. The resizes here are the
    release's only ones without align_corners.
    Args: size -- (H16, W16), the grid of the text maps; learned -- False leaves the projection at its random
    start (released), True trains it from maps of exactly 1, so that multiplying begins as doing nothing.
    """

    name: Tensor
    attribute: Tensor
    background: Tensor

    def __init__(self, vectors: TextVectors, size: tuple[int, int], learned: bool):
        super().__init__()
        self.size, self.learned = size, learned
        self.project = nn.Linear(vectors.dim, size[0] * size[1])
        self.mix = nn.Conv2d(2, 1, 1)
        self.reset_parameters()
        self.set_vectors(vectors)

    def reset_parameters(self) -> None:
        """Learned: maps of exactly 1, and an even mix of name and background. Frozen: the layers' random start."""
        if self.learned:
            for parameter, start in zip((*self.project.parameters(), *self.mix.parameters()), (0.0, 0.0, 0.5, 0.0)):
                nn.init.constant_(parameter, start)

    def set_vectors(self, vectors: TextVectors) -> None:
        """Use other text from now on: another vocabulary, or a prompt that was just typed."""
        if vectors.dim != self.project.in_features:
            raise TLGError(f"text vectors have {vectors.dim} numbers, this model expects {self.project.in_features}")
        device = self.project.weight.device
        for kind in TextVectors.KINDS:
            self.register_buffer(kind, getattr(vectors, kind).detach().float().to(device), persistent=False)

    def maps(self, class_ids: Tensor) -> dict[str, Tensor]:
        """Text map per branch, [B, 1, H16, W16] each."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.learned):
            name, attribute, background = (
                self._project(vectors[class_ids]) for vectors in (self.name, self.attribute, self.background)
            )  # [B, H16*W16]
            for label, x in (("fg", name), ("refine", attribute), ("bg", background)):
                record(f"hc/text_{label}", x.unsqueeze(1))
            pair = torch.stack((name, background), dim=1).unflatten(2, self.size)  # [B, 2, H16, W16]
            merged = self.mix(pair)
            record("hc/text_merge", merged)
            return {"query": merged, "support": attribute.unflatten(1, self.size).unsqueeze(1)}

    def _project(self, vectors: Tensor) -> Tensor:
        """Text vectors [B, D] to maps [B, H16*W16]; learned: 1 + SLOWNESS x projection, so 1 at the start."""
        projected = self.project(vectors)
        return 1 + SLOWNESS * projected if self.learned else projected

    def forward(self, x: Tensor, text_map: Tensor, branch: str) -> Tensor:
        """[B, C, H8, W8] times the map -> [B, C, H8, W8].

        Released: on the map's coarser grid and back, which blurs what HA kept fine. Learned: the map is resized.
        """
        if self.learned:
            out = x * F.interpolate(text_map, size=x.shape[-2:], mode="bilinear", align_corners=False)
        else:
            small = F.interpolate(x, size=self.size, mode="bilinear", align_corners=False)  # [B, C, H16, W16]
            out = F.interpolate(small * text_map, size=x.shape[-2:], mode="bilinear", align_corners=False)
        record(f"hc/{branch[0]}_multimodal", out)
        return out
