"""Whatever users hand in: no traceback reaches them, no file of theirs is lost or changed, no figure comes of bad data.

Each target gets damaged copies of something valid, and things made up. A target may accept its input or raise
TLGError with one line; anything else fails. `make fuzz` tries 10,000 inputs and prints how many of each kind; here a
share of them (TLG_FUZZ, 1 = all). They are the same in every run unless TLG_FUZZ_RANDOM=1.
"""

import contextlib
import copy
import io
import json
import os
import random
import re
import shutil
import sys
import unicodedata
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from tlg_lib.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from tlg_lib.cli import main
from tlg_lib.config import NAMES, PRESETS, config_from_dict, make_config
from tlg_lib.data.folder import SegmentationFolder
from tlg_lib.data.images import image_size, read_image, read_mask, write_mask
from tlg_lib.data.splits import build_splits, read_split
from tlg_lib.data.verify import verify
from tlg_lib.episodes import load_episodes
from tlg_lib.errors import TLGError
from tlg_lib.evaluate import Counts
from tlg_lib.machine.paths import sealed
from tlg_lib.machine.safe_yaml import read_yaml
from tlg_lib.masks.prompts import load_prompts
from tlg_lib.masks.verify import verify_masks
from tlg_lib.protocol import Protocol, check_rows
from tlg_lib.runs.cell import open_cell
from tlg_lib.runs.notebook import read_settings
from tlg_lib.runs.records import mean_interval
from tlg_lib.runs.report import write_report
from tlg_lib.runs.spec import load_spec, spec_from_dict
from tlg_lib.runs.statistics import paired_bootstrap

from conftest import make_tiny_coco, make_tiny_voc

SHARE = float(os.environ.get("TLG_FUZZ", "0.05"))
TRIED, REFUSED, KIND = Counter(), Counter(), [""]


def many(kind, count):
    """Hypothesis settings for ``count`` inputs of a kind, of the 10,000 in all."""

    def register(test):
        test = settings(
            max_examples=max(5, round(count * SHARE)),
            deadline=None,
            database=None,
            print_blob=False,
            derandomize=os.environ.get("TLG_FUZZ_RANDOM") != "1",
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],  # a number says nothing when it is smaller
        )(test)
        test.kind = kind
        return test

    return register


@pytest.fixture(autouse=True)
def counted_kind(request):
    KIND[0] = getattr(request.function, "kind", "")


def survives(function, *arguments):
    """Call; only TLGError with one fit line may come out."""
    TRIED[KIND[0]] += 1
    try:
        return function(*arguments)
    except TLGError as error:
        REFUSED[KIND[0]] += 1
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

    return st.integers(0, 2**62).map(lambda seed: damaged_value(valid, random.Random(seed)))


def damaged_value(valid, rng):
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


def damaged_bytes(valid):
    """A strategy: ``valid`` cut, with bytes changed, removed or put in; sometimes bytes that are nothing."""
    return st.integers(0, 2**62).map(lambda seed: damage_bytes(valid, random.Random(seed)))


def damage_bytes(valid: bytes, rng) -> bytes:
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


def as_json(value) -> bytes:
    return json.dumps(value, default=str).encode()  # NaN and Infinity included, as Python writes them


def as_sealed(value) -> bytes:
    """With the checksum of what it says, as of somebody who makes such a file on purpose."""
    return as_json(sealed(json.loads(as_json(value))) if isinstance(value, dict) else value)


# --- settings


@many("settings", 700)
@given(damaged(make_config("mini").to_dict()))
def test_config_dictionaries(value):
    config = survives(config_from_dict, value)
    if config is not None:
        assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config, (
            "an accepted config must round-trip"
        )


@many("settings", 500)
@given(
    st.sampled_from([*PRESETS, "x"]),
    st.dictionaries(
        st.sampled_from([*NAMES, "stepps", ""]), st.integers(0, 2**62).map(lambda n: leaf(random.Random(n))), max_size=4
    ),
)
def test_settings_from_the_shell(preset, values):
    values.pop("preset", None)
    survives(lambda: make_config(preset, **values))


