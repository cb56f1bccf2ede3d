"""Train the mini CLIP of tlg_lib/assets/mini_clip and print how good it is.

Pictures come from the generator of the mini benchmark, with other seeds than the benchmark's and with the glyphs of
its training pictures alone; captions name what a picture holds as a whole (classes, scene, other things), never
where. The early stages of the image
tower stay as the ImageNet weights of the pip package have them, so their output is computed once; the last
stage, the projections and the text tower learn by contrast of pictures and captions (Radford et al., ICML
2021), where every caption that is true of a picture counts as a match (as in Khosla et al., NeurIPS 2020).

    python data_scripts/train_mini_clip.py [--out FOLDER] [--steps 400] [--evaluate-only]
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import platform
import random
import sys
import time
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F

from tlg_lib.data.folder import SegmentationFolder
from tlg_lib.data.mini.make import contents, ensure_mini, make_mini
from tlg_lib.machine.paths import atomic, cache_home, write_json
from tlg_lib.machine.progress import track
from tlg_lib.masks import clips
from tlg_lib.masks.prompts import load_prompts
from tlg_lib.metrics import intersection_union, scores

SEEDS = (101, 102)  # of the training pictures; the benchmark's own seed is 0
SIDE = 256  # pixels: pictures of 128 are enlarged, as the ImageNet weights saw objects of that size
CONTEXT, DIM, WIDTH, LAYERS = 24, 128, 96, 2
TRAINED_STAGES = (6,)  # of visual.trunk.blocks; the stages before keep the ImageNet weights
EARLY = (192, SIDE // 32, SIDE // 32)  # the map that enters them

# Words for the parts of a scene; a caption with such a word is true of every picture of the scene.
SCENE_WORDS = {
    "sky": "sky cloud",
    "water": "water sea lake river wave bridge harbour sky cloud",
    "grass": "grass meadow park garden bush fence tree hill land ground sky",
    "field": "field farm land ground hill fence sky",
    "road": "road street runway garage sky",
    "city": "building house city street pavement window stop terrace sky",
    "sand": "sand desert land ground rock sky",
    "beach": "beach sand sea water wave sky",
    "snow": "snow mountain hill rock tree sky",
    "forest": "forest tree wood bush ground land",
    "tracks": "railway track gravel platform tree sky",
    "room": "room wall floor window carpet ceiling curtain pillow lamp desk",
    "kitchen": "kitchen wall cupboard shelf counter worktop ceiling",
}
TEMPLATES = ("a clean origami {}.", "a photo of a {}.", "a picture of {}.", "{}", "one {}", "the {} in the picture")


class Captions:
    """Draws captions; each carries the set of concepts that it names, a subset of what the picture holds."""

    def __init__(self):
        self.prompts = load_prompts("pascal")

    def concepts(self, picture: dict) -> set[str]:
        return {*(f"class {c}" for c in picture["classes"]), *SCENE_WORDS[picture["scene"]].split(), *picture["others"]}

    def _class_phrase(self, c: int, rng: random.Random) -> str:
        names = self.prompts.names[c]
        choice = rng.random()
        if choice < 0.3:
            return ", ".join(names)
        if choice < 0.5:
            return self.prompts.attributes[c]
        return rng.choice([self.prompts.classes[c], *names])

    def draw(self, picture: dict, rng: random.Random) -> list[tuple[str, frozenset[str]]]:
        """Captions of a picture: each class, the scene, another thing, and two of them together."""
        words = SCENE_WORDS[picture["scene"]].split()
        parts = [(self._class_phrase(c, rng), f"class {c}") for c in picture["classes"]]
        scene = rng.sample(words, min(len(words), rng.choice([1, 1, 2])))
        drawn = [(phrase, {concept}) for phrase, concept in parts] + [(",".join(scene), set(scene))]
        if picture["others"]:
            other = rng.choice(picture["others"])
            drawn.append((other, {other}))
        if parts:
            (phrase, concept), word = rng.choice(parts), rng.choice(words)
            drawn.append((f"{phrase} with {word}", {concept, word}))
        if len(parts) > 1:
            drawn.append((f"{parts[0][0]} and {parts[1][0]}", {parts[0][1], parts[1][1]}))
        return [(rng.choice(TEMPLATES).format(text), frozenset(concepts)) for text, concepts in drawn]

    def vocabulary(self) -> list[str]:
        """Every word that a caption can hold."""
        texts = [
            *TEMPLATES,
            "with and",
            *SCENE_WORDS.values(),
            *self.prompts.classes,
            *self.prompts.attributes,
            *self.prompts.background,
            *(" ".join(names) for names in self.prompts.names),
        ]
        from tlg_lib.data.mini.glyphs import DISTRACTORS, distractor_word

        texts += [distractor_word(glyph) for glyph in DISTRACTORS]
        return sorted({word for text in texts for word in clips.WordTokenizer.split(text)})


def write_config(out: Path, vocabulary: list[str]) -> None:
    size = clips.WordTokenizer(vocabulary, CONTEXT).vocab_size
    write_json(
        out / f"{clips.MINI_MODEL}.json",
        {
            "embed_dim": DIM,
            "vision_cfg": {
                "timm_model_name": "tf_efficientnet_lite0",
                "timm_model_pretrained": False,
                "timm_pool": "avg",
                "timm_proj": "linear",
                "image_size": SIDE,
            },
            "text_cfg": {"context_length": CONTEXT, "vocab_size": size, "width": WIDTH, "heads": 4, "layers": LAYERS},
        },
    )
    write_json(out / "vocabulary.json", vocabulary)


# --- features of the frozen stages, computed once


def early(trunk, pixels):
    """Normalised pixels [B, 3, 256, 256] -> map before the first trained stage [B, 192, 8, 8]."""
    x = trunk.bn1(trunk.conv_stem(pixels))
    for stage in trunk.blocks[: TRAINED_STAGES[0]]:
        x = stage(x)
    return x


def late(model, features):
    """The rest of the image tower: [B, 192, h, w] -> unit rows [B, DIM]."""
    trunk = model.visual.trunk
    for number in TRAINED_STAGES:
        features = trunk.blocks[number](features)
    features = trunk.bn2(trunk.conv_head(features))
    return F.normalize(model.visual.head(trunk.forward_head(features)), dim=-1)


@torch.no_grad()
def cached_features(model, roots: list[Path], pictures: list[list[dict]], file: Path) -> torch.Tensor:
    """float16 [N, 192, 8, 8]; every second picture is mirrored: a cache allows no further variety."""
    from safetensors.torch import load_file, save_file

    names = [f"{root.name}/{picture['image']}" for root, chosen in zip(roots, pictures) for picture in chosen]
    sources = names + [(root / "manifest.json").read_text(encoding="utf-8") for root in roots]
    digest = hashlib.sha256("\n".join(sources).encode()).hexdigest()
    if file.is_file():
        kept = load_file(file)
        if digest in kept:
            return kept[digest]
    out = torch.empty(len(names), *EARLY, dtype=torch.float16)
    done = 0
    for root, chosen in zip(roots, pictures):
        folder = SegmentationFolder(root)
        for start in track(range(0, len(chosen), 16), label=f"features of {root.name}", unit="batches"):
            batch = torch.stack([to_tensor(folder.image(p["image"])) for p in chosen[start : start + 16]])
            batch[1::2] = batch[1::2].flip(-1)
            out[done : done + len(batch)] = early(model.visual.trunk, normalised(batch)).half()
            done += len(batch)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({digest: out}, file)
    return out


def to_tensor(image) -> torch.Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)  # [3, H, W]


def normalised(images: torch.Tensor) -> torch.Tensor:
    """uint8 [B, 3, H, W] to the tower's input at SIDE pixels."""
    larger = F.interpolate(images.float(), (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
    return (larger - 127) / 128


# --- training


def contrast(image, text, match, scale):
    """Symmetric contrastive loss with several matches: image [B, D], text [T, D] unit, match bool [B, T]."""
    logits = scale * image @ text.T  # [B, T]

    def one_way(logits, match):
        target = match.float()
        rows = target.sum(1) > 0
        target = target[rows] / target[rows].sum(1, keepdim=True)
        return -(target * logits[rows].log_softmax(1)).sum(1).mean()

    return (one_way(logits, match) + one_way(logits.T, match.T)) / 2


def train(model, tokenizer, features, pictures, captions, steps, batch, log) -> None:
    """One optimizer step per batch; every second batch shows pictures in pairs, side by side."""
    model.requires_grad_(False)
    trunk = model.visual.trunk
    image_side = [
        *(p for n in TRAINED_STAGES for p in trunk.blocks[n].parameters()),
        *trunk.conv_head.parameters(),
        *trunk.bn2.parameters(),
    ]
    names_of_rest = [name for name, _ in model.named_parameters() if not name.startswith("visual.trunk.")]
    rest = [p for name, p in model.named_parameters() if name in set(names_of_rest)]
    for p in image_side + rest:
        p.requires_grad_(True)
    model.eval()  # the statistics of batch normalisation stay those of ImageNet
    groups = [{"params": image_side, "lr": 3e-4}, {"params": rest, "lr": 1.5e-3}]
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [g["lr"] for g in groups], total_steps=steps, pct_start=0.1
    )
    rng, order = random.Random(0), []
    began = time.perf_counter()
    for step in track(range(steps), label="training", unit="steps"):
        if len(order) < batch:
            order += rng.sample(range(len(pictures)), len(pictures))
        chosen, order = order[:batch], order[batch:]
        maps = features[chosen].float()  # [B, 192, 8, 8]
        held = [captions.concepts(pictures[i]) for i in chosen]
        drawn = [caption for i in chosen for caption in captions.draw(pictures[i], rng)]
        if step % 2:  # two pictures as one, so that the image-level words of both are true of it
            maps = torch.cat([maps[0::2], maps[1::2]], -1)  # [B / 2, 192, 8, 16]
            held = [a | b for a, b in zip(held[0::2], held[1::2])]
        match = torch.tensor([[named <= holds for _, named in drawn] for holds in held])  # [B, T]
        tokens = tokenizer([text for text, _ in drawn])
        lost = (torch.rand(tokens.shape) < 0.05) & (tokens > 2) & (tokens < tokenizer.end)
        text = F.normalize(model.encode_text(tokens.masked_fill(lost, 1)), dim=-1)
        loss = contrast(late(model, maps), text, match, model.logit_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=4.6052)  # ln 100
        if step % 10 == 0 or step == steps - 1:
            log.append(
                {
                    "step": step,
                    "loss": round(loss.item(), 4),
                    "scale": round(model.logit_scale.exp().item(), 2),
                    "seconds": round(time.perf_counter() - began, 1),
                }
            )


def save(model, out: Path) -> int:
    """Trained tensors as float16; returns the bytes of the file."""
    from safetensors.torch import save as to_bytes

    kept = tuple(f"visual.trunk.{name}." for name in (*(f"blocks.{n}" for n in TRAINED_STAGES), "conv_head", "bn2"))
    state = {
        key: value.half().contiguous()
        for key, value in model.state_dict().items()
        if (key.startswith(kept) or not key.startswith("visual.trunk.")) and value.is_floating_point()
    }
    data = to_bytes(state)
    with atomic(out / "weights.safetensors") as file:
        file.write(data)
    with atomic(out / "weights.sha256", "w") as file:
        file.write(f"{hashlib.sha256(data).hexdigest()}  weights.safetensors\n")
    return len(data)


# --- how good it is


@torch.no_grad()
def zero_shot(clip, folder: SegmentationFolder, pictures: list[dict], prompts) -> float:
    """Percent of pictures whose best class prompt names a class they hold."""
    text = clip.encode_text(prompts.class_prompts())
    right = 0
    for start in range(0, len(pictures), 32):
        some = pictures[start : start + 32]
        images = torch.stack([to_tensor(folder.image(p["image"])) for p in some]).float()
        images = F.interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
        best = (clip.encode_image(images) @ text.T).argmax(1).tolist()
        right += sum(c in p["classes"] for c, p in zip(best, some))
    return 100 * right / len(pictures)


def cam_miou(clip, folder: SegmentationFolder, prompts, threshold: float) -> float:
    """mIoU over 20 classes of plain Grad-CAM above ``threshold`` of its maximum, on the validation rows."""
    from tlg_lib.masks.cam import class_maps

    text, background = (clip.encode_text(prompts.class_prompts()), clip.encode_text(prompts.background_prompts()))
    rows = [row for fold in range(4) for row in folder.rows("val", fold)]
    counts = []
    for start in range(0, len(rows), 16):
        some = rows[start : start + 16]
        images = torch.stack([to_tensor(folder.image(image)) for image, _ in some]).float()
        truth = torch.stack([torch.from_numpy(folder.mask(*row)).long() for row in some])
        images = F.interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
        own = text[[c for _, c in some]][:, None]  # [B, 1, D]
        maps = class_maps(clip, images, own, torch.ones(len(some), 1, dtype=torch.bool), background).cam
        cam = F.interpolate(maps, truth.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
        intersection, union = intersection_union(cam > threshold, truth)
        counts += list(zip(intersection.numpy(), union.numpy(), (c for _, c in some)))
    return scores(*zip(*counts)).miou


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=clips.MINI, help="folder of the weights (default: the package's)")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--evaluate-only", action="store_true", help="measure the weights in --out")
    options = parser.parse_args()
    began = time.perf_counter()
    torch.manual_seed(0)
    clips.MINI = options.out
    options.out.mkdir(parents=True, exist_ok=True)
    captions = Captions()
    if not options.evaluate_only:
        write_config(options.out, captions.vocabulary())
        roots = [make_mini(cache_home() / "mini_clip" / f"seed{seed}", seed=seed, train_share=1.0) for seed in SEEDS]
        pictures = [contents(root) for root in roots]
        torch.manual_seed(0)
        model = clips.build_mini().eval()
        features = cached_features(model, roots, pictures, cache_home() / "mini_clip" / "features.safetensors")
        log: list[dict] = []
        model.logit_scale.data.fill_(3.4)
        train(model, clips.mini_tokenizer(), features, sum(pictures, []), captions, options.steps, options.batch, log)
        size = save(model, options.out)
        table = io.StringIO()
        writer = csv.DictWriter(table, log[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(log)
        with atomic(options.out / "train_log.csv", "w") as file:
            file.write(table.getvalue())
        print(
            f"weights: {size / 1e6:.2f} MB, {len(sum(pictures, []))} training pictures, "
            f"{time.perf_counter() - began:.0f} s in all"
        )
    clip = clips.load_clip("mini")
    root = ensure_mini()
    folder, held_out = SegmentationFolder(root), [p for p in contents(root) if p["split"] == "val"]
    figures = {
        "zero-shot accuracy, %": zero_shot(clip, folder, held_out, captions.prompts),
        **{
            f"plain Grad-CAM above {share} of its maximum, mIoU %": cam_miou(clip, folder, captions.prompts, share)
            for share in (0.5, 0.3)
        },
    }
    for name, value in figures.items():
        print(f"{name}: {value:.1f}  (test pictures of {root.name}, seed 0)")
    write_json(
        options.out / "scores.json",
        {
            **{name: round(value, 2) for name, value in figures.items()},
            "pictures": len(held_out),
            "date": date.today().isoformat(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
