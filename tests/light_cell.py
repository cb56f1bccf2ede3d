"""A cell that costs a fraction of a second: the same files as a real one, from arithmetic instead of training.

It works in steps with an atomic state file, as training does, so that kills in its middle mean something.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import nbformat
import numpy as np

from tlg_lib.episodes import Episode, save_episodes
from tlg_lib.machine.locks import folder_lock
from tlg_lib.machine.paths import atomic, write_json, write_sealed
from tlg_lib.runs.cell import open_cell

SOURCE = "import sys\nsys.path.insert(0, {tests!r})\nfrom light_cell import work\nwork(folder, {seconds})"
STEPS = 20


def make_notebook(path: Path, seconds: float = 0.3) -> Path:
    """An .ipynb that runs ``work``, for `tlg sweep --notebook`."""
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell('folder = ""', metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(SOURCE.format(tests=str(Path(__file__).parent), seconds=seconds)),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    nbformat.write(notebook, path)
    return path


def work(folder: str, seconds: float) -> None:
    """ "Train" by hashing a state STEPS times, then write records, counts and episodes derived from it."""
    cell = open_cell(folder)
    config, place = cell.config, cell.folder / "training"
    if config.batch == 13:  # the spec's way to ask for a failure
        print("about to fail")
        raise ValueError("batch 13 brings bad luck")
    with folder_lock(place):
        state_file = place / "state.json"
        state = json.loads(state_file.read_text()) if state_file.is_file() else {"step": 0, "text": config.digest()}
        with open(place / "starts.txt", "a") as file:
            file.write(f"{state['step']}\n")
        for step in range(state["step"], STEPS):
            time.sleep(seconds / STEPS)
            state = {"step": step + 1, "text": hashlib.sha256(state["text"].encode()).hexdigest()}
            write_json(state_file, state)
            print(f"step {step + 1}", flush=True)
    write_scores(cell, int(state["text"][:12], 16))


def write_scores(cell, seed: int, episodes: int = 40) -> None:
    """Scores drawn from ``seed`` in the layout of a real cell; the episodes depend on fold and seed alone."""
    config, place = cell.config, cell.folder / "training"
    generator = np.random.default_rng(seed)
    classes = np.arange(episodes) % 5 + 5 * config.fold
    union = generator.integers(100, 200, (1, episodes, 2))
    inter = (union * generator.uniform(0.2, 0.7, union.shape)).astype(np.int64)
    place.mkdir(exist_ok=True)
    with atomic(place / "counts-1shot.npz") as file:
        np.savez(file, thresholds=[0.5], intersection=inter, union=union, agreement=inter[0], class_ids=classes)
    save_episodes(
        cell.folder / "episodes-1shot.json",
        [Episode(f"q{i % 15}-{c}", (f"s{config.seed}",), int(c)) for i, c in enumerate(classes)],
    )
    per_class = {
        str(c): 100.0 * inter[0, classes == c, 1].sum() / union[0, classes == c, 1].sum() for c in np.unique(classes)
    }
    record = {
        "row": config.variant,
        "label": cell.setting,
        "fold": config.fold,
        "seed": config.seed,
        "shots": 1,
        "control": "",
        "epoch": "last",
        "threshold": 0.5,
        "threshold_from": "fixed",
        "agreement": 50.0,
        "miou": float(np.mean(list(per_class.values()))),
        "fb_iou": 60.0,
        "per_class": per_class,
    }
    stamp = {"data": f"fold {config.fold} of {config.data}"}
    write_sealed(place / "records.json", {"stamp": stamp, "records": [record]})
    if cell.training_free:
        free = {**record, "label": "query pseudo mask", "epoch": "no training", "miou": 30.0 + config.fold}
        (cell.folder / "training-free").mkdir(exist_ok=True)
        write_sealed(cell.folder / "training-free" / "records.json", {"stamp": stamp, "records": [free]})