@many("settings", 300)
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


@many("lists", 500)
@given(st.one_of(damaged(EPISODES).map(as_json), damaged_bytes(as_json(EPISODES))))
def test_episode_lists(place, content):
    for episode in survives_file(load_episodes, place / "episodes.json", content) or []:
        assert isinstance(episode.query, str) and 0 <= episode.class_id < 80 and episode.support


SPLIT = b"2007_000032__01\n2007_000039__05\r\n\n2007_000063__03\n"


@many("lists", 500)
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


@many("masks", 700)
@given(st.one_of(*map(damaged_bytes, PICTURES)))
def test_masks(place, content):
    mask = survives_file(read_mask, place / "mask.png", content)
    if mask is not None:
        assert mask.dtype == np.uint8 and mask.ndim == 2


@many("images", 800)
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


@many("state files", 500)
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

    @many("checkpoints", 600)
    @given(damaged_bytes(valid))
    def tried(content):
        found = survives_file(load_checkpoint, place / "checkpoint.safetensors", content)
        if found is not None and content != valid:
            assert (
                all((found.weights[k] == v).all() for k, v in reference.weights.items())
                and found.about == reference.about
            ), "a damaged checkpoint was taken for whole"

    KIND[0] = tried.kind
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

    @many("state files", 200)
    @given(damaged_bytes(buffer.getvalue()))
    def tried(content):
        survives_file(Counts.load, place / "counts.npz", content)

    KIND[0] = tried.kind
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


@many("YAML", 600)
@given(damaged(SPEC))
def test_sweep_specs(value):
    spec = survives(spec_from_dict, value)
    if spec is not None:
        names = [cell.name for cell in spec.cells]
        assert len(set(names)) == len(names) and all(
            len(n.encode()) < 200 and "/" not in n for n in [spec.name, *names]
        )


@many("YAML", 400)
@given(damaged_bytes(yaml.safe_dump(SPEC).encode()))
def test_sweep_files(place, content):
    survives_file(load_spec, place / "spec.yaml", content)


@many("YAML", 300)
@given(st.text(alphabet=st.sampled_from("{}[]:,-&*!|>'\"%@`#?\n\t 0aé\x00\ud800~<="), max_size=30))
def test_any_yaml(place, text):
    survives_file(read_yaml, place / "any.yaml", text.encode("utf-8", "surrogatepass"))


PROMPTS = {
    "template": "a photo of a {}.",
    "background_list": ["grass", "sky"],
    "classes": {"bicycle": {"names": ["bicycle", "tandem"], "attribute": "bicycle with pedals", "background": "road"}},
}


@many("YAML", 300)
@given(
    st.one_of(
        damaged(PROMPTS).map(lambda v: yaml.safe_dump(v, allow_unicode=True).encode("utf-8", "replace")),
        damaged_bytes(yaml.safe_dump(PROMPTS).encode()),
    )
)
def test_prompt_files(place, content):
    survives_file(lambda path: load_prompts("pascal", path), place / "prompts.yaml", content)


CELL = {"setting": "a", "config": make_config("smoke").to_dict(), "training_free": True, "threads": 1}


@many("state files", 200)
@given(st.one_of(damaged(CELL).map(as_json), damaged_bytes(as_json(CELL))))
def test_cells(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "cell"
    folder.mkdir(exist_ok=True)
    (folder / "cell.json").write_bytes(content)
    survives(open_cell, folder)


# --- statistics

NUMBERS = st.lists(st.one_of(st.floats(), st.integers(-5, 10**9)), max_size=6)


@many("figures", 100)
@given(NUMBERS, st.floats())
def test_intervals(values, confidence):
    got = survives(mean_interval, values, confidence)
    assert got is None or got.count == len(values)


@many("figures", 100)
@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.lists(st.integers(0, 3), max_size=6))
def test_comparisons(a, b, c, d, classes):
    survives(lambda: paired_bootstrap(a, b, c, d, classes, resamples=20))


