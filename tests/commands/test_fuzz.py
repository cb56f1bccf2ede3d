"""Whatever users hand in: no traceback reaches them, and no file of theirs is lost or changed.

Each target gets damaged copies of something valid, and things made up. A target may accept its input or raise
TLGError with one line; anything else fails. The number of inputs tried is printed (`pytest -s`), and grows with
TLG_FUZZ=10 (times as many). Inputs are the same in every run unless TLG_FUZZ_RANDOM=1.
"""

import copy
import io
import json
import os
import random
import sys
import zipfile

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tlg_lib.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from tlg_lib.config import NAMES, PRESETS, config_from_dict, make_config
from tlg_lib.data.images import image_size, read_image, read_mask
from tlg_lib.data.splits import read_split
from tlg_lib.episodes import load_episodes
from tlg_lib.errors import TLGError
from tlg_lib.evaluate import Counts
from tlg_lib.machine.paths import sealed
from tlg_lib.machine.safe_yaml import read_yaml
from tlg_lib.masks.prompts import load_prompts
from tlg_lib.runs.cell import open_cell
from tlg_lib.runs.notebook import read_settings
from tlg_lib.runs.records import mean_interval
from tlg_lib.runs.report import write_report
from tlg_lib.runs.spec import load_spec, spec_from_dict
from tlg_lib.runs.statistics import paired_bootstrap

TIMES = int(os.environ.get("TLG_FUZZ", "1"))
TRIED = {"inputs": 0, "refused": 0}


def many(count):
    """Hypothesis settings for ``count`` inputs of this target."""
    return settings(
        max_examples=count * TIMES,
        deadline=None,
        database=None,
        print_blob=False,
        derandomize=os.environ.get("TLG_FUZZ_RANDOM") != "1",
        suppress_health_check=list(HealthCheck),
    )


def survives(function, *arguments):
    """Call; only TLGError with one fit line may come out."""
    TRIED["inputs"] += 1
    try:
        return function(*arguments)
    except TLGError as error:
        TRIED["refused"] += 1
        text = str(error)
        assert text and "\n" not in text and "Traceback" not in text and len(text) < 5000, text[:300]
        assert error.code in range(1, 9)
    return None


def survives_file(function, path, content: bytes):
    """Write the file, call, and look that it and its folder are as before."""
    path.write_bytes(content)
    before = sorted(os.listdir(path.parent))
    result = survives(function, path)
    assert path.read_bytes() == content and sorted(os.listdir(path.parent)) == before, "a user's file was touched"
    return result


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


# --- what to hand in

LEAVES = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    7,
    30,
    10**9,
    10**15,
    -(10**18),
    10**40,
    0.5,
    -0.0,
    1e-300,
    1e308,
    float("nan"),
    float("inf"),
    float("-inf"),
    "",
    " ",
    "x",
    "true",
    "nan",
    "1e999",
    "-1",
    "0x10",
    "1_000",
    "٣",
    "../../etc/passwd",
    "<script>alert(1)</script>",
    "\x00",
    "=1+1",
    "${HOME}",
    "%s%n",
    "\u202e",
    "a\nb",
    "\ud800",
    "é" * 300,
    [],
    {},
    [[]],
    [1, 2, 3],
    ["a", None],
    {"a": 1},
    {"": []},
    [[[[1]]]],
    {"a": {"b": {"c": [1]}}},
]


def leaf(rng):
    """Something odd: mostly from the list, sometimes text or a number that nobody thought of."""
    kind = rng.randrange(8)
    if kind == 0:
        return "".join(
            chr(rng.choice((rng.randrange(32, 127), rng.randrange(0x2000), rng.randrange(0x10000))))
            for _ in range(rng.randrange(10))
        )
    if kind == 1:
        return rng.choice((rng.randrange(-10, 100), rng.uniform(-2, 2), rng.randrange(-(10**12), 10**12)))
    return copy.deepcopy(rng.choice(LEAVES))


