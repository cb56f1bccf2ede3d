"""Train the small network for photographs with drawn supports (`tlg predict --support-mask`), score it, write it.

A folder of photographs in VOC layout is needed (`tlg data voc`). For each held-out fold a network is trained on the
other folds' classes and scored on the held-out ones: with drawn supports, with boxes, with the supports of another
class, and beside the prototype that needs no training. Then one is trained on all classes and written with a card
that holds the figures. No mask of a query is an input, and pseudo masks are not read.

    python data_scripts/train_photo_checkpoint.py DATA [--folds 0,1,2,3] [--jobs 4] [--set NAME=VALUE] [--write]

What is finished is not done again; the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import fmean  # sums exactly: a tie is rounded alike by every Python

import numpy as np
import torch

from tlg_lib.batches import BatchMaker
from tlg_lib.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from tlg_lib.config import Config, make_config
from tlg_lib.errors import TLGError
from tlg_lib.experiment import Experiment
from tlg_lib.inputs import Inputs
from tlg_lib.machine.downloads import sha256_of
from tlg_lib.machine.parallel import run_jobs
from tlg_lib.machine.paths import atomic, runs_home, write_json
from tlg_lib.metrics import intersection_union, scores, vote
from tlg_lib.predict import PHOTO
from tlg_lib.train import train

RECIPE = dict(
    supervision="pixel",
    query_mask="none",
    support_masks="drawn",
    use_hc=False,
    backbone="efficientnet_lite2",
    image_size=(320, 320),
    mask_dropout=0.0,
    batch=4,
    steps=2000,
    epoch_episodes=0,
    epoch_steps=10**6,  # the vote is chosen once, at the end
    checkpoint_every=250,
)


class Photographs(Experiment):
    """A fold's photographs from both lists. held: the fold whose classes are hidden, or -1 for none."""

    held = 0

    def both_splits(self, config: Config) -> bool:
        return True

    def training_rows(self, config: Config) -> list[tuple[str, int]]:
        if self.held < 0:
            return sorted({row for f in range(4) for split in ("trn", "val") for row in self.data.rows(split, f)})
        return super().training_rows(config)


class Opened(Inputs):
    """Inputs whose experiments are ``Photographs`` with this fold held out."""

    def __init__(self, held: int):
        super().__init__()
        self.held = held

    def open(self, config: Config, progress: bool = False) -> Experiment:
        opened = Photographs(**vars(super().open(config, progress)))
        opened.held = self.held
        return opened


def config_of(arguments: argparse.Namespace, fold: int) -> Config:
    """pascal-lite without words and without the query's mask: what a user with drawn supports can give."""
    given = dict(item.split("=", 1) for item in arguments.set)
    masks = arguments.data / "SegmentationClassAug"  # of no effect: some must be named
    return make_config(
        "pascal-lite",
        **{
            **RECIPE,
            **dict(data=str(arguments.data), masks=str(masks), fold=fold, device=arguments.device),
            **dict(eval_episodes=arguments.episodes, extra_episodes=arguments.episodes),
            **given,
        },
    )


