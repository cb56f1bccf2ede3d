"""Your own photographs: segment a named class in query images, given one or more support images of it.

No masks are asked for: CLIP makes pseudo masks of queries and supports from the class name, then a trained TLG
predicts; without a trained network the training-free fusion of mask and prototypes does, and says so.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from .baselines import BOTH, fusions
from .batches import EpisodeBatch
from .config import Config, make_config
from .data.images import image_size, read_image, resize_image, resize_mask, tint, write_mask
from .episodes import Episode
from .errors import TLGError
from .machine.paths import atomic, runs_home, write_json
from .machine.progress import track
from .metrics import vote

OVERLAY = (0, 114, 178)  # RGB
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")


@dataclass
class Prediction:
    """One segmented image. mask: bool [H, W] at the image's own size; probability: float32 0..1 [H, W], mean over
    shots; query_mask: the pseudo mask of CLIP {0, 1} [H, W]."""

    mask: np.ndarray
    probability: np.ndarray
    query_mask: np.ndarray


class FewShotPredictor:
    """Segments one class by its support images, with a checkpoint or without training.

    class_name: words, synonyms separated by commas; it need not be a class of the dataset. checkpoint: file or
    run folder, "" for the latest corrected run of `mini`, "none" for the training-free fusion. clip, clip_weights,
    prompts_file: as for `tlg masks`; clip "" means the checkpoint's. Attributes: ``config``, ``method`` (what
    predicts, in words), ``notes`` (what the user should know). Raises TLGError.
    """

    def __init__(
        self,
        class_name: str,
        checkpoint: str | Path = "",
        clip: str = "",
        clip_weights: str = "",
        prompts_file: str = "",
        device: str = "auto",
        threshold: float | None = None,
    ):
        from .backbones import load_backbone
        from .evaluate import network_predictor
        from .machine.device import pick_device
        from .masks.clips import load_clip
        from .masks.generate import MaskMaker, default_recipe
        from .masks.prompts import load_prompts

        self.notes: list[str] = []
        self.device = pick_device(device)
        self.config, weights, self.method = self._choose(checkpoint)
        clip = clip or self.config.clip
        self.clip = load_clip(
            clip, clip_weights or (self.config.clip_weights if clip == self.config.clip else ""), self.device
        )
        prompts, self.class_id = load_prompts(self.config.dataset, prompts_file).with_class(class_name)
        self._check_words(prompts)
        self.recipe = default_recipe(self.clip, self.config.dataset)
        self.maker = MaskMaker(self.clip, prompts, self.recipe, self.device)
        self.backbone = load_backbone(self.config).to(self.device)
        if weights is None:
            self.predictor = fusions(self.backbone.levels)[BOTH]
        else:
            self.predictor = network_predictor(self._network(weights, prompts))
        self.threshold = self.config.threshold if threshold is None else threshold
        if not 0 < self.threshold < 1:
            raise TLGError(f"threshold={self.threshold}: must be between 0 and 1")

    def _choose(self, checkpoint: str | Path) -> tuple[Config, dict | None, str]:
        """(config, weights or None, method in words)."""
        from .checkpoints import load_checkpoint

        path = Path(checkpoint).expanduser() if checkpoint and checkpoint != "none" else None
        if path is not None and path.is_dir():
            path = path / "checkpoint.safetensors"
        if not checkpoint:
            path = latest_checkpoint()
        if path is not None:
            saved = load_checkpoint(path)
            config = saved.config
            method = f"TLG {config.variant}, {config.supervision} labels, {path}"
            return config, saved.weights, method
        if checkpoint != "none":
            self.notes.append(
                f"no trained network in {runs_home() / 'mini'}: this is the training-free fusion; "
                "train one with `tlg train mini` or name one with --checkpoint"
            )
        config = make_config("pascal-lite", dataset="mini", device="cpu")
        return config, None, f"training-free fusion ({BOTH})"

    def _check_words(self, prompts) -> None:
        name = prompts.classes[self.class_id]
        unknown = self.clip.unknown_words(", ".join(prompts.names[self.class_id]))
        if unknown:
            self.notes.append(
                f"the mini CLIP does not know '{' '.join(unknown)}', so the masks of '{name}' mean "
                "little: use an official CLIP, as --clip ViT-B-16-quickgelu/openai"
            )
        elif self.clip.name == "mini":
            self.notes.append(
                "masks by the mini CLIP, which was trained on generated pictures: for photographs use "
                "an official CLIP, as --clip ViT-B-16-quickgelu/openai"
            )

    def _network(self, weights: dict, prompts):
        """The checkpoint's network, its text vectors replaced by those of ``prompts`` (new class included)."""
        from .checkpoints import load_weights
        from .masks.clips import load_clip
        from .model import build_model
        from .text_prior import text_vectors

        text = None
        if self.config.use_hc:
            same = self.clip.name == self.config.clip
            clip = self.clip if same else load_clip(self.config.clip, self.config.clip_weights)
            text = text_vectors(clip, prompts)
        model = build_model(self.config, self.backbone, text)
        load_weights(model, weights)
        return model.to(self.device).eval()

    def support(self, images: list[np.ndarray]) -> list[tuple[list[torch.Tensor], torch.Tensor, np.ndarray]]:
        """Prepare support images uint8 [H, W, 3]: (maps, mask tensor [1, 1, h, w], pseudo mask [H, W]) each.

        Raises TLGError when CLIP finds the class in none of them.
        """
        if not images:
            raise TLGError("no support image: give at least one with --support")
        prepared = [self._prepare(image) for image in images]
        if not any(mask.any() for _, mask, _ in prepared):
            raise TLGError("CLIP finds the class in none of the support images: give clearer ones, or other words")
        return prepared

    def _prepare(self, image: np.ndarray) -> tuple[list[torch.Tensor], torch.Tensor, np.ndarray]:
        mask = self.maker.one(image, (self.class_id,)).mask(self.class_id)
        size = self.config.image_size
        pixels = torch.from_numpy(resize_image(image, size)).permute(2, 0, 1)[None].to(self.device)  # [1, 3, h, w]
        small = torch.from_numpy(resize_mask(mask, size) == 1).float()[None, None].to(self.device)  # [1, 1, h, w]
        return [m.float() for m in self.backbone(pixels)], small, mask

    def segment(self, query: np.ndarray, support: list) -> Prediction:
        """Segment a query uint8 [H, W, 3] by what ``support`` prepared: each shot at the threshold, then votes."""
        maps, mask, pseudo = self._prepare(query)
        with torch.no_grad():
            shots = self.predictor(self._batch(maps, mask, support)).float()  # [1, K, h, w]
        shots = F.interpolate(shots, query.shape[:2], mode="bilinear", align_corners=False)  # [1, K, H, W]
        voted = vote(shots >= self.threshold)[0]
        return Prediction(voted.cpu().numpy(), shots.mean(1)[0].cpu().numpy(), pseudo)

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
            empty,
            empty.long(),
            torch.tensor([self.class_id], device=self.device),
        )