def damaged(valid):
    """A strategy: copies of a value in which one to three places are replaced, removed, doubled or renamed.

    The damage follows from one number drawn by hypothesis, which makes thousands of inputs a matter of seconds.
    """

    def make(seed):
        rng = random.Random(seed)
        value = copy.deepcopy(valid)
        for _ in range(rng.randint(1, 3)):
            holder, key, node = None, None, value
            while isinstance(node, (dict, list)) and node and (holder is None or rng.randrange(4)):
                key = rng.choice(sorted(node, key=str)) if isinstance(node, dict) else rng.randrange(len(node))
                holder, node = node, node[key]
            if holder is None:
                return leaf(rng)
            action = rng.randrange(6)
            if action == 0:
                del holder[key]
            elif action == 1 and isinstance(holder, list):
                holder.append(holder[key])
            elif action == 1:
                name = leaf(rng)
                holder[name if isinstance(name, (str, int)) else "x"] = leaf(rng)
            else:
                holder[key] = leaf(rng)
        return value

    return st.integers(0, 2**62).map(make)


def damaged_bytes(valid):
    """A strategy: ``valid`` cut, with bytes changed, removed or put in; sometimes bytes that are nothing."""

    def make(seed):
        rng = random.Random(seed)
        if rng.randrange(12) == 0:
            return rng.randbytes(rng.randrange(60))
        content = bytearray(valid)
        for _ in range(rng.randint(1, 6)):
            if not content:
                break
            at, action = rng.randrange(len(content)), rng.randrange(7)
            if action < 3:
                content[at] = rng.choice((rng.randrange(256), content[at] ^ (1 << rng.randrange(8))))
            elif action == 3:
                del content[at : at + rng.randint(1, 40)]
            elif action == 4:
                content[at:at] = rng.randbytes(rng.randint(1, 8))
            elif action == 5:
                other = rng.randrange(len(content))
                content[at : at + 8] = content[other : other + 8]
            else:
                del content[at:]
        return bytes(content)

    return st.integers(0, 2**62).map(make)


def as_json(value) -> bytes:
    return json.dumps(value, default=str).encode()  # NaN and Infinity included, as Python writes them


def as_sealed(value) -> bytes:
    """With the checksum of what it says, as of somebody who makes such a file on purpose."""
    return as_json(sealed(json.loads(as_json(value))) if isinstance(value, dict) else value)


# --- settings


@many(600)
@given(damaged(make_config("mini").to_dict()))
def test_config_dictionaries(value):
    config = survives(config_from_dict, value)
    if config is not None:
        assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config, (
            "an accepted config must round-trip"
        )


@many(400)
@given(
    st.sampled_from([*PRESETS, "x"]),
    st.dictionaries(
        st.sampled_from([*NAMES, "stepps", ""]), st.integers(0, 2**62).map(lambda n: leaf(random.Random(n))), max_size=4
    ),
)
def test_settings_from_the_shell(preset, values):
    values.pop("preset", None)
    survives(lambda: make_config(preset, **values))


@many(300)
@given(
    st.one_of(
        st.text(max_size=40),
        st.lists(st.tuples(st.sampled_from([*NAMES, "a", ""]), st.text(max_size=8))).map(
            lambda pairs: "; ".join(f"{k}={v}" for k, v in pairs)
        ),
    )
)
def test_settings_text_of_notebooks(text):
    survives(read_settings, text)


# --- lists and masks

EPISODES = [{"query": "2007_0001", "support": ["2007_0002", "2007_0003"], "class_id": 3, "support_class": 4}] * 2


@many(400)
@given(st.one_of(damaged(EPISODES).map(as_json), damaged_bytes(as_json(EPISODES))))
def test_episode_lists(place, content):
    for episode in survives_file(load_episodes, place / "episodes.json", content) or []:
        assert isinstance(episode.query, str) and 0 <= episode.class_id < 80 and episode.support


SPLIT = b"2007_000032__01\n2007_000039__05\r\n\n2007_000063__03\n"