# --- what an earlier call or a crash may have left


def executed(folder):
    from tlg_lib.runs.notebooks import _is_complete

    return _is_complete(folder / "state", {"source": "0", "library": "1", "parameters": {}, "data": ""})


def trained(folder):
    from tlg_lib.train import finished_training

    shutil.copy(folder / "state", folder / "trained.json")
    return finished_training(folder, make_config("smoke"), "0")


def records(folder):
    from tlg_lib.runs.tables import _records

    shutil.copy(folder / "state", folder / "records.json")
    return _records(folder)


def locks(folder):
    from tlg_lib.machine import locks

    shutil.copy(folder / "state", folder / ".note")
    locks.owner(folder, ".note"), locks.is_locked(folder, ".note")
    assert locks.living_owner(folder, ".note") not in (0, 1, os.getpid())


def reader(module: str, function: str, name: str, *more):
    """Call a function of the library on the folder, or on the file of this name in it."""

    def call(folder):
        target = folder / name
        if name != "state" and target != folder:
            target.parent.mkdir(exist_ok=True)
            shutil.copy(folder / "state", target)
        found = getattr(__import__(f"tlg_lib.{module}", fromlist=[function]), function)
        return found(folder if not more or more[0] == "folder" else target, *more[1:])

    return call


LOG_LINE = ["0123", "2007_0001", "abcd", [3], [3]]
DONE = {"dataset": "pascal", "sbd": True, "images": 1}
STATES = {  # what was valid -> who reads it
    "executed notebook": ({"metadata": {"tlg": {"source": "0", "library": "1"}}, "cells": []}, executed),
    "trained.json": ({"config": make_config("smoke").to_dict(), "data": "0", "code": "0", "weights": ""}, trained),
    "records.json": ({"stamp": {}, "records": [{"miou": 1.0, "fb_iou": 1.0, "per_class": {}, "label": "x"}]}, records),
    "a lock's note": ({"pid": 4, "begun": 1.0, "host": os.uname().nodename, "command": "x"}, locks),
    "status.json": ({"state": "running", "time": 1.0}, reader("runs.jobs", "read_status", "status.json", "folder")),
    "done.json": ({"sums": [1, 2]}, reader("data.features", "_finished", "done.json", "folder")),
    "class index": ({"a": [[1, 2, 3, 4], {"0": 5, "7": 9}]}, reader("data.splits", "_read_index", "state", "file")),
    "note of a download": (
        {"url": "u", "validator": "v", "total": 9},
        reader("machine.downloads", "_read_note", "state", "file", "u"),
    ),
    "recipe.json": ({"clip": "mini", "weights": "w"}, reader("masks.generate", "made_by", "recipe.json", "folder")),
    "log of masks": (LOG_LINE, reader("masks.generate", "_finished", "recipe.jsonl", "folder", "0123")),
    "manifest.json": (
        {"files": {"a/b": {"bytes": 1, "sha256": "0"}}, "images": {}, "settings": {}},
        reader("data.mini.make", "_complete", "manifest.json", "folder"),
    ),
    "dataset.json": (DONE, reader("data.voc", "read_summary", "dataset.json", "folder", {"sbd": True})),
    "summary.json": ({"made_by": "tlg predict"}, reader("data.photographs", "_summary_is_ours", "state", "file")),
    "dataset's name": (DONE, reader("commands.data", "_dataset", "dataset.json", "folder", "")),
    "scorecard.json": (
        {"training-free": [1.0]},
        lambda folder: __import__("tlg_lib.runs.trials", fromlist=["x"]).ScoreCard(SimpleNamespace(folder=folder)),
    ),
}
FORMS = (as_json, as_sealed)
DEEP = b"[" * 100_000