def latest_checkpoint() -> Path | None:
    """The most recently written checkpoint of a `corrected` run below runs/mini, or None."""
    from .checkpoints import load_checkpoint

    found = sorted((runs_home() / "mini").rglob("checkpoint.safetensors"), key=lambda p: p.stat().st_mtime)
    for path in reversed(found):
        try:
            config = load_checkpoint(path).config
        except TLGError:
            continue  # a damaged file elsewhere must not keep a good one from being used
        if config.variant == "corrected" and config.query_mask == "pseudo":
            return path
    return None


def images_at(path: str | Path) -> list[Path]:
    """The image, or all images directly in a folder, by name. Raises TLGError when there is none."""
    path = Path(path).expanduser()
    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise TLGError(f"no image in {path}: expected files ending in {', '.join(SUFFIXES)}", code=3)
    return found


def predict_files(
    query: str | Path, support: list[str | Path], class_name: str, out: str | Path, progress: bool = True, **options
) -> dict:
    """Segment a photograph or a folder of them; write masks, overlays and summary.json into ``out``.

    query: file or folder; support: files or folders; options: of FewShotPredictor. Masks are 8-bit PNG, 255 =
    the class, at the query's own size. In a folder a broken image is reported in the summary ("error") and the
    others are done; a single query raises TLGError. Returns the summary.
    """
    queries = images_at(query)
    supports = [path for item in support for path in images_at(item)]
    if not supports:
        raise TLGError("no support image: give at least one with --support")
    for path in supports + (queries if len(queries) == 1 else []):
        image_size(path)  # raises, naming a missing or broken file, before the models are loaded
    predictor = FewShotPredictor(class_name, **options)
    prepared = predictor.support([read_image(path) for path in supports])
    out = Path(out).expanduser()
    stems = Counter(path.stem for path in queries)
    results = []
    label = f"segmenting '{class_name}'"
    for path in track(queries, label=label, unit="images", show=progress and len(queries) > 1):
        name = path.stem if stems[path.stem] == 1 else path.name
        try:
            results.append(_predict_file(predictor, prepared, path, out / name))
        except TLGError as error:
            if len(queries) == 1 or error.code == 5:
                raise
            results.append({"query": str(path), "error": str(error)})
    summary = {
        "class": class_name,
        "method": predictor.method,
        "notes": predictor.notes,
        "threshold": predictor.threshold,
        "clip": f"{predictor.clip.name} ({predictor.clip.weights})",
        "backbone": predictor.backbone.name,
        "backbone_weights": predictor.backbone.weights,
        "device": str(predictor.device),
        "support": [
            {"file": str(path), "mask_share": _share(mask == 1)} for path, (_, _, mask) in zip(supports, prepared)
        ],
        "queries": results,
    }
    write_json(out / "summary.json", summary)
    return summary


def _predict_file(predictor: FewShotPredictor, prepared: list, path: Path, stem: Path) -> dict:
    from PIL import Image

    image = read_image(path)
    found = predictor.segment(image, prepared)
    mask_path, overlay_path = (stem.with_name(f"{stem.name}_{kind}.png") for kind in ("mask", "overlay"))
    write_mask(mask_path, found.mask.astype(np.uint8) * 255, palette=False)
    with atomic(overlay_path) as file:
        Image.fromarray(tint(image, found.mask, OVERLAY)).save(file, format="PNG")
    return {
        "query": str(path),
        "mask": str(mask_path),
        "overlay": str(overlay_path),
        "height": image.shape[0],
        "width": image.shape[1],
        "share": _share(found.mask),
        "mask_share": _share(found.query_mask == 1),
        "confidence": round(float(found.probability[found.mask].mean()), 4) if found.mask.any() else 0.0,
    }


def _share(mask: np.ndarray) -> float:
    """Share of the pixels inside, 0..1."""
    return round(float(np.mean(mask)), 4)
