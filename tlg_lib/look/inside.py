"""Look into one episode: where a query position looks, what transport moves, what words and supports change.

Every function takes a Scene and returns arrays; nothing here draws (figures_inside.py) or listens
(widgets.py), so the same numbers stand behind the static figures, the widgets and the tests.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..batches import EpisodeBatch
from ..capture import capture
from ..config import Config
from ..correlation import mask_features, unit
from ..data.images import resize_image, resize_mask
from ..episodes import Episode
from ..errors import TLGError
from ..experiment import Experiment
from ..metrics import vote
from ..text_prior import TextVectors
from ..transport import sinkhorn_plan, token_grid

STRIDES = (8, 16, 32)  # pixels per position of the three levels, fine to coarse
TEXT_KINDS = ("name", "attribute", "background")


@dataclass(frozen=True)
class Scene:
    """One episode ready to be looked at.

    query, supports: uint8 RGB pictures [H, W, 3] at the network's size; truth: {0, 1, 255} [H, W];
    query_mask, support_masks: pseudo masks {0, 1} [H, W]; batch: the same episode as tensors, B = 1.
    """

    experiment: Experiment
    config: Config
    model: torch.nn.Module
    episode: Episode
    batch: EpisodeBatch
    query: np.ndarray
    supports: tuple[np.ndarray, ...]
    query_mask: np.ndarray
    support_masks: tuple[np.ndarray, ...]
    truth: np.ndarray

    @property
    def class_name(self) -> str:
        return self.experiment.data.classes[self.episode.class_id]


def open_scene(experiment: Experiment, config: Config, model, episode: Episode) -> Scene:
    """Load an episode's pictures, masks and features. Raises TLGError naming a file that is missing."""
    batch = experiment.batches(config)([episode])

    def picture(image_id: str) -> np.ndarray:
        return resize_image(experiment.data.image(image_id), config.image_size)

    def mask(values: Tensor) -> np.ndarray:
        return values.cpu().numpy().astype(np.uint8)

    return Scene(
        experiment, config, model, episode, batch, picture(episode.query), tuple(picture(s) for s in episode.support),
        mask(batch.query_mask[0, 0]), tuple(mask(m[0]) for m in batch.support_mask[0]), mask(batch.truth[0]),
    )  # fmt: skip


