"""Things that go wrong, each on purpose: one line that names what is wrong and the remedy, nothing lost.

Every case below provokes one fault and returns what the user gets. The table in docs/faults.md is made of them:
``python tests/commands/test_faults.py`` writes it, and a test here fails while it is out of date.
"""

import contextlib
import errno
import io
import json
import os
import pickle
import re
import resource
import shutil
import signal
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

DOC = Path(__file__).resolve().parents[2] / "docs" / "faults.md"


@dataclass(frozen=True)
class Outcome:
    """What the user got: the one line and the exit code."""

    message: str
    code: int


CASES = {}


def fault(title):
    """Register a case: a function of a fresh folder that provokes the fault and returns the Outcome."""

    def register(function):
        CASES[title] = function
        return function

    return register


def refused(function, *arguments, **kwargs) -> Outcome:
    """Call something of the library that must raise TLGError."""
    from tlg_lib.errors import TLGError

    try:
        function(*arguments, **kwargs)
    except TLGError as error:
        return Outcome(str(error), error.code)
    raise AssertionError("accepted without a word")


def command(*arguments) -> Outcome:
    """Run `tlg ...` in this process; its stderr must be exactly one line `error: ...`."""
    from tlg_lib.cli import main

    out, err, code = io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(a) for a in arguments])
        except SystemExit as exit:
            code = exit.code
    lines = [line for line in err.getvalue().splitlines() if line.strip()]
    assert lines and lines[-1].startswith("error: ") and "Traceback" not in err.getvalue(), err.getvalue()
    return Outcome(lines[-1].removeprefix("error: "), code)


# --- material


def voc(folder: Path) -> Path:
    """A tiny dataset of its own, so that the case may break it."""
    from conftest import make_tiny_voc

    return make_tiny_voc(folder / "voc")


def config(data: Path, **overrides):
    from resume_jobs import tiny_config

    return tiny_config(str(data), **overrides)


def train(data: Path, folder: Path, **overrides):
    from tlg_lib.train import train as run

    return run(config(data, **overrides), folder, progress=False)


def trained(folder: Path):
    """A dataset and a finished run on it."""
    data = voc(folder)
    train(data, folder / "run", steps=2)
    return data, folder / "run"