@many("state files", 700)
@given(st.sampled_from(sorted(STATES)), st.integers(0, 2**62))
def test_state_files(tmp_path_factory, name, seed):
    valid, read = STATES[name]
    rng = random.Random(seed)
    value = damaged_value(valid, rng)
    content = rng.choice(FORMS)(value)
    if rng.randrange(3) == 0:
        content = damage_bytes(content, rng)
    folder = tmp_path_factory.getbasetemp() / "state"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "state").write_bytes(DEEP if rng.randrange(20) == 0 else content)
    if name == "scorecard.json":
        shutil.copy(folder / "state", folder / name)
    survives(read, folder)


# --- COCO's annotations


@pytest.fixture(scope="module")
def annotations(place):
    return json.loads((make_tiny_coco(place / "coco", per_side=4) / "annotations/instances_val2014.json").read_text())


def test_annotations(place, annotations):
    from tlg_lib.data import coco

    def read(path):
        images, by_image = coco.read_annotations(path)
        for entry in images:
            if entry["height"] * entry["width"] < 100_000:
                coco._paint_file((str(place / "painted" / "m.png"), entry["height"], entry["width"],
                                  by_image.get(entry["id"], []), "ignore"))  # fmt: skip
                painted = read_mask(place / "painted" / "m.png")
                assert painted.shape == (entry["height"], entry["width"]) and set(np.unique(painted)) <= {
                    *range(81),
                    255,
                }

    @many("annotations", 300)
    @given(st.one_of(damaged(annotations).map(as_json), damaged_bytes(as_json(annotations))))
    def tried(content):
        survives_file(read, place / "coco" / "annotations" / "instances_val2014.json", content)

    (place / "painted").mkdir(exist_ok=True)
    KIND[0] = tried.kind
    tried()


# --- datasets: training asks what verify knows


@pytest.fixture(scope="module")
def whole(place):
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setenv("TLG_HOME", str(place / "home"))
        root = make_tiny_voc(place / "whole", per_class=3, size=(24, 32), lists=False)
        build_splits(root, "pascal")
    return root


def change_mask(path: Path, rng) -> None:
    """Another content for a mask: as home-made ones are, or as programs save them."""
    values = np.array(Image.open(path))
    kind = rng.randrange(8)
    if kind == 0:
        values = np.where(values > 0, rng.choice((1, 255, 20, 21, 200, 0)), 0).astype(np.uint8)
    elif kind == 1:
        values[0, 0] = rng.randrange(256)
    elif kind == 2:
        values = values[:, : rng.randrange(1, 32)]
    elif kind == 3:
        values = values.T.copy()
    picture = Image.fromarray(values)
    path.unlink()
    if kind == 4:
        write_mask(path, values)
        picture = Image.open(path).remap_palette([0, *(int(v) for v in np.unique(values) if v)])
    elif kind == 5:
        picture = picture.convert("RGB")
    elif kind == 6:
        picture = Image.fromarray(values.astype(np.uint16))
    elif kind == 7:
        return write_mask(path, values)  # in VOC's colours: nothing is wrong with it
    picture.save(path)


def change_list(path: Path, rng) -> None:
    rows = path.read_text().split("\n")[:-1]
    kind, at = rng.randrange(9), rng.randrange(len(rows)) if rows else 0
    end, mark = "\n", ""
    if not rows:
        return
    if kind == 0:
        del rows[at]
    elif kind == 1:
        rows.append(rows[at])
    elif kind == 2:
        names, classes = zip(*(row.split("__") for row in rows))
        rows = [f"{n}__{c}" for n, c in zip(names[1:] + names[:1], classes)]
    elif kind == 3:
        rows[at] = rows[at][:-2] + f"{rng.randrange(25):02d}"
    elif kind == 4:
        rows[at] = rows[at].replace("2007", "2008")
    elif kind == 5:
        rows[at] = rows[at].replace("__", ".jpg__")
    elif kind == 6:
        end, mark = "\r\n", "\ufeff"
    elif kind == 7:
        rows[at] = f"\t{rows[at]} \n\n"
    else:
        rows[at] = rng.choice(("x", "__", "../a__01", rows[at] + "__01", "2007_0000"))
    path.unlink()
    path.write_bytes((mark + end.join(rows) + end).encode())