def iou(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of the foreground in percent; truth {0, 1, 255}, 255 left out; 100 if both empty."""
    valid = truth != 255
    predicted, true = prediction.astype(bool) & valid, (truth == 1) & valid
    union = int((predicted | true).sum())
    return 100.0 * int((predicted & true).sum()) / union if union else 100.0


# --- correlation


def level_grid(scene: Scene, level: int) -> tuple[int, int]:
    """(rows, columns) of positions at level 0 (stride 8), 1 (16) or 2 (32)."""
    first = scene.experiment.backbone.levels[level][0]
    return tuple(scene.batch.query[first].shape[-2:])


def object_cell(mask: np.ndarray, grid: tuple[int, int]) -> tuple[int, int]:
    """(row, column) of the grid's cell that a mask {0, 1, 255} [H, W] covers most; the middle for an empty mask."""
    if not (mask == 1).any():
        return grid[0] // 2, grid[1] // 2
    covered = F.interpolate(torch.from_numpy(mask == 1).float()[None, None], grid, mode="area")[0, 0]
    smooth = F.avg_pool2d(covered[None, None], 3, stride=1, padding=1)[0, 0]  # among full cells, an inner one
    return divmod(int((covered + smooth).argmax()), grid[1])


@torch.inference_mode()
def where_it_looks(scene: Scene, level: int, row: int, column: int, masked: bool = False, shot: int = 0) -> np.ndarray:
    """Similarity of one query position to every support position, mean over the level's layers.

    level 0..2; row, column on that level's grid; masked: support features multiplied by the support's pseudo
    mask first. Returns float32 [h, w] in 0..1: one slice of ``correlation.correlate``.
    """
    rows, columns = level_grid(scene, level)
    if not (0 <= row < rows and 0 <= column < columns):
        raise TLGError(
            f"position ({row}, {column}) lies outside the {rows} x {columns} grid of stride {STRIDES[level]}"
        )
    layers = scene.experiment.backbone.levels[level]
    support = [scene.batch.support[shot][i] for i in layers]
    if masked:
        support = mask_features(support, scene.batch.support_mask[:, shot])
    maps = []
    for index, other in zip(layers, support):
        asked = unit(scene.batch.query[index][:, :, row : row + 1, column : column + 1])  # [1, C, 1, 1]
        maps.append((asked * unit(other)).sum(1).clamp(min=0))  # [1, h, w]
    return torch.cat(maps).mean(0).cpu().numpy()


# --- transport


@dataclass(frozen=True)
class Transport:
    """What one branch's transport attention computes: cost, its softmax attention and the plan, float32 [N, M].

    asking, answering: (rows, columns) of the token grids behind N and M. plan: rows sum to 1/N.
    """

    cost: np.ndarray
    plan: np.ndarray
    asking: tuple[int, int]
    answering: tuple[int, int]

    @property
    def attention(self) -> np.ndarray:
        return 1 - self.cost


def transport_cost(scene: Scene, branch: str = "query") -> Tensor:
    """Cost 1 - A of the branch's tokens to the tokens they ask, [1, N, M]; it does not depend on reg."""
    if not scene.config.use_ht:
        raise TLGError("this network has no heterogeneous transport (use_ht=false): train one with use_ht=true")
    b = scene.batch
    with torch.inference_mode(), capture(scene.model, [f"ot/{branch[0]}_cost"]) as seen:
        scene.model(b.query, b.support[0], b.query_mask, b.support_mask[:, 0], b.class_ids)
    return seen[f"ot/{branch[0]}_cost"]


def transport_at(scene: Scene, cost: Tensor, reg: float) -> Transport:
    """The entropic plan of a cost from ``transport_cost`` at another strength of regularisation, reg > 0."""
    plan = sinkhorn_plan(cost, reg)[0].cpu().numpy()
    grid = tokens_of(scene)
    return Transport(cost[0].cpu().numpy(), plan, grid, grid)


def tokens_of(scene: Scene) -> tuple[int, int]:
    """(rows, columns) of the network's tokens over an image."""
    if "tokens" in scene.config.as_released:
        return scene.config.token_count, 1
    return token_grid(scene.config.token_count, level_grid(scene, 0))


def entropy(plan: np.ndarray) -> float:
    """How spread a plan is: its entropy over that of the uniform plan. 1 is uniform, log N / log NM a matching."""
    p = plan.ravel() / plan.sum()
    p = p[p > 0]
    return float(-(p * np.log(p)).sum() / np.log(plan.size))


# --- words


@dataclass(frozen=True)
class TextEffect:
    """Text maps float32 [H16, W16] of the two branches, and the query's foreground probability [H, W]."""

    query_map: np.ndarray
    support_map: np.ndarray
    probability: np.ndarray


def class_words(prompts, class_id: int) -> dict[str, str]:
    """The words that the dataset's prompts hold for a class: {"name": ..., "attribute": ..., "background": ...}."""
    return {
        "name": ",".join(prompts.names[class_id]),
        "attribute": prompts.attributes[class_id],
        "background": prompts.background[class_id],
    }


@torch.inference_mode()
def text_effect(scene: Scene, clip, prompts, words: dict[str, str]) -> TextEffect:
    """Run the network with other words for the episode's class; the network is left as it was.

    words: name, attribute and background, without the template. Raises TLGError for an empty prompt, one beyond
    the text tower's limit (named), or a network without HC.
    """
    if not scene.config.use_hc:
        raise TLGError("this network has no text part (use_hc=false): train one with use_hc=true")
    for kind in TEXT_KINDS:
        if not words[kind].strip():
            raise TLGError(f"the {kind} prompt is empty: type one or more words")
    vectors = F.normalize(clip.encode_text([prompts.fill(words[k]) for k in TEXT_KINDS]).float(), dim=-1)  # [3, D]
    text, class_id = scene.model.text, scene.episode.class_id
    before = TextVectors(*(getattr(text, kind).clone() for kind in TEXT_KINDS))
    changed = {kind: getattr(before, kind).clone() for kind in TEXT_KINDS}
    for kind, vector in zip(TEXT_KINDS, vectors.to(before.name.device)):
        changed[kind][class_id] = vector
    try:
        text.set_vectors(replace(before, **changed))
        maps = text.maps(scene.batch.class_ids)
        probability = scene.model.predict(scene.batch)[0].mean(0)  # [H, W]
    finally:
        text.set_vectors(before)
    return TextEffect(
        *(maps[b][0, 0].float().cpu().numpy() for b in ("query", "support")), probability.float().cpu().numpy()
    )


# --- supports


@torch.inference_mode()
def shot_votes(scene: Scene, supports: tuple[str, ...], support_class: int = -1) -> tuple[np.ndarray, np.ndarray]:
    """Predict the scene's query from any support images of any class.

    supports: image ids, one or more; support_class: their class, by default the episode's. Returns (foreground
    probability per shot float32 [K, H, W], voted mask bool [H, W]).
    """
    if not supports:
        raise TLGError("no support image is chosen: tick at least one")
    episode = Episode(scene.episode.query, tuple(supports), scene.episode.class_id, support_class)
    batch = scene.experiment.batches(scene.config)([episode])
    probability = scene.model.predict(batch)  # [1, K, H, W]
    voted = vote(probability >= scene.config.threshold)[0]  # [H, W]
    return probability[0].float().cpu().numpy(), voted.bool().cpu().numpy()


def support_picture(scene: Scene, image_id: str) -> tuple[np.ndarray, np.ndarray]:
    """A support image uint8 [H, W, 3] of the scene's class and its pseudo mask {0, 1, 255}, at the network's size."""
    data, size = scene.experiment.data, scene.config.image_size
    return resize_image(data.image(image_id), size), resize_mask(
        data.pseudo_mask(image_id, scene.episode.class_id), size
    )


# --- features


def separation(features: np.ndarray, mask: np.ndarray) -> float:
    """How well features tell object from surroundings: area under the ROC curve of a prototype's cosine.

    features [C, h, w]; mask {0, 1, 255} [H, W]. The score of a position is its cosine to the object's mean minus
    that to the surroundings' mean; 0.5 is chance, 1 perfect. nan when one of the two is absent at this grid.
    """
    channels = torch.as_tensor(features)[None].float()
    target = torch.as_tensor(np.where(mask == 255, 0, mask)).float()[None, None]
    weight = F.interpolate(target, channels.shape[-2:], mode="area")  # [1, 1, h, w]
    vectors = F.normalize(channels, dim=1)
    object_, rest = (F.normalize((vectors * w).sum((2, 3)), dim=1) for w in (weight, 1 - weight))  # [1, C]
    score = torch.einsum("bchw,bc->hw", vectors, object_ - rest).flatten().numpy()
    inside = (weight[0, 0] > 0.5).flatten().numpy()
    positive, negative = score[inside], score[~inside]
    if not len(positive) or not len(negative):
        return float("nan")
    wins = (positive[:, None] > negative).mean() + 0.5 * (positive[:, None] == negative).mean()
    return float(wins)


# --- pseudo masks


class MaskWorkshop:
    """One image's pseudo mask under any recipe; the class maps, which take longest, are kept between calls.

    maker: masks.generate.MaskMaker, whose tower and words serve all recipes; image uint8 [H, W, 3]; classes: ids
    that the image shows; class_id: the one whose mask is wanted.
    """

    def __init__(self, maker, image: np.ndarray, classes: tuple[int, ...], class_id: int):
        self.maker, self.image, self.classes, self.class_id = maker, image, tuple(classes), class_id
        self._coarse: dict[tuple, tuple[np.ndarray, np.ndarray]] = {}

    def stages(self, recipe):
        """``masks.generate.Stages`` by a MaskRecipe. Raises TLGError when the recipe does not fit the tower."""
        maker = self.maker.with_recipe(recipe)
        key = (recipe.affinity, recipe.box_threshold, recipe.scales)
        if key not in self._coarse:
            cams, spreads = maker.coarse([self.image], [self.classes])
            self._coarse[key] = cams[0], spreads[0]
        return maker.finish(self.image, self.image, self.classes, *self._coarse[key])