class Bomb:
    """Unpickling this makes a file: the test looks whether it did."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def bomb(path: Path) -> Path:
    """A pickle that leaves a mark when it is opened; returns where the mark would be."""
    mark = path.with_suffix(".exploded")
    path.write_bytes(pickle.dumps({"state_dict": Bomb(mark)}))
    return mark


# --- two runs, killed runs


@fault("two runs in one folder")
def _(folder):
    from tlg_lib.machine.locks import folder_lock

    data = voc(folder)
    with folder_lock(folder / "run"):
        return refused(train, data, folder / "run")


@fault("the same sweep started twice")
def _(folder):
    from tlg_lib.machine.locks import folder_lock

    (folder / "s.yaml").write_text("preset: smoke\ngrid: {fold: [0, 1]}\n")
    with folder_lock(folder / "out"):
        return command("sweep", folder / "s.yaml", "--out", folder / "out", "--workers", "1")


@fault("a worker process is killed (out of memory)")
def _(folder):
    from tlg_lib.runs.jobs import run_study_jobs

    return refused(
        run_study_jobs, [("row X, fold 0", os.kill, (0, 0)), ("row Y, fold 0", _die, ())], 2, "trained", False
    )


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


# --- the disk


def _train_in_4_kb(data: Path, run: Path) -> Outcome:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    return refused(train, data, run)


@fault("no space left while a checkpoint is written")
def _(folder):
    """RLIMIT_FSIZE makes a real write fail in a child process; the earlier checkpoint must survive it."""
    from tlg_lib.checkpoints import load_checkpoint

    data, run = unfinished(folder), folder / "run"
    before = load_checkpoint(run / "checkpoint.safetensors").about["step"]
    # a new process, not a fork: a fork of one whose torch has threads may wait for them for ever
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        outcome = pool.submit(_train_in_4_kb, data, run).result()
    assert load_checkpoint(run / "checkpoint.safetensors").about["step"] == before, "the good checkpoint was lost"
    assert not list(run.glob(".*.part")), "half a file was left"
    return outcome


@fault("a full disk (ENOSPC) under any result file")
def _(folder):
    from tlg_lib.machine.paths import write_json

    with replaced(os, "fsync", raising(errno.ENOSPC)):
        outcome = refused(write_json, folder / "results.json", {"miou": 1})
    assert os.listdir(folder) == []
    return outcome


@fault("a folder that cannot be written")
def _(folder):
    data = voc(folder)
    real = os.open

    def read_only(path, flags, *more, **named):
        return raising(errno.EROFS)() if flags & os.O_CREAT else real(path, flags, *more, **named)

    with replaced(os, "open", read_only):
        return refused(train, data, folder / "run")


@fault("--out names a file")
def _(folder):
    data = voc(folder)
    (folder / "run").write_text("I am a file")
    outcome = refused(train, data, folder / "run")
    assert (folder / "run").read_text() == "I am a file"
    return outcome


# --- training


@fault("the loss stops being finite")
def _(folder):
    import tlg_lib.train as module
    from tlg_lib.checkpoints import load_checkpoint

    data, calls, real = voc(folder), [], module.total_loss

    def poisoned(*arguments, **kwargs):
        calls.append(1)
        return real(*arguments, **kwargs) * (float("nan") if len(calls) == 6 else 1.0)

    with replaced(module, "total_loss", poisoned):
        outcome = refused(train, data, folder / "run")
    saved = load_checkpoint(folder / "run" / "checkpoint.safetensors")
    assert 0 < saved.about["step"] < 6 and all(np.isfinite(v.numpy()).all() for v in saved.weights.values())
    batch = json.loads((folder / "run" / "failed_batch.json").read_text())
    assert batch["step"] == 5 and batch["queries"] and batch["queries"][0] in outcome.message
    return outcome


@fault("a gradient stops being finite")
def _(folder):
    import tlg_lib.train as module
    from tlg_lib.checkpoints import load_checkpoint

    data, steps, real = voc(folder), [], module._finite_gradients

    def poisoned(model):
        steps.append(1)
        if len(steps) == 6:
            next(p for p in model.parameters() if p.grad is not None).grad.view(-1)[0] = float("inf")
        return real(model)

    with replaced(module, "_finite_gradients", poisoned):
        outcome = refused(train, data, folder / "run")
    saved = load_checkpoint(folder / "run" / "checkpoint.safetensors")
    assert 0 < saved.about["step"] < 6 and all(np.isfinite(v.numpy()).all() for v in saved.optimizer.values())
    return outcome


@fault("weights that stop being finite are not kept")
def _(folder):
    from tlg_lib.checkpoints import load_checkpoint, save_checkpoint

    _, run = trained(folder)
    good = load_checkpoint(run / "checkpoint.safetensors")
    before = (run / "checkpoint.safetensors").read_bytes()
    next(iter(good.weights.values())).view(-1)[0] = float("nan")
    outcome = refused(save_checkpoint, run / "checkpoint.safetensors", good)
    assert (run / "checkpoint.safetensors").read_bytes() == before
    return outcome


@fault("the dataset changes under an unfinished run")
def _(folder):
    data = unfinished(folder)
    repaint(data / "SegmentationClassAug", lambda m: m[:, ::-1])
    forget_inputs()
    return refused(train, data, folder / "run")


@fault("a pseudo mask changes under an unfinished run, its size in bytes and its time staying the same")
def _(folder):
    from PIL import Image

    data = voc(folder)
    victim = sorted((data / "PseudoMasks").glob("*.png"))[-1]
    values = np.array(Image.open(victim))
    Image.fromarray(values).save(victim, compress_level=0)
    unfinished(folder, data)
    before = victim.stat()
    Image.fromarray(values[:, ::-1]).save(victim, compress_level=0)
    os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert victim.stat().st_size == before.st_size
    forget_inputs()
    return refused(train, data, folder / "run")


def unfinished(folder: Path, data: Path | None = None) -> Path:
    """A dataset with a run that stopped after its first checkpoint."""
    import tlg_lib.train as module

    data, real = data or voc(folder), module._step

    def stops(*arguments):
        if arguments[-1] == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    with replaced(module, "_step", stops):
        try:
            train(data, folder / "run")
        except KeyboardInterrupt:
            pass
    assert (folder / "run" / "checkpoint.safetensors").is_file()
    return data


def forget_inputs():
    """As a new process would: nothing that was read before is still known."""
    from tlg_lib.data.folder import open_folder

    open_folder.cache_clear()


# --- checkpoints


@fault("a checkpoint of another config")
def _(folder):
    data, run = trained(folder)
    return refused(train, data, run, lr=0.01)


@fault("a checkpoint of a newer version")
def _(folder):
    import tlg_lib.checkpoints as module

    data = voc(folder)
    with replaced(module, "VERSION", module.VERSION + 1):
        train(data, folder / "run", steps=2)
    (folder / "run" / "trained.json").unlink()
    return refused(train, data, folder / "run", steps=2)


def damaged(folder: Path, change) -> Outcome:
    """Change the bytes of a run's checkpoint and go on with the run; the file must stay for the user to see."""
    data, run = trained(folder)
    (run / "trained.json").unlink()
    path = run / "checkpoint.safetensors"
    path.write_bytes(change(path.read_bytes()))
    before = path.read_bytes()
    outcome = refused(train, data, run, steps=2)
    assert path.read_bytes() == before, "the damaged file was overwritten"
    return outcome


