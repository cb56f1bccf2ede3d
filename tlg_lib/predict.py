"""Your own photographs in memory: segment an object in query images, given one or more support images of it.

What the object is may be said in two ways. By a class name: CLIP makes pseudo masks of supports and queries. Or by
masks of the supports that you draw: then neither a name nor CLIP is needed. A trained TLG predicts; without one the
training-free fusion of mask and prototypes does, and says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .baselines import BOTH, fusions, prototype
from .batches import EpisodeBatch
from .config import Config, make_config
from .data.images import resize_image, resize_mask
from .episodes import Episode
from .errors import TLGError
from .machine.paths import PACKAGE, runs_home, user_path
from .metrics import vote

if TYPE_CHECKING:
    from .masks.clips import Clip

PHOTO = PACKAGE / "assets" / "photo" / "weights.safetensors"  # the network for photographs with drawn supports


@dataclass
class Prediction:
    """One segmented image. mask: bool [H, W] at the image's own size; probability: float32 0..1 [H, W], mean over
    shots; query_mask: CLIP's pseudo mask {0, 1} [H, W], zeros where none was made."""

    mask: np.ndarray
    probability: np.ndarray
    query_mask: np.ndarray


class FewShotPredictor:
    """Segments one class by its support images, with a checkpoint or without training.

    class_name: words, synonyms separated by commas; it need not be a class of the dataset; "" when the masks of all
    support images are drawn. checkpoint: file or run folder; "photo" for the network for photographs that comes with
    the library; "none" for the training-free fusion; "" for the latest extended run of `mini`, or without a class
    name for "photo". clip, clip_weights, prompts_file: as for `tlg masks`; clip "" means the
    checkpoint's. Attributes: ``config``, ``method`` (what predicts, in words), ``notes`` (what the user should know).
    Raises TLGError.
    """

    def __init__(
        self,
        class_name: str = "",
        checkpoint: str | Path = "",
        clip: str = "",
        clip_weights: str = "",
        prompts_file: str = "",
        device: str = "auto",
        threshold: float | None = None,
    ):
        from .backbones import load_backbone
        from .machine.device import pick_device

        self.notes: list[str] = []
        self.device = pick_device(device)
        self.named = bool(class_name.strip())
        self.config, weights, self.method = self._choose(checkpoint)
        self.threshold = self.config.threshold if threshold is None else threshold
        if not 0 < self.threshold < 1:
            raise TLGError(f"threshold={self.threshold}: must be between 0 and 1")
        self.clip: Clip | None = None
        self.class_id = 0
        self.reads_words = self.named and (weights is None or self.config.use_hc or self.config.query_mask == "pseudo")
        self._words = (class_name, clip, clip_weights, prompts_file)
        if self.reads_words:
            self._load_words(*self._words)
        self.backbone = load_backbone(self.config).to(self.device)
        if weights is not None:
            self.predictor = self._network(weights).predict
        else:
            levels = self.backbone.levels
            self.predictor = fusions(levels)[BOTH] if self.named else prototype(levels)

    def _choose(self, checkpoint: str | Path) -> tuple[Config, dict | None, str]:
        """(config, weights or None, method in words)."""
        from .checkpoints import load_checkpoint

        path = user_path(checkpoint) if checkpoint and checkpoint not in ("none", "photo") else None
        if path is not None and path.is_dir():
            path = path / "checkpoint.safetensors"
        if checkpoint == "photo" or not (checkpoint or self.named):
            path = PHOTO
        elif not checkpoint and self.named:
            path = latest_checkpoint()
        if path is not None:
            saved = load_checkpoint(path)
            config = saved.config
            if not self.named and (config.use_hc or config.query_mask != "none"):
                raise TLGError(
                    f"{path} reads the class name (use_hc) or the query's mask (query_mask): give --class, or a "
                    "network trained with use_hc=false and query_mask=none, or --checkpoint none"
                )
            return config, saved.weights, f"TLG {config.variant}, {config.supervision} labels, {path}"
        if checkpoint != "none" and self.named:
            self.notes.append(
                f"no trained network in {runs_home() / 'mini'}: this is the training-free fusion; "
                "train one with `tlg train mini` or name one with --checkpoint"
            )
        config = make_config("pascal-lite", dataset="mini", device="cpu")
        return config, None, f"training-free fusion ({BOTH})" if self.named else "training-free prototype"

    def _load_words(self, class_name: str, clip: str, clip_weights: str, prompts_file: str) -> None:
        """CLIP, the prompts and the maker of pseudo masks; not loaded where every mask is drawn."""
        from .masks.clips import load_clip
        from .masks.generate import MaskMaker, default_recipe
        from .masks.prompts import load_prompts

        clip = clip or self.config.clip
        weights = clip_weights or (self.config.clip_weights if clip == self.config.clip else "")
        try:
            loaded = self.clip = load_clip(clip, weights, self.device)
        except TLGError as error:  # the remedy by the name that it has here
            raise TLGError(str(error).replace("--set clip_weights=FILE", "--clip-weights FILE"), error.code) from None
        self.prompts, self.class_id = load_prompts(self.config.dataset, prompts_file).with_class(class_name)
        self._check_words(loaded)
        self.maker = MaskMaker(loaded, self.prompts, default_recipe(loaded, self.config.dataset), self.device)

    def _check_words(self, clip: Clip) -> None:
        name = self.prompts.classes[self.class_id]
        unknown = clip.unknown_words(", ".join(self.prompts.names[self.class_id]))
        if unknown:
            self.notes.append(
                f"the mini CLIP does not know '{' '.join(unknown)}', so the masks of '{name}' mean "
                "little: draw the supports' with --support-mask, or use an official CLIP, as "
                "--clip ViT-B-16-quickgelu/openai"
            )
        elif clip.name == "mini":
            self.notes.append(
                "masks by the mini CLIP, which was trained on generated pictures: for photographs draw the supports' "
                "with --support-mask, or use an official CLIP, as --clip ViT-B-16-quickgelu/openai"
            )

    def _network(self, weights: dict):
        """The checkpoint's network, its text vectors replaced by those of the prompts (new class included)."""
        from .checkpoints import load_weights
        from .masks.clips import load_clip
        from .model import build_model
        from .text_prior import text_vectors

        text = None
        if self.config.use_hc:
            same = self.clip is not None and self.clip.name == self.config.clip
            clip = self.clip if same else load_clip(self.config.clip, self.config.clip_weights)
            text = text_vectors(clip, self.prompts)
        model = build_model(self.config, self.backbone, text)
        load_weights(model, weights)
        return model.to(self.device).eval()

    def support(
        self, images: list, masks: list | None = None
    ) -> list[tuple[list[torch.Tensor], torch.Tensor, np.ndarray]]:
        """Prepare support images: (maps, mask tensor [1, 1, h, w], mask {0, 1} [H, W]) each.

        images: uint8 [H, W, 3], or what ``as_photograph`` takes; masks: one each, drawn (masks/drawn.py: arrays, PNG
        files, boxes, points) or None for CLIP's. Raises TLGError for a mask that does not fit its image, and when
        CLIP finds the class in none of them.
        """
        if not images:
            raise TLGError("no support image: give at least one with --support")
        if masks is not None and len(masks) != len(images):
            raise TLGError(f"{len(images)} support images and {len(masks)} masks: give one mask for each image")
        prepared = []
        for number, image in enumerate(images):
            image = as_photograph(image)
            prepared.append(self._prepare(image, self._support_mask(image, masks[number] if masks else None, number)))
        if not any(mask.any() for _, _, mask in prepared):
            raise TLGError("CLIP finds the class in none of the support images: give clearer ones, or other words")
        return prepared

    def _support_mask(self, image: np.ndarray, given, number: int) -> np.ndarray:
        from .masks.drawn import drawn_mask

        if given is not None:
            return drawn_mask(image, given, f"the mask of support image {number + 1}")
        if not self.named:
            raise TLGError("say what to look for: a class name (--class) or a mask of each support (--support-mask)")
        if self.clip is None:
            self._load_words(*self._words)
        return self.maker.one(image, (self.class_id,)).mask(self.class_id)

    def _prepare(self, image: np.ndarray, mask: np.ndarray) -> tuple[list[torch.Tensor], torch.Tensor, np.ndarray]:
        size = self.config.image_size
        pixels = torch.from_numpy(resize_image(image, size)).permute(2, 0, 1)[None].to(self.device)  # [1, 3, h, w]
        small = torch.from_numpy(resize_mask(mask, size) == 1).float()[None, None].to(self.device)  # [1, 1, h, w]
        return [m.float() for m in self.backbone(pixels)], small, mask

    def segment(self, query, support: list) -> Prediction:
        """Segment a query (uint8 [H, W, 3], or what ``as_photograph`` takes) by what ``support`` prepared: each shot
        at the threshold, then votes."""
        query = as_photograph(query)
        pseudo = np.zeros(query.shape[:2], np.uint8)
        if self.reads_words:
            pseudo = self.maker.one(query, (self.class_id,)).mask(self.class_id)
        maps, mask, _ = self._prepare(query, pseudo)
        with torch.no_grad():
            shots = self.predictor(self._batch(maps, mask, support)).float()  # [1, K, h, w]
        above, total = [], torch.zeros((1, 1, *query.shape[:2]), device=self.device)
        for k in range(shots.shape[1]):  # one at a time: K maps of a large photograph are gigabytes
            full = F.interpolate(shots[:, k : k + 1], query.shape[:2], mode="bilinear", align_corners=False)
            above.append(full >= self.threshold)
            total += full
        mean = (total / len(above))[0, 0]  # [H, W]
        return Prediction(vote(torch.cat(above, 1))[0].cpu().numpy(), mean.cpu().numpy(), pseudo)

    def _batch(self, maps, mask, support) -> EpisodeBatch:
        """A batch of one episode; there is no truth, so targets are zero."""
        masks = torch.stack([m for _, m, _ in support], 1)  # [1, K, 1, h, w]
        empty = torch.zeros_like(mask[:, 0])
        episode = Episode("query", tuple(f"support{k}" for k in range(len(support))), self.class_id)
        return EpisodeBatch(
            [episode],
            maps,
            [m for m, _, _ in support],
            mask,
            masks,
            empty.long(),
            masks[:, :, 0].long(),
            empty.long(),
            torch.tensor([self.class_id], device=self.device),
        )


