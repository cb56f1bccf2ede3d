"""Train the small network for photographs with drawn supports (`tlg predict --support-mask`), score it, write it.

A folder of photographs in VOC layout is needed (`tlg data voc`). For each held-out fold a network is trained on the
other folds' classes and scored on the held-out ones, with drawn supports, with boxes, and beside the prototype that
needs no training; then one is trained on all classes, and that one is written with a card that holds the figures.

    python data_scripts/train_photo_checkpoint.py DATA [--folds 0,1,2,3] [--steps 2000] [--write]

What is finished is not done again; the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tlg_lib.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from tlg_lib.config import Config, make_config
from tlg_lib.errors import TLGError
from tlg_lib.evaluate import count_episodes
from tlg_lib.experiment import Experiment, open_experiment
from tlg_lib.machine.paths import atomic, runs_home, write_json
from tlg_lib.predict import PHOTO
from tlg_lib.train import load_trained, train

SUPPORTS = ("drawn", "boxes")
SHOTS = (1, 5)


def config_of(arguments: argparse.Namespace, fold: int, steps: int) -> Config:
    """pascal-lite without words and without the query's mask: what a user with drawn supports can give."""
    return make_config(
        "pascal-lite",
        data=str(arguments.data),
        masks=arguments.masks,
        fold=fold,
        supervision="pixel",
        query_mask="none",
        support_masks="drawn",
        use_hc=False,
        mask_dropout=0.0,
        batch=arguments.batch,
        steps=steps,
        epoch_episodes=0,
        eval_episodes=arguments.episodes,
        extra_episodes=arguments.episodes,
        device=arguments.device,
    )


def score(config: Config, folder: Path) -> dict[str, float]:
    """mIoU on the held-out classes, by shots and supports; "prototype ..." of the row without training."""
    from tlg_lib.baselines import prototype

    file = folder / "scores.json"
    if file.is_file() and json.loads(file.read_text())["config"] == config.to_dict():
        return json.loads(file.read_text())["scores"]
    model, _ = load_trained(folder, progress=False)
    rows = {"": model.predict, "prototype, ": prototype(model.levels)}
    found = {}
    for supports in SUPPORTS:
        for shots in SHOTS:
            own = config.replace(support_masks=supports, shots=shots)
            experiment = open_experiment(own)
            episodes, make = experiment.scored_episodes(own), experiment.batches(own)
            for name, predictor in rows.items():
                counts = count_episodes(predictor, episodes, make, (own.threshold,), max(1, own.eval_batch // shots))
                found[f"{name}{shots} {supports}"] = round(counts.scores(0).miou, 1)
    write_json(file, {"config": config.to_dict(), "scores": found})
    return found


def train_on_all(config: Config, folder: Path) -> None:
    """One network for all classes: no fold is held out, so nothing of it can be scored."""
    own = Experiment.training_rows
    Experiment.training_rows = lambda experiment, config: [
        row for f in range(4) for split in ("trn", "val") for row in experiment.data.rows(split, f)
    ]
    try:
        train(config, folder)
    finally:
        Experiment.training_rows = own


def write(folder: Path, out: Path, scores: dict[int, dict[str, float]], about: str) -> None:
    """Weights without the optimizer and without this machine's paths, and the card beside them."""
    saved = load_checkpoint(folder / "checkpoint.safetensors")
    config = saved.config.replace(data="", masks="", device="auto")
    save_checkpoint(out, Checkpoint(config, saved.weights, {}, {"step": config.steps}))
    with atomic(out.with_name("MODEL_CARD.md"), "w") as file:
        file.write(card(config, out.stat().st_size, sum(w.numel() for w in saved.weights.values()), scores, about))


def card(config: Config, size: int, parameters: int, scores: dict[int, dict[str, float]], about: str) -> str:
    names = list(next(iter(scores.values()), {}))
    lines = [
        "# The network for photographs with drawn supports",
        "",
        f"`variant={config.variant}`, {config.backbone} (ImageNet weights, not in this file), {config.image_size[0]} "
        f"px, no text, no mask of the query. {parameters:,} numbers, {size / 1e6:.2f} MB, safetensors.",
        "",
        f"**Made by** `python data_scripts/train_photo_checkpoint.py`: {config.steps} steps of batch {config.batch}, "
        f"seed {config.seed}, drawn masks of queries and supports, all 20 classes of Pascal VOC.",
        f"**Data**: {about}. VOC's photographs come from Flickr under its terms and are not part of this project.",
        "**Licence**: MIT, as the project's.",
        "**For**: `tlg predict --support-mask`. **Not for**: classes very unlike VOC's, medical or aerial images, and "
        "any decision about people.",
        "",
        "mIoU on classes held out from training, one network per fold with the same settings (the network in this file "
        "has seen all classes and cannot be scored on them); *boxes*: GrabCut in the box of the drawn mask:",
        "",
        "| fold | "
        + " | ".join(f"{name.replace(' ', ' shot, ', 1) if name[0].isdigit() else name}" for name in names)
        + " |",
        "|---|" + "---|" * len(names),
    ]
    lines += [
        f"| {fold} | " + " | ".join(f"{row[n]:.1f}" for n in names) + " |" for fold, row in sorted(scores.items())
    ]
    if len(scores) == 4:
        means = [sum(row[name] for row in scores.values()) / 4 for name in names]
        lines.append("| mean | " + " | ".join(f"{mean:.1f}" for mean in means) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder in VOC layout with drawn masks of all 20 classes")
    parser.add_argument("--masks", default="", help="folder of pseudo masks; they are read and not learned from")
    parser.add_argument("--folds", default="0,1,2,3", help='held out in turn; "" scores nothing')
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--episodes", type=int, default=200, help="that a score rests on")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=runs_home() / "photo")
    parser.add_argument(
        "--write", nargs="?", type=Path, const=PHOTO, help="train on all and write (default: %(const)s)"
    )
    arguments = parser.parse_args()
    try:
        scores = {}
        for fold in (int(f) for f in arguments.folds.split(",") if f.strip()):
            config = config_of(arguments, fold, arguments.steps)
            folder = arguments.out / f"fold{fold}"
            train(config, folder)
            scores[fold] = score(config, folder)
            print(f"fold {fold}: {scores[fold]}", flush=True)
        if arguments.write:
            config = config_of(arguments, 0, arguments.steps)
            train_on_all(config, arguments.out / "all")
            count = len(list((arguments.data / "JPEGImages").iterdir()))
            write(arguments.out / "all", arguments.write, scores, f"{count} photographs of Pascal VOC 2012")
            print(f"written: {arguments.write}")
    except TLGError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