def change_photo(path: Path, rng) -> None:
    image, kind = Image.open(path).copy(), rng.randrange(4)
    content = path.read_bytes()
    path.unlink()
    if kind == 0:
        exif = Image.Exif()
        exif[0x0112] = rng.randrange(0, 10)
        image.save(path, exif=exif)
    elif kind == 1:
        path.write_bytes(damage_bytes(content, rng))
    elif kind == 2:
        image.resize((rng.randrange(1, 40), 24)).save(path)
    else:
        image.save(path.with_suffix(rng.choice((".JPG", ".webp", ".heic", ".PNG"))), format="PNG")


def damage_dataset(root: Path, rng) -> None:
    """One or two things wrong, or only unusual, with a copy of the dataset."""
    for _ in range(rng.randint(1, 2)):
        folder = rng.choice(("JPEGImages", "SegmentationClassAug", "PseudoMasks", "splits"))
        files = sorted(p for p in (root / folder).rglob("[!.]*") if p.is_file() and p.suffix != ".json")
        some = rng.sample(files, rng.choice((1, 1, 3, len(files))) if len(files) > 3 else min(1, len(files)))
        kind = rng.randrange(12)
        for path in some:
            if kind == 0:
                path.unlink()
            elif kind == 1:
                path.rename(path.with_suffix(path.suffix.swapcase()))
            elif kind == 2:
                shutil.copy(path, path.with_name(f"._{path.name}"))
            elif kind == 3:
                path.with_name(f"linked-{rng.randrange(2**32)}-{path.name}").symlink_to("nowhere")
            elif path.suffix == ".txt":
                change_list(path, rng)
            elif path.suffix in (".jpg", ".png"):
                with contextlib.suppress(OSError, ValueError, SyntaxError):  # broken already, by the first of two
                    (change_photo if folder == "JPEGImages" else change_mask)(path, rng)


def everything_read(data: SegmentationFolder, config) -> list[tuple[str, int]]:
    """All that a training or a score of this config reads; the rows concerned."""
    check_rows(config, Protocol(data), progress=False)
    protocol = Protocol(data)
    both = protocol.both_splits(config)
    rows = protocol.training_rows(config) + data.test_rows(config.fold, both) + data.base_rows(config.fold)
    for row in rows:
        image, label, mask = data.image(row[0]), data.mask(*row), data.pseudo_mask(*row)
        assert image.shape[:2] == label.shape == mask.shape
        assert (label == 1).any(), f"{row} is scored without a pixel of its class"
    return rows


def concerned(lines: list[str], rows: list[tuple[str, int]]) -> list[str]:
    """The lines about one of the rows, or about an image of theirs where no class is named."""
    names = {image for image, _ in rows} | {f"{i}--{c}" for i, c in rows} | {f"{i}__{c + 1:02d}" for i, c in rows}
    return [line for line in lines if names & set(re.findall(r"2007_\d{4}(?:--\d+|__\d\d)?", line))]