def as_photograph(image) -> np.ndarray:
    """A photograph in memory as uint8 RGB [H, W, 3]: as it is, or from a PIL image, grey [H, W], RGBA or floats 0..1.

    Transparency is laid over white. Raises TLGError naming what else it is, as a tensor [3, H, W].
    """
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("RGBA" if "A" in image.getbands() or "transparency" in image.info else "RGB"))
    if not isinstance(image, np.ndarray):
        raise TLGError(f"an image of type {type(image).__name__}: give an array [H, W, 3] of 0..255, or a PIL image")
    if image.dtype.kind == "f" and image.size and np.isfinite(image).all() and 0 <= image.min() <= image.max() <= 1:
        image = (255 * image).round().astype(np.uint8)
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, 2)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4) or 0 in image.shape:
        raise TLGError(
            f"an image of shape {image.shape}, type {image.dtype}: give [H, W, 3] of whole numbers 0..255 (uint8), or "
            "of floats 0..1"
        )
    if image.shape[2] == 4:
        share = image[..., 3:].astype(np.float32) / 255
        image = (share * image[..., :3] + (1 - share) * 255).round().astype(np.uint8)
    return np.ascontiguousarray(image)


def latest_checkpoint() -> Path | None:
    """The most recently written checkpoint of an `extended` run below runs/mini, or None."""
    from .checkpoints import load_checkpoint

    found = sorted((runs_home() / "mini").rglob("checkpoint.safetensors"), key=lambda p: p.stat().st_mtime)
    for path in reversed(found):
        try:
            config = load_checkpoint(path).config
        except TLGError:
            continue  # a damaged file elsewhere must not keep a good one from being used
        if config.variant == "extended" and config.query_mask == "pseudo":
            return path
    return None