@many(400)
@given(st.one_of(damaged_bytes(SPLIT), st.text(max_size=60).map(lambda t: t.encode("utf-8", "surrogatepass"))))
def test_split_lists(place, content):
    for image, class_id in survives_file(lambda p: read_split(p, "pascal"), place / "list.txt", content) or []:
        assert 0 <= class_id < 20 and "/" not in image and "\\" not in image and ".." != image


def picture(mode: str, form: str) -> bytes:
    buffer = io.BytesIO()
    array = (np.arange(24 * 32).reshape(24, 32) % 21).astype(np.uint8)
    image = Image.fromarray(array)
    if mode == "P":
        image = image.convert("P")
    elif mode == "RGB":
        image = image.convert("RGB")
    image.save(buffer, form)
    return buffer.getvalue()


PICTURES = [picture("L", "PNG"), picture("P", "PNG"), picture("RGB", "JPEG"), picture("RGB", "PNG")]


@many(400)
@given(st.one_of(*map(damaged_bytes, PICTURES)))
def test_masks(place, content):
    mask = survives_file(read_mask, place / "mask.png", content)
    if mask is not None:
        assert mask.dtype == np.uint8 and mask.ndim == 2


@many(400)
@given(st.one_of(*map(damaged_bytes, PICTURES)))
def test_images(place, content):
    image = survives_file(read_image, place / "image.jpg", content)
    survives_file(image_size, place / "image.jpg", content)
    if image is not None:
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3


# --- results and checkpoints

ROW = {
    "key": "extended-pixel",
    "label": "TLG",
    "variant": "corrected",
    "supervision": "pixel",
    "query_mask": "pseudo",
    "control": "",
    "shots": 1,
    "epoch": "last",
    "threshold_from": "fixed",
    "seeds": [0],
    "folds": {"0": 40.0, "1": 41.0, "2": 42.0, "3": 43.0},
    "miou": 41.5,
    "fb_iou": 60.0,
    "half_width_95": None,
    "agreement_with_mask": 50.0,
}
RESULTS = {
    "schema": 1,
    "preset": "mini",
    "dataset": "mini",
    "backbone": "efficientnet_lite0",
    "backbone_weights": "imagenet",
    "image_size": [128, 128],
    "clip": "mini",
    "folds": [0, 1, 2, 3],
    "seeds": [0],
    "shots": [1],
    "episodes": 1000,
    "steps": 200,
    "batch": 8,
    "threshold": 0.5,
    "test_rows": 100,
    "main_row": "extended-pixel",
    "variant": "corrected",
    "supervision": "pixel",
    "miou": 41.5,
    "fb_iou": 60.0,
    "rows": [ROW, {**ROW, "key": "mask", "epoch": "no training"}],
    "parameters": {"total": 10, "learnable": 10, "receiving_gradient": 10},
    "training": [],
    "smoke": False,
    "figures_sha256": "0" * 64,
    "masks_by": "mini (sha256:0)",
    "seconds": {"training": 3.0},
    "device": "CPU",
    "commit": "0",
    "versions": {"torch": "2"},
}


@many(500)
@given(st.one_of(damaged(RESULTS).map(as_sealed), damaged_bytes(as_sealed(RESULTS))))
def test_results_files_and_their_report(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "report"
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_bytes(content)
    page = survives(write_report, folder)
    assert (folder / "results.json").read_bytes() == content
    if page is not None:
        assert "<script" not in page.read_text(encoding="utf-8").lower(), "text from results.json became markup"


def valid_checkpoint(path) -> bytes:
    import torch

    weights = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)}
    save_checkpoint(path, Checkpoint(make_config("smoke"), weights, {"0/step": torch.tensor(1.0)}, {"step": 1}))
    return path.read_bytes()


def test_checkpoints(place):
    valid = valid_checkpoint(place / "checkpoint.safetensors")
    reference = load_checkpoint(place / "checkpoint.safetensors")

    @many(400)
    @given(damaged_bytes(valid))
    def tried(content):
        found = survives_file(load_checkpoint, place / "checkpoint.safetensors", content)
        if found is not None and content != valid:
            assert (
                all((found.weights[k] == v).all() for k, v in reference.weights.items())
                and found.about == reference.about
            ), "a damaged checkpoint was taken for whole"

    tried()


