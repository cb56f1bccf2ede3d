"""CLIP models behind one small interface: the embedded mini CLIP, or any open_clip model by official name.

All are built by open_clip's own factory. The mini CLIP (docs/design.md, 6, assets/mini_clip/MODEL_CARD.md)
takes its early image stages from a pip package and the rest from a checksummed file of this repository; it
knows some two hundred words, and ``Clip.unknown_words`` says which words of a prompt it does not know.
"""

from __future__ import annotations

import json
import logging
import re
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import TLGError
from ..machine.downloads import sha256_of
from ..machine.paths import PACKAGE, user_path
from ..machine.weights import classifier

MINI = PACKAGE / "assets" / "mini_clip"
MINI_MODEL = "tlg-mini-clip"  # the stem of its open_clip config, under which the factory knows it


class WordTokenizer:
    """Whole-word tokens for the mini CLIP's text tower; CLIP's 49,408 word pieces would outweigh all else.

    Ids: 0 padding, 1 unknown word, 2 start, 3.. the words in order, and last the end mark: the highest id,
    where open_clip's text tower reads the sentence. Punctuation is dropped. An unknown word becomes token 1,
    which training met in place of random words, so it says nothing in particular.
    """

    def __init__(self, words: list[str], context_length: int):
        self.words, self.context_length = list(words), context_length
        self.ids = {word: 3 + i for i, word in enumerate(self.words)}
        self.end = 3 + len(self.words)
        self.vocab_size = self.end + 1

    def encode(self, text: str) -> list[int]:
        """Ids of the words, without start and end mark."""
        return [self.ids.get(word, 1) for word in self.split(text)]

    @staticmethod
    def split(text: str) -> list[str]:
        return re.findall(r"[a-z0-9]+", text.lower())

    def __call__(self, texts: str | list[str]) -> Tensor:
        """int64 [N, context_length]; longer texts are cut, as open_clip's tokenizers do."""
        texts = [texts] if isinstance(texts, str) else texts
        rows = torch.zeros(len(texts), self.context_length, dtype=torch.long)
        for row, text in zip(rows, texts):
            ids = [2, *self.encode(text)[: self.context_length - 2], self.end]
            row[: len(ids)] = torch.tensor(ids)
        return rows