def test_datasets(place, whole):
    @many("datasets", 300)
    @given(st.integers(0, 2**62))
    def tried(seed):
        rng, root = random.Random(seed), place / "damaged"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(whole, root, copy_function=os.link)
        damage_dataset(root, rng)
        before = {p: (p.lstat().st_size, p.lstat().st_mtime_ns) for p in root.rglob("*") if p.is_file()}
        config = make_config("smoke", dataset="pascal", data=str(root), fold=rng.randrange(4))
        with contextlib.redirect_stdout(io.StringIO()):
            used = survives(everything_read, SegmentationFolder(root, "pascal"), config)
            report = survives(lambda: verify(root, "pascal", progress=False))
            TRIED[KIND[0]] -= 1
        if used is not None:
            lines = [line for kind in report.problems if kind != "too few images" for line in report.problems[kind]]
            named = concerned(lines, used)
            assert not named and not report.problems["masks of one value"] + report.problems["bad list"], named
            with contextlib.redirect_stdout(io.StringIO()):
                masks = survives(verify_masks, SegmentationFolder(root, "pascal"), False)
            TRIED[KIND[0]] -= 1
            assert masks.checked > len(masks.empty), "all pseudo masks show nothing"
            assert not concerned(masks.faults, used)
        assert {p: (p.lstat().st_size, p.lstat().st_mtime_ns) for p in root.rglob("*") if p.is_file()} == before, (
            "a user's file was touched"
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLG_HOME", str(place / "home"))
        KIND[0] = tried.kind
        tried()


# --- the command line


@pytest.fixture
def shell(place, whole, monkeypatch):
    """A user's folder, and commands that stop where long work would begin."""
    import tlg_lib.backbones
    import tlg_lib.bench.measure  # noqa: F401
    import tlg_lib.commands.bench
    import tlg_lib.data.mini.make
    import tlg_lib.machine.downloads
    import tlg_lib.masks.clips
    import tlg_lib.predict  # noqa: F401
    import tlg_lib.runs.jobs
    import tlg_lib.runs.notebooks  # noqa: F401

    def stops(*arguments, **named):
        raise TLGError("here long work begins", 1)

    begins = [tlg_lib.backbones.load_backbone, tlg_lib.masks.clips.load_clip, tlg_lib.data.mini.make.make_mini,
              tlg_lib.machine.downloads.download, tlg_lib.runs.jobs.run_local, tlg_lib.runs.notebooks._papermill,
              tlg_lib.commands.bench._start]  # fmt: skip
    for module in [m for name, m in sys.modules.items() if name.startswith("tlg_lib")]:
        for name, value in list(vars(module).items()):
            if any(value is begin for begin in begins):
                monkeypatch.setattr(module, name, stops)
    mine = place / "mine"
    if not mine.exists():
        shutil.copytree(whole, mine / "voc")
        (mine / "sweep.yaml").write_text(yaml.safe_dump(SPEC))
        (mine / "config.json").write_text("{}")
        (mine / "run").mkdir()
        save_checkpoint(mine / "run" / "checkpoint.safetensors", Checkpoint(make_config("smoke"), {}, {}, {"step": 1}))
    monkeypatch.setenv("TLG_HOME", str(place / "shell-home"))
    (place / "cwd").mkdir(exist_ok=True)
    monkeypatch.chdir(place / "cwd")
    return mine


def command_lines(mine: Path) -> list[list[str]]:
    voc, photo, out = mine / "voc", mine / "voc" / "JPEGImages" / "2007_0000.jpg", mine.parent / "new"
    lines = f"""train smoke --data {voc} --out {out} --fold 1 --set steps=2 --set dataset=pascal
    eval {mine / "run"} --shots 1,5 --set eval_episodes=3
    predict --query {photo} --support {photo} --class car --checkpoint none --out {out} --threshold 0.4
    predict --query {voc / "JPEGImages"} --support {photo} --support-mask 3,3,20,20 --out {out} --coco rle
    data verify {voc} --dataset pascal
    data verify {voc} --json
    data splits {voc} --min-area 3
    data sheet {voc} --out {out / "s.png"}
    data voc --from {voc} --no-sbd --out {out / "d"}
    data coco --from {mine.parent / "coco"} --out {out / "c"} --crowd class
    data mini --out {out / "m"}
    data weights --backbone resnet50 --clip none
    masks verify --data {voc} --dataset pascal
    masks make --data {voc} --masks {out / "k"} --set refine=none
    masks score --data {voc} --split val --limit 3 --fold 1
    masks sheet --data {voc} --fold 0 --out {out / "t.png"}
    sweep {mine / "sweep.yaml"} --dry-run --out {out / "w"}
    sweep {mine / "sweep.yaml"} --status --workers 2 --set steps=3
    sweep {mine / "sweep.yaml"} --out {out / "w"} --retry
    ladder smoke --folds 0,1 --seeds 0 --workers 1 --out {out / "l"}
    choose smoke --data {voc} --folds 0 --out {out / "h"}
    curve smoke --data {voc} --folds 0 --out {out / "v"}
    run smoke --fold 0 --seed 0,1 --variant released --shots 5 --set steps=3 --out {out / "r"}
    bench network --backbone resnet50 --out {out / "b"}
    convert-release {mine / "config.json"} --fold 2 --out {out / "x.safetensors"}
    convert-release {mine / "run" / "checkpoint.safetensors"} --back --out {out / "y.pt"}
    notebooks {out / "n"}
    --version
    train --help"""
    return [line.split() for line in lines.split("\n")]


ODD = ["", " ", "-", "--", "--out", "--set", "--data", "x", "=", "steps=", "=3", "steps=x", "data=2012", "lr=nan", "-1",
       "1e999", "0,1", "1,,2", "９", "../x", "~nosuchuser/x", "/proc/x/y", "/dev/full", "a\x1b[2J", "a\x00b", "\ud800",
       "[/x]", "{x}", "a $b$ c", "é" * 300, "9" * 5000, "preset={a: 1}", "--help", "\u202e"]  # fmt: skip


def run_line(arguments: list[str]) -> None:
    """One call: an exit code of ours, one line where it is refused, nothing that steers a terminal."""
    out, err = io.StringIO(), io.StringIO()
    TRIED[KIND[0]] += 1
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as done:
        main(arguments)
    said, told = out.getvalue(), [line for line in err.getvalue().splitlines() if line.strip()]
    assert done.value.code in (*range(9),), (arguments, done.value.code)
    assert "Traceback" not in said + err.getvalue(), arguments
    if done.value.code and (told or "Usage" not in said):
        assert told and told[-1].startswith("error: ") and len(told[-1]) > 12, (arguments, told)
        REFUSED[KIND[0]] += 1
    doing = [
        c for c in said + err.getvalue() if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") and c not in "\n\t\r"
    ]
    assert not doing, (arguments, doing)


def test_command_lines(place, shell):
    lines = command_lines(shell)

    def state():
        return {p: (p.lstat().st_size, p.lstat().st_mtime_ns) for p in sorted(shell.rglob("*")) if p.is_file()}

    before = state()

    @many("command line", 1400)
    @given(st.integers(0, 2**62))
    def tried(seed):
        rng = random.Random(seed)
        line = list(rng.choice(lines))
        for _ in range(rng.randint(1, 3)):
            at, kind = rng.randrange(len(line) + 1), rng.randrange(6)
            if kind == 0 and line:
                del line[at - 1]
            elif kind == 1:
                line.insert(at, rng.choice(ODD))
            elif kind == 2 and line:
                line[at - 1] = rng.choice((rng.choice(ODD), str(leaf(rng))))
            elif kind == 3 and line:
                other = rng.randrange(len(line))
                line[at - 1], line[other] = line[other], line[at - 1]
            elif kind == 4:
                line.insert(at, rng.choice(rng.choice(lines)))
            else:
                line[at:at] = rng.choice(lines)[-2:]
        run_line(line)
        after = state()
        assert {p: after.get(p) for p in before} == before, (line, "a user's file was touched")
        shutil.rmtree(place / "new", ignore_errors=True)

    KIND[0] = tried.kind
    tried()


def test_enough_was_tried():
    """Last in this file: the counts that are told, when the whole file ran in one process."""
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(TRIED.items()))
    print(
        f"\nfuzzing: {TRIED.total():,} inputs ({kinds}), {REFUSED.total():,} refused by one line, no traceback, no "
        "file lost, no figure from what verify refuses",
        file=sys.stderr,
    )
    if len(TRIED) < 10:
        pytest.skip("only a part of the file ran in this process")
    assert TRIED.total() >= 9_990 * min(SHARE, 1) and REFUSED.total() > TRIED.total() / 5