def test_counts(place):
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        thresholds=[0.5],
        intersection=np.ones((1, 3, 2), int),
        union=np.ones((1, 3, 2), int),
        agreement=np.ones((3, 2), int),
        class_ids=np.arange(3),
    )
    assert zipfile.is_zipfile(buffer)

    @many(300)
    @given(damaged_bytes(buffer.getvalue()))
    def tried(content):
        survives_file(Counts.load, place / "counts.npz", content)

    tried()


# --- sweeps and other YAML

SPEC = {
    "name": "x",
    "description": "d",
    "preset": "smoke",
    "set": {"steps": 3, "widths_4d": [4, 8, 64]},
    "settings": {"a": {"variant": "corrected"}, "b": {"variant": "hsnet"}},
    "grid": {"fold": [0, 1], "seed": [0]},
    "cells": [{"setting": "a", "fold": 3}],
    "compare": [["a", "b"]],
    "slurm": {"time_min": 5, "partition": "gpu"},
}


@many(600)
@given(damaged(SPEC))
def test_sweep_specs(value):
    spec = survives(spec_from_dict, value)
    if spec is not None:
        names = [cell.name for cell in spec.cells]
        assert len(set(names)) == len(names) and all(
            len(n.encode()) < 200 and "/" not in n for n in [spec.name, *names]
        )


@many(400)
@given(damaged_bytes(yaml.safe_dump(SPEC).encode()))
def test_sweep_files(place, content):
    survives_file(load_spec, place / "spec.yaml", content)


@many(200)
@given(st.text(alphabet=st.sampled_from("{}[]:,-&*!|>'\"%@`#?\n\t 0aé\x00\ud800~<="), max_size=30))
def test_any_yaml(place, text):
    survives_file(read_yaml, place / "any.yaml", text.encode("utf-8", "surrogatepass"))


PROMPTS = {
    "template": "a photo of a {}.",
    "background_list": ["grass", "sky"],
    "classes": {"bicycle": {"names": ["bicycle", "tandem"], "attribute": "bicycle with pedals", "background": "road"}},
}


@many(250)
@given(
    st.one_of(
        damaged(PROMPTS).map(lambda v: yaml.safe_dump(v, allow_unicode=True).encode("utf-8", "replace")),
        damaged_bytes(yaml.safe_dump(PROMPTS).encode()),
    )
)
def test_prompt_files(place, content):
    survives_file(lambda path: load_prompts("pascal", path), place / "prompts.yaml", content)


CELL = {"setting": "a", "config": make_config("smoke").to_dict(), "training_free": True, "threads": 1}


@many(200)
@given(st.one_of(damaged(CELL).map(as_json), damaged_bytes(as_json(CELL))))
def test_cells(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "cell"
    folder.mkdir(exist_ok=True)
    (folder / "cell.json").write_bytes(content)
    survives(open_cell, folder)


# --- statistics

NUMBERS = st.lists(st.one_of(st.floats(), st.integers(-5, 10**9)), max_size=6)


@many(100)
@given(NUMBERS, st.floats())
def test_intervals(values, confidence):
    got = survives(mean_interval, values, confidence)
    assert got is None or got.count == len(values)


@many(100)
@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.lists(st.integers(0, 3), max_size=6))
def test_comparisons(a, b, c, d, classes):
    survives(lambda: paired_bootstrap(a, b, c, d, classes, resamples=20))


def test_enough_was_tried():
    """Last in this file: the count that is told, when the whole file ran in one process."""
    print(
        f"\nfuzzing: {TRIED['inputs']:,} inputs, {TRIED['refused']:,} refused by one line, 0 tracebacks",
        file=sys.stderr,
    )
    if TRIED["inputs"] < 1000:
        pytest.skip("only a part of the file ran in this process")
    assert TRIED["inputs"] >= 5000 and TRIED["refused"] > 1000