def score(model, config: Config, inputs: Inputs) -> dict[str, float]:
    """mIoU on the held-out classes, by shots and supports, of network and prototype; "wrong": of another class.

    Five shots vote, as the field has it; "mean": their probabilities are averaged instead.
    """
    from tlg_lib.baselines import prototype

    rows = {"": model.predict, "prototype, ": prototype(model.levels)}
    found = {}
    for supports, control in (("drawn", ""), ("boxes", ""), ("drawn", "wrong")):
        for shots in (1, 5):
            own = config.replace(support_masks=supports, shots=shots)
            experiment = inputs.open(own)
            episodes, make = experiment.scored_episodes(own, control), experiment.batches(own)
            for name, miou in score_rows(rows, episodes, make, own, max(1, own.eval_batch // shots)).items():
                found[f"{name}{shots} {control or supports}"] = miou
    return found


@torch.inference_mode()
def score_rows(rows: dict, episodes: list, make: BatchMaker, config: Config, size: int) -> dict[str, float]:
    """mIoU of every predictor, a batch being made once for all of them."""
    counts: dict[str, list] = {}
    for start in range(0, len(episodes), size):
        batch = make(episodes[start : start + size])
        for name, predictor in rows.items():
            probability = predictor(batch)  # [B, K, H, W]
            answers = {name: vote(probability >= config.threshold)}
            if config.shots > 1:
                answers[f"{name}mean of "] = probability.mean(1) >= config.threshold
            for answer, mask in answers.items():
                counts.setdefault(answer, []).append([n.cpu().numpy() for n in intersection_union(mask, batch.truth)])
    ids = np.array([episode.class_id for episode in episodes])
    summed = {name: [np.concatenate(part) for part in zip(*parts)] for name, parts in counts.items()}
    return {name: round(scores(*parts, ids).miou, 1) for name, parts in summed.items()}


def one_fold(settings: dict, folder: Path, held: int) -> dict:
    """Train and score in this process; what is finished is read."""
    from tlg_lib.config import config_from_dict
    from tlg_lib.model import build_model

    torch.set_num_threads(1)
    config, inputs = config_from_dict(settings), Opened(held)
    trained = train(config, folder, inputs=inputs)
    file = folder / "scores.json"
    if held < 0 or file.is_file() and json.loads(file.read_text())["weights"] == trained["weights"]:
        return {} if held < 0 else json.loads(file.read_text())["scores"]
    experiment = inputs.open(config)
    model = build_model(config, experiment.backbone, experiment.text).to(experiment.device)
    model.load_state_dict(load_checkpoint(folder / "checkpoint.safetensors").weights)
    found = score(model.eval(), config, inputs)
    write_json(
        file,
        {
            "fold": held,
            "weights": trained["weights"],
            "commit": trained["commit"],
            "seconds": trained["seconds"],
            "share": model.trust.tolist()[0],
            "scores": found,
            "config": config.to_dict(),
        },
    )
    return found


def write(folder: Path, out: Path, reached: dict[int, dict[str, float]], command: str) -> None:
    """Weights without the optimizer and without this machine's paths, their checksum, and the card beside them."""
    saved = load_checkpoint(folder / "checkpoint.safetensors")
    config = saved.config.replace(data="", masks="", device="auto")
    save_checkpoint(out, Checkpoint(config, saved.weights, {}, {"step": config.steps}))
    with atomic(out.with_suffix(".sha256"), "w") as file:
        file.write(f"{sha256_of(out)}  {out.name}\n")
    about = {
        "command": command,
        "commit": saved.about["commit"],
        "numbers": sum(w.numel() for w in saved.weights.values()),
    }
    with atomic(out.with_name("MODEL_CARD.md"), "w") as file:
        file.write(card(config, out, reached, about))


def card(config: Config, out: Path, reached: dict[int, dict[str, float]], about: dict) -> str:
    height, width = config.image_size
    lines = [
        "# The network for photographs with drawn supports",
        "",
        f"`variant={config.variant}`, {config.backbone} (ImageNet weights, not in this file), {height} x {width} px, "
        f"no text, no mask of the query. {about['numbers']:,} numbers, {out.stat().st_size / 1e6:.2f} MB, safetensors.",
        "",
        f"- **Made by** `{about['command']}` at commit {about['commit']}: {config.steps} steps of batch "
        f"{config.batch}, seed {config.seed}, drawn masks of queries and supports.",
        "- **Data**: photographs of Pascal VOC 2012 in the subset named there, all 20 classes. "
        "They come from Flickr under its terms and are not part of this project.",
        "- **Licence**: MIT, as the project's; what VOC's terms say of networks trained on its photographs is for the "
        "user to judge: it was made for research.",
        "- **For**: `tlg predict --support-mask`, photographs in which the object is. In one without it, the network "
        "often marks what stands out instead. **Not for**: medical or aerial images, any decision about people.",
        "",
        "mIoU on classes held out from training, one network for each fold with the same settings. **The network in "
        "this file has seen all classes and cannot be scored on them.** *boxes*: GrabCut in the box of the drawn mask; "
        "*wrong*: drawn supports of another class; five shots vote unless *mean* is said; *prototype*: cosine "
        f"prototypes of the same supports, nothing trained. {config.eval_episodes} episodes a fold.",
        "",
        "| row | " + " | ".join(f"fold {fold}" for fold in sorted(reached)) + " | mean |",
        "|---|" + "---|" * (len(reached) + 1),
    ]
    for name in next(iter(reached.values()), {}):
        values = [reached[fold][name] for fold in sorted(reached)]
        mean = f"{fmean(values):.1f}" if len(values) == 4 else "–"
        lines.append(f"| {name} | " + " | ".join(f"{value:.1f}" for value in values) + f" | {mean} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder in VOC layout with drawn masks of all 20 classes")
    parser.add_argument("--folds", default="0,1,2,3", help='held out in turn; "" scores nothing')
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting; repeatable")
    parser.add_argument("--episodes", type=int, default=400, help="that a score rests on")
    parser.add_argument("--jobs", type=int, default=1, help="networks trained at a time")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=runs_home() / "photo")
    parser.add_argument(
        "--write", nargs="?", type=Path, const=PHOTO, help="train on all and write (default: %(const)s)"
    )
    arguments = parser.parse_args()
    try:
        folds = [int(f) for f in arguments.folds.split(",") if f.strip()] + [-1] * bool(arguments.write)
        configs = [config_of(arguments, max(0, fold)) for fold in folds]
        folders = [arguments.out / ("all" if fold < 0 else f"fold{fold}") for fold in folds]
        jobs = [
            (f"fold {fold}", one_fold, (config.to_dict(), folder, fold))
            for fold, config, folder in zip(folds, configs, folders)
        ]
        reached = {}
        for position, found in run_jobs(jobs, arguments.jobs):
            if found:
                reached[folds[position]] = found
                print(f"fold {folds[position]}: {found}", flush=True)
        write_json(arguments.out / "scores.json", {str(fold): reached[fold] for fold in sorted(reached)})
        if arguments.write:
            given = "".join(f" --set {item}" for item in arguments.set) + f" --episodes {arguments.episodes}"
            command = f"python data_scripts/{Path(__file__).name} DATA{given} --write"
            write(folders[-1], arguments.write, reached, command)
            print(f"written: {arguments.write}")
    except TLGError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