@dataclass(frozen=True)
class Clip:
    """A frozen CLIP in evaluation mode.

    name: as given to load_clip; kind: "vit" or "cnn" (image tower); model: the open_clip module; dim: length
    of an embedding; weights: where they come from, with a checksum where known; weights_file: the file that
    the user named, else ""; mean, std: float [3] on the scale 0..255.
    """

    name: str
    kind: str
    model: nn.Module
    tokenizer: object
    dim: int
    weights: str
    weights_file: str
    mean: Tensor
    std: Tensor

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 RGB (or float on that 0..255 scale) [B, 3, H, W] to the tower's float input, same size."""
        if images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(f"expected images [B, 3, H, W], got {tuple(images.shape)}")
        mean, std = (v.to(self.device).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return (images.to(self.device).float() - mean) / std

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> Tensor:
        """Unit rows, float32 [N, dim]. TLGError naming the first prompt beyond the text tower's limit."""
        limit = self.tokenizer.context_length
        for text in texts:
            needed = len(self.tokenizer.encode(text)) + 2 if hasattr(self.tokenizer, "encode") else 0
            if needed > limit:
                raise TLGError(
                    f"the prompt '{_short(text)}' takes {needed} tokens, {self.name} reads {limit}: shorten it"
                )
        if not texts:
            return torch.zeros(0, self.dim, device=self.device)
        return F.normalize(self.model.encode_text(self.tokenizer(texts).to(self.device)).float(), dim=-1)

    def unknown_words(self, text: str) -> list[str]:
        """Words that the mini CLIP never saw (it reads them all alike); [] for official models."""
        if not isinstance(self.tokenizer, WordTokenizer):
            return []
        return [word for word in self.tokenizer.split(text) if word not in self.tokenizer.ids]

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        """Unit rows, float32 [B, dim], of uint8 images [B, 3, H, W] of the size the tower wants."""
        return F.normalize(self.model.encode_image(self.normalize(images)).float(), dim=-1)

    def visual_features(self, pixels: Tensor) -> Tensor:
        """Convolutional towers: the last stage's map [B, C, h, w] of normalised pixels [B, 3, H, W]."""
        visual = self.model.visual
        if hasattr(visual, "trunk"):
            return visual.trunk.forward_features(pixels)
        if hasattr(visual, "attnpool"):
            x = visual.stem(pixels)
            for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
                x = stage(x)
            return x
        raise TLGError(f"{self.name}: a transformer has no last-stage map; its masks come from its tokens")

    def pool_and_project(self, features: Tensor) -> Tensor:
        """Convolutional towers: unit rows [B, dim] of last-stage maps [B, C, h, w]; differentiable."""
        visual = self.model.visual
        if hasattr(visual, "trunk"):
            embed = visual.head(visual.trunk.forward_head(features))
        else:
            embed = _attention_pool(visual.attnpool, features)
        return F.normalize(embed.float(), dim=-1)


def load_clip(name: str = "mini", weights: str | Path = "", device: str | torch.device = "cpu") -> Clip:
    """Load a CLIP model, frozen.

    name: "mini", or an open_clip name with or without its weights tag, as "ViT-B-16-quickgelu/openai".
    weights: a file in place of the download (open_clip's or OpenAI's format); for "mini", a file in place of
    the shipped one. Without a file an official model is downloaded, once, by open_clip itself.
    Raises TLGError: 2 unknown name, 3 missing or broken file, 7 no network.
    """
    model, tokenizer, origin, mean, std = _mini(weights) if name == "mini" else _official(name, weights)
    model = model.to(device).eval().requires_grad_(False)
    kind = "cnn" if hasattr(model.visual, "attnpool") or _is_timm_cnn(model.visual) else "vit"
    with torch.no_grad():
        dim = model.encode_text(tokenizer(["a"]).to(device)).shape[1]
    return Clip(name, kind, model, tokenizer, dim, origin, str(weights), torch.tensor(mean), torch.tensor(std))


# --- the mini CLIP


def mini_tokenizer() -> WordTokenizer:
    """The tokenizer that fits the shipped weights."""
    words = json.loads((MINI / "vocabulary.json").read_text(encoding="utf-8"))
    return WordTokenizer(words, _mini_config()["text_cfg"]["context_length"])


def build_mini() -> nn.Module:
    """The mini CLIP from open_clip's factory: the pip package's ImageNet image tower, an untrained rest."""
    import open_clip

    _register_mini()
    with _quiet():
        model = open_clip.create_model(MINI_MODEL, pretrained=None)
    imagenet = classifier("efficientnet_lite0", "imagenet")[0].state_dict()
    trunk = model.visual.trunk
    trunk.load_state_dict({key: imagenet[key] for key in trunk.state_dict()}, strict=True)
    return model


def _mini(weights: str | Path) -> tuple[nn.Module, WordTokenizer, str, list[float], list[float]]:
    from safetensors.torch import load_file

    path = Path(weights) if weights else MINI / "weights.safetensors"
    if not path.is_file():
        raise TLGError(
            f"no weights of the mini CLIP at {path}: restore the file, or train it with "
            "data_scripts/train_mini_clip.py",
            code=3,
        )
    digest = sha256_of(path)
    if not weights:
        expected = (MINI / "weights.sha256").read_text(encoding="utf-8").split()[0]
        if digest != expected:
            raise TLGError(f"{path}: SHA-256 {digest[:12]}..., expected {expected[:12]}...: restore the file", code=3)
    model = build_mini()
    try:
        trained = {key: value.float() for key, value in load_file(path).items()}
        outcome = model.load_state_dict(trained, strict=False)
    except Exception as error:  # safetensors and torch raise several kinds for a file that does not fit
        raise TLGError(f"{path} does not fit the mini CLIP: {str(error).splitlines()[0]}", code=3) from None
    # All that is missing must be what the pip package gave: the early stages of the image tower.
    absent = [key for key in outcome.missing_keys if not key.startswith("visual.trunk.")]
    if absent or outcome.unexpected_keys:
        raise TLGError(
            f"{path} does not fit the mini CLIP: missing {absent[:2]}, unknown {outcome.unexpected_keys[:2]}", code=3
        )
    return model, mini_tokenizer(), f"sha256:{digest[:12]}", [127.0] * 3, [128.0] * 3


def _mini_config() -> dict:
    return json.loads((MINI / f"{MINI_MODEL}.json").read_text(encoding="utf-8"))


def _register_mini() -> None:
    """Tell open_clip's factory of our config; it keeps a list, so once per folder."""
    _register(MINI / f"{MINI_MODEL}.json")


@cache
def _register(path: Path) -> None:
    import open_clip

    open_clip.add_model_config(path)


# --- official models


def _official(name: str, weights: str | Path):
    import open_clip

    model_name, _, tag = name.partition("/")
    known = open_clip.list_models()
    if model_name not in known:
        import difflib

        close = difflib.get_close_matches(model_name, [m for m in known if m != MINI_MODEL] + ["mini"], n=3, cutoff=0.4)
        raise TLGError(
            f"unknown CLIP model '{name}': {'did you mean ' + ', '.join(close) + '?' if close else ''} "
            "Names are 'mini' or open_clip's, as ViT-B-16-quickgelu/openai"
        )
    tags = open_clip.list_pretrained_tags_by_model(model_name)
    if tag and tag not in tags:
        raise TLGError(f"CLIP model '{model_name}' has no weights '{tag}': choose one of {', '.join(tags)}")
    if not tag and not weights:
        raise TLGError(
            f"'{name}' names no weights: write {model_name}/TAG with one of {', '.join(tags)}, or name a "
            "file with --set clip_weights=FILE"
        )
    # OpenAI's weights were trained with the QuickGELU activation, whichever config name loads them.
    options = {"force_quick_gelu": True} if tag == "openai" else {}
    if weights:
        model, origin = _from_file(open_clip, model_name, user_path(weights), options)
    else:
        silent = logging.root.manager.disable
        logging.disable(logging.ERROR)  # what the transports log of a failure stands in the one line below
        try:
            model = open_clip.create_model(model_name, pretrained=tag, **options)
        except Exception as error:  # each transport of open_clip has its own kinds of network errors
            if isinstance(error, (TypeError, AttributeError)):
                raise
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise TLGError(
                f"cannot get the weights of {name} ({_short(reason)}): connect to the network, or name a "
                "file with --set clip_weights=FILE",
                code=7,
            ) from None
        finally:
            logging.disable(silent)
        origin = tag
    mean = getattr(model.visual, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN
    std = getattr(model.visual, "image_std", None) or open_clip.OPENAI_DATASET_STD
    tokenizer = open_clip.get_tokenizer(model_name)
    return model, tokenizer, origin, [255 * v for v in mean], [255 * v for v in std]


def _from_file(open_clip, model_name: str, path: Path, options: dict) -> tuple[nn.Module, str]:
    if not path.is_file():
        raise TLGError(f"clip_weights={path}: no such file", code=3)
    scripted = _is_torchscript(path)
    if scripted:  # OpenAI's own files, whatever tag was typed: a scripted model, whose tensors alone are taken
        options = {**options, "force_quick_gelu": True}
    with _quiet():
        model = open_clip.create_model(model_name, pretrained=None, **options)
    try:
        if scripted:
            state = torch.jit.load(str(path), map_location="cpu").state_dict()
            for key in ("input_resolution", "context_length", "vocab_size"):
                state.pop(key, None)
            model.load_state_dict({key: value.float() for key, value in state.items()}, strict=True)
        else:
            open_clip.load_checkpoint(model, str(path))
    except Exception as error:  # every loader has its own kinds for a broken or unfitting file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TLGError(f"clip_weights={path} does not fit {model_name}: {_short(reason)}", code=3) from None
    return model, f"sha256:{sha256_of(path)[:12]}"


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("constants.pkl") for name in archive.namelist())


def _is_timm_cnn(visual: nn.Module) -> bool:
    return hasattr(visual, "trunk") and not hasattr(visual.trunk, "patch_embed")


def _attention_pool(pool: nn.Module, features: Tensor) -> Tensor:
    """open_clip's AttentionPool2d at any grid: its position embedding is resized, as CLIP-ES does for ViT."""
    grid = round((pool.positional_embedding.shape[0] - 1) ** 0.5)
    first, rest = pool.positional_embedding[:1], pool.positional_embedding[1:]
    rest = rest.T.unflatten(1, (grid, grid))[None].float()  # [1, C, g, g]
    rest = F.interpolate(rest, features.shape[-2:], mode="bilinear", align_corners=False)[0].flatten(1).T
    tokens = features.flatten(2).transpose(1, 2)  # [B, h*w, C]
    tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1) + torch.cat([first, rest.to(first.dtype)])
    heads = (pool.num_heads, -1)
    query = pool.q_proj(tokens[:, :1]).unflatten(2, heads).transpose(1, 2)  # [B, heads, 1, C / heads]
    key, value = (p(tokens).unflatten(2, heads).transpose(1, 2) for p in (pool.k_proj, pool.v_proj))
    pooled = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)  # [B, 1, C]
    return pool.c_proj(pooled)[:, 0]


@contextmanager
def _quiet():
    """Hide open_clip's warning of random weights where the weights come right after."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _short(text: str, limit: int = 90) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