@fault("a truncated checkpoint")
def _(folder):
    return damaged(folder, lambda content: content[: len(content) // 2])


@fault("an empty checkpoint")
def _(folder):
    return damaged(folder, lambda content: b"")


@fault("one flipped bit in a checkpoint")
def _(folder):
    return damaged(folder, lambda content: content[:-9] + bytes([content[-9] ^ 4]) + content[-8:])


@fault("a pickle in place of a checkpoint (not opened)")
def _(folder):
    data, run = trained(folder)
    (run / "trained.json").unlink()
    mark = bomb(run / "checkpoint.safetensors")
    outcome = refused(train, data, run, steps=2)
    assert not mark.exists(), "the pickle was opened"
    return outcome


@fault("a safetensors file of somebody else as a checkpoint")
def _(folder):
    import torch
    from safetensors.torch import save_file

    data, run = trained(folder)
    (run / "trained.json").unlink()
    save_file({"x": torch.zeros(3)}, str(run / "checkpoint.safetensors"))
    return refused(train, data, run, steps=2)


@fault("no checkpoint where one is asked for")
def _(folder):
    return command("eval", folder / "nothing")


@fault("a trained network scored under another variant's name")
def _(folder):
    return command("eval", trained(folder)[1], "--set", "variant=released")


# --- other files from outside


@fault("a pickle as backbone weights (not executed)")
def _(folder):
    data = voc(folder)
    mark = bomb(folder / "weights.pth")
    outcome = refused(train, data, folder / "run", backbone_weights=str(folder / "weights.pth"))
    assert not mark.exists()
    return outcome


@fault("a pickle as the authors' checkpoint (not executed)")
def _(folder):
    from tlg_lib.released.convert import read_release

    mark = bomb(folder / "best.pt")
    outcome = refused(read_release, folder / "best.pt")
    assert not mark.exists()
    return outcome


@fault("a pickle among the saved counts (not opened)")
def _(folder):
    from tlg_lib.evaluate import Counts

    mark = folder / "exploded"
    np.savez(folder / "counts.npz", thresholds=np.array([Bomb(mark)], dtype=object), allow_pickle=True)
    outcome = refused(Counts.load, folder / "counts.npz")
    assert not mark.exists()
    return outcome


@fault("a YAML that asks for a Python object")
def _(folder):
    mark = folder / "exploded"
    (folder / "s.yaml").write_text(f"name: !!python/object/apply:os.mkdir ['{mark}']\n")
    outcome = command("sweep", folder / "s.yaml")
    assert not mark.exists()
    return outcome


@fault("a YAML whose aliases would fill the memory")
def _(folder):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    (folder / "s.yaml").write_text("\n".join(lines))
    return command("sweep", folder / "s.yaml")


@fault("an episode list that is no episode list")
def _(folder):
    from tlg_lib.episodes import load_episodes

    (folder / "episodes.json").write_text('[{"query": "a", "support": [], "class_id": 3}]')
    return refused(load_episodes, folder / "episodes.json")


@fault("results.json that is damaged")
def _(folder):
    from tlg_lib.runs.report import write_report

    (folder / "results.json").write_text('{"rows": [')
    return refused(write_report, folder)


# --- data


@fault("no dataset")
def _(folder):
    return command("train", "mini", "--data", folder / "nowhere", "--out", folder / "run")


@fault("an image that a list names is missing")
def _(folder):
    data = voc(folder)
    name = sorted((data / "JPEGImages").iterdir())[0]
    train(data, folder / "first", steps=0)  # writes the split lists
    name.unlink()
    forget_inputs()
    return refused(train, data, folder / "run")


@fault("a truncated image")
def _(folder):
    data = voc(folder)
    for path in (data / "JPEGImages").iterdir():
        path.write_bytes(path.read_bytes()[:200])
    return refused(train, data, folder / "run")


@fault("a mask of another size than its image")
def _(folder):
    from PIL import Image

    data = voc(folder)
    for path in (data / "PseudoMasks").iterdir():
        Image.open(path).resize((31, 17), 0).save(path)
    return refused(train, data, folder / "run")


@fault("mask values out of range")
def _(folder):
    from PIL import Image

    data = voc(folder)
    path = sorted((data / "SegmentationClassAug").iterdir())[0]
    Image.fromarray(np.full((60, 80), 77, np.uint8)).save(path)
    return refused(train, data, folder / "run")


def repaint(folder: Path, change) -> None:
    """Put ``change`` of its numbers in the place of every mask of a folder."""
    from PIL import Image

    for path in folder.iterdir():
        Image.fromarray(change(np.array(Image.open(path))).astype(np.uint8)).save(path)


def listed(folder: Path) -> Path:
    """A tiny dataset with split lists."""
    from tlg_lib.data.splits import build_splits

    data = voc(folder)
    build_splits(data)
    return data


@fault("true masks with 255 where the object is")
def _(folder):
    data = listed(folder)
    repaint(data / "SegmentationClassAug", lambda m: np.where(m > 0, 255, 0))
    return refused(train, data, folder / "run")


@fault("true masks with 1 where the object is, whatever its class")
def _(folder):
    data = listed(folder)
    repaint(data / "SegmentationClassAug", lambda m: np.where((m > 0) & (m < 255), 1, m))
    return refused(train, data, folder / "run")


@fault("true masks with 255 where the background is")
def _(folder):
    data = listed(folder)
    repaint(data / "SegmentationClassAug", lambda m: np.where(m > 0, m, 255))
    return refused(train, data, folder / "run")


@fault("a picture that is trained on and scored")
def _(folder):
    from pytest import MonkeyPatch

    data = listed(folder)
    shutil.copy(data / "splits" / "trn" / "fold1.txt", data / "splits" / "val" / "fold1.txt")
    with MonkeyPatch.context() as patch:
        patch.setattr("tlg_lib.protocol.SMALL_TEST_LIST", 0)  # as a folder of full size is read
        return refused(train, data, folder / "run")


@fault("pseudo masks that cover the whole picture")
def _(folder):
    data = voc(folder)
    repaint(data / "PseudoMasks", lambda m: np.full_like(m, m.max()))
    return refused(train, data, folder / "run")


@fault("pseudo masks with 255 where the object is")
def _(folder):
    data = voc(folder)
    repaint(data / "PseudoMasks", lambda m: np.where(m > 0, 255, 0))
    return refused(train, data, folder / "run")


@fault("pseudo masks with 1 where the object is, whatever its class")
def _(folder):
    data = voc(folder)
    repaint(data / "PseudoMasks", lambda m: np.where(m > 0, 1, 0))
    return refused(train, data, folder / "run")


@fault("pseudo masks that show nothing")
def _(folder):
    data = voc(folder)
    repaint(data / "PseudoMasks", np.zeros_like)
    outcome = refused(train, data, folder / "run")
    assert command("masks", "verify", "--data", data).code == 3
    return outcome


@fault("a mask whose palette was renumbered")
def _(folder):
    from PIL import Image

    from tlg_lib.data.images import write_mask

    data = voc(folder)
    path = data / "PseudoMasks" / "2007_0500--5.png"
    write_mask(path, np.array(Image.open(path)))
    Image.open(path).remap_palette([0, 6, 255]).save(path)
    return refused(train, data, folder / "run")


@fault("a mask whose palette is a negative: 0 is white, another number black")
def _(folder):
    from PIL import Image

    data = voc(folder)
    path = data / "PseudoMasks" / "2007_0500--5.png"
    image = Image.fromarray(np.array(Image.open(path)))
    image.putpalette([255] * 3 + [0] * 765)
    image.save(path)
    return refused(train, data, folder / "run")


@fault("a list whose ids moved by a class")
def _(folder):
    data = listed(folder)
    path = data / "splits" / "val" / "fold1.txt"
    rows = [row.split("__") for row in path.read_text().split()]
    path.write_text("".join(f"{image}__{(int(c) - 5) % 5 + 6:02d}\n" for image, c in rows))
    return refused(train, data, folder / "run")


@fault("a list with a row twice")
def _(folder):
    data = listed(folder)
    path = data / "splits" / "val" / "fold1.txt"
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    return refused(train, data, folder / "run")


@fault("a val.txt of another dataset")
def _(folder):
    data = voc(folder)
    (data / "ImageSets" / "Segmentation" / "val.txt").write_text("2008_000001\n2008_000002\n")
    return refused(train, data, folder / "run")


@fault("label maps that a list names are missing")
def _(folder):
    data = listed(folder)
    for path in sorted((data / "SegmentationClassAug").iterdir())[:4]:
        path.rename(path.with_suffix(".tiff"))
    return refused(train, data, folder / "run")


@fault("photographs of a kind that is not read")
def _(folder):
    data = listed(folder)
    for path in sorted((data / "JPEGImages").iterdir())[:4]:
        path.rename(path.with_suffix(".heic"))
    return refused(train, data, folder / "run")


@fault("two images of one name")
def _(folder):
    from PIL import Image

    data = listed(folder)
    Image.new("RGB", (80, 60)).save(data / "JPEGImages" / "2007_0600.webp")
    return refused(train, data, folder / "run")


@fault("a picture of 144 million pixels in a few kB")
def _(folder):
    from PIL import Image

    data = listed(folder)
    Image.new("1", (12000, 12000)).save(data / "JPEGImages" / "2007_0600.jpg", format="PNG")
    return refused(train, data, folder / "run")


@fault("a drawn mask of 144 million pixels in a few kB")
def _(folder):
    from PIL import Image

    data = voc(folder)
    Image.new("1", (12000, 12000)).save(folder / "mask.png")
    image, other = (data / "JPEGImages" / f"2007_060{k}.jpg" for k in (0, 1))
    mask = ["--support-mask", folder / "mask.png"]
    return command("predict", "--query", image, "--support", other, *mask, "--out", folder / "out")


@fault("a drawn mask with two objects, each in a colour of its own")
def _(folder):
    from PIL import Image

    from tlg_lib.masks.drawn import drawn_mask

    two = np.zeros((60, 80, 3), np.uint8)
    two[10:30, 10:30], two[30:50, 40:70] = (128, 0, 0), (0, 128, 0)
    Image.fromarray(two).save(folder / "mask.png")
    return refused(drawn_mask, np.zeros((60, 80, 3), np.uint8), folder / "mask.png")


@fault("an archive that would fill the disk")
def _(folder):
    import tarfile

    with tarfile.open(folder / "voc.tgz", "w:gz") as file:
        member = tarfile.TarInfo("VOC2012/JPEGImages/a.jpg")
        member.size = 3 << 30  # of zeros, which would follow
        file.fileobj.write(member.tobuf())
    return command("data", "voc", "--from", folder / "voc.tgz", "--out", folder / "out")


@fault("an archive with a header of gigabytes")
def _(folder):
    import tarfile

    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 1 << 33
    (folder / "voc.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    return command("data", "voc", "--from", folder / "voc.tar", "--out", folder / "out")


def coco(folder: Path, change) -> Outcome:
    """`tlg data coco` on annotations that went through ``change``."""
    from conftest import make_tiny_coco

    source = make_tiny_coco(folder / "coco", per_side=4)
    path = source / "annotations" / "instances_train2014.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return command("data", "coco", "--from", source, "--out", folder / "out")


@fault("a COCO entry that claims 60000 x 60000 pixels")
def _(folder):
    return coco(folder, lambda content: content["images"][0].update(width=60000, height=60000))


@fault("COCO annotations of a category that COCO does not have")
def _(folder):
    return coco(folder, lambda content: content["categories"][0].update(name="widget"))


@fault("COCO annotations of a picture of another size")
def _(folder):
    return coco(folder, lambda content: content["images"][0].update(width=81))


@fault("no pseudo masks")
def _(folder):
    data = voc(folder)
    shutil.rmtree(data / "PseudoMasks")
    return refused(train, data, folder / "run")


@fault("a class with a single image in the test list")
def _(folder):
    data = voc(folder)
    train(data, folder / "first", steps=0)
    for split in ("trn", "val"):
        path = data / "splits" / split / "fold0.txt"
        rows = path.read_text().splitlines()
        ours = [row for row in rows if row.endswith("__01")]
        path.write_text("\n".join([r for r in rows if r not in ours] + (ours[:1] if split == "val" else [])) + "\n")
    forget_inputs()
    return refused(train, data, folder / "run")


@fault("a split list with a row that cannot be read")
def _(folder):
    data = voc(folder)
    train(data, folder / "first", steps=0)
    path = data / "splits" / "val" / "fold0.txt"
    path.write_text(path.read_text() + "../../etc/passwd__01\n")
    forget_inputs()
    return refused(train, data, folder / "run")


# --- settings


@fault("an unknown preset")
def _(folder):
    return command("train", "minni")


@fault("an unknown parameter")
def _(folder):
    return command("train", "mini", "--set", "stepps=3")


@fault("a value out of range")
def _(folder):
    return command("train", "mini", "--fold", "7")


@fault("a value of the wrong type")
def _(folder):
    return command("train", "mini", "--set", "lr=fast")


@fault("a device that is not there")
def _(folder):
    data = voc(folder)
    return refused(train, data, folder / "run", device="cuda:99")


@fault("--slurm where there is no SLURM")
def _(folder):
    (folder / "s.yaml").write_text("preset: smoke\ngrid: {fold: [0, 1]}\n")
    with replaced(os, "environ", {**os.environ, "PATH": str(folder)}):
        return command("sweep", folder / "s.yaml", "--out", folder / "out", "--slurm")


# --- locks, doors, what is on disk already


@fault("the lock file is a link (not followed)")
def _(folder):
    from tlg_lib.machine.locks import folder_lock

    (folder / "run").mkdir()
    (folder / "precious").write_text("mine")
    (folder / "run" / ".lock").symlink_to(folder / "precious")
    outcome = refused(folder_lock(folder / "run").__enter__)
    assert (folder / "precious").read_text() == "mine"
    return outcome


@fault("`tlg sweep --stop` where the lock names another process")
def _(folder):
    import socket

    from tlg_lib.machine.locks import living_owner

    (folder / ".lock").write_text(json.dumps({"pid": os.getppid(), "begun": 1.0, "host": socket.gethostname()}))
    return refused(living_owner, folder)


@fault("the library's code changes while a process runs")
def _(folder):
    from tlg_lib.machine import code

    path = code.PACKAGE / "losses.py"
    with replaced(code, "_LOADED", {**code._LOADED, path: 0}):
        outcome = refused(code.code_digest)
    return Outcome(outcome.message.replace(str(code.PACKAGE), "LIBRARY"), outcome.code)


@fault("results.json with a figure changed by hand")
def _(folder):
    from tlg_lib.machine.paths import write_sealed
    from tlg_lib.runs.results import load_results

    write_sealed(folder / "results.json", {"schema": 1, "miou": 41.5})
    (folder / "results.json").write_text((folder / "results.json").read_text().replace("41.5", "99.5"))
    return refused(load_results, folder / "results.json")


@fault("a sweep file that asks SLURM for a command")
def _(folder):
    (folder / "s.yaml").write_text("preset: smoke\ngrid: {fold: [0]}\nslurm: {srun_args: [bash, -c, id]}\n")
    return command("sweep", folder / "s.yaml")


@fault("a path of a user that is not there")
def _(folder):
    from tlg_lib.machine.paths import user_path

    return refused(user_path, "~nosuchuser/data")


@fault("a setting with control characters")
def _(folder):
    return command("train", "mini", "--set", "data=a\x1b[2Jb")


@fault("a checkpoint of the release converted over a file that is there")
def _(folder):
    (folder / "theirs.pt").write_bytes(b"x")
    (folder / "mine.safetensors").write_text("mine")
    outcome = command("convert-release", folder / "theirs.pt", "--out", folder / "mine.safetensors")
    assert (folder / "mine.safetensors").read_text() == "mine"
    return outcome


@fault("photographs segmented into the folder that they come from")
def _(folder):
    queries = voc(folder) / "JPEGImages"
    support = sorted(queries.iterdir())[0]
    before = sorted(os.listdir(queries))
    outcome = command("predict", "--query", queries, "--support", support, "--class", "car", "--out", queries)
    assert sorted(os.listdir(queries)) == before
    return outcome


@fault("pages written over somebody's own")
def _(folder):
    import nbformat

    from tlg_lib.runs.docs import build_docs

    nbformat.write(nbformat.v4.new_notebook(), folder / "00_a.ipynb")
    (folder / "site").mkdir()
    (folder / "site" / "00_a.html").write_text("<h1>mine</h1>")
    outcome = refused(build_docs, folder, folder / "site")
    assert os.listdir(folder / "site") == ["00_a.html"]
    return outcome


# --- helpers


@contextlib.contextmanager
def replaced(owner, name, value):
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def raising(number):
    def fail(*arguments, **kwargs):
        raise OSError(number, os.strerror(number))

    return fail


def run_case(title: str, folder: Path) -> Outcome:
    """The case in a home of its own, as a new process would meet it."""
    folder.mkdir(parents=True, exist_ok=True)
    before = os.environ.get("TLG_HOME")
    os.environ["TLG_HOME"] = str(folder.parent / "home")
    forget_inputs()
    try:
        return CASES[title](folder)
    finally:
        forget_inputs()
        os.environ.pop("TLG_HOME")
        if before is not None:
            os.environ["TLG_HOME"] = before


def shown(message: str, folder: Path) -> str:
    """The message without what differs from machine to machine and from time to time."""
    text = message.replace(str(folder), "FOLDER").replace(str(folder.resolve()), "FOLDER")
    text = re.sub(r"\S*/home/(cache|data|runs)/", r"TLG_HOME/\1/", text)
    text = re.sub(r"-[0-9a-f]{16}\b", "-DIGEST", text)
    text = re.sub(r"process \d+ on \S+ since \S+ \(.*?\)(?=:)", "process 4242 on HOST since TIME (COMMAND)", text)
    text = re.sub(
        r"\([^()]*(?:header|Header|EOF|buffer|InvalidHeader|offset|incomplete|MetadataIncomplete)[^()]*\)",
        "(...)",
        text,
    )
    return re.sub(r"cannot be used here \(.*\):", "cannot be used here (...):", text)


# --- tests


OUTCOMES = {}


@pytest.mark.parametrize("title", list(CASES))
def test_the_fault_is_one_line_with_a_remedy_and_a_code(title, tmp_path):
    outcome = run_case(title, tmp_path / "case")
    assert "\n" not in outcome.message and "Traceback" not in outcome.message
    assert 10 < len(outcome.message) < 700, outcome.message
    assert outcome.code in range(1, 9), outcome
    OUTCOMES[title] = (shown(outcome.message, tmp_path / "case"), outcome.code)


def table(outcomes: dict) -> str:
    lines = ["| what happens | what you get | exit code |", "|---|---|---|"]
    for title in CASES:
        message, code = outcomes[title]
        lines.append(f"| {title} | {message.replace('|', '&#124;')} | {code} |")
    return "\n".join(lines)


def document(outcomes: dict) -> str:
    return (
        "# Faults and what they say\n\n"
        "Made by `python tests/commands/test_faults.py` from the cases in that file, each of which provokes the fault "
        "and looks at the message, the exit code ([exit_codes.md](exit_codes.md)) and what is left on disk. FOLDER "
        "stands for the folder concerned.\n\n" + table(outcomes) + "\n\n"
        "Kills (`kill -9` of training, evaluation, mask and data generation, sweep workers and the sweep itself) need "
        "no message: the same command goes on, with the same results bit for bit on the CPU "
        "(tests/core/test_resume.py, tests/runs/test_sweep.py).\n"
    )


def test_the_table_in_the_docs_is_up_to_date():
    missing = [title for title in CASES if title not in OUTCOMES]
    if missing:
        pytest.skip(f"runs after all cases in one process ({len(missing)} did not run here)")
    told = {row.split(" | ")[0].removeprefix("| "): row for row in DOC.read_text(encoding="utf-8").splitlines()}
    stale = [row for row in table(OUTCOMES).splitlines()[2:] if told.get(row.split(" | ")[0].removeprefix("| ")) != row]
    assert not stale, "docs/faults.md is out of date: run `python tests/commands/test_faults.py`\n" + "\n".join(stale)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    found = {}
    with tempfile.TemporaryDirectory() as place:
        for number, name in enumerate(CASES):
            case = Path(place) / str(number) / "case"
            got = run_case(name, case)
            found[name] = (shown(got.message, case), got.code)
            print(f"{got.code}  {name}: {found[name][0]}", flush=True)
    DOC.parent.mkdir(exist_ok=True)
    DOC.write_text(document(found), encoding="utf-8")
    print(f"wrote {DOC}")
