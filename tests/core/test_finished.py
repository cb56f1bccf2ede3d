"""Finished means finished with this data, these weights and this code; what is kept on disk says so and is checked."""

import json
import os
import shutil

import numpy as np
import pytest
import torch

from tlg_lib import experiment, train
from tlg_lib.checkpoints import load_checkpoint
from tlg_lib.data import features
from tlg_lib.data.digest import contents
from tlg_lib.errors import TLGError
from tlg_lib.inputs import Inputs
from tlg_lib.machine import code
from tlg_lib.machine.paths import read_sealed, write_json, write_sealed
from tlg_lib.runs import jobs, study

from conftest import make_tiny_voc
from resume_jobs import tiny_config


@pytest.fixture
def voc(tmp_path, own_home):
    return make_tiny_voc(tmp_path / "voc")


def other_code(monkeypatch):
    """As if a line of the library that counts had been edited between two processes."""
    for module in (train, study, code):
        monkeypatch.setattr(module, "code_digest", lambda *_, **__: "another")


def fit(voc, folder, **changes):
    settings = {"steps": 2, "epoch_episodes": 0, **changes}
    return train.train(tiny_config(str(voc), **settings), folder, progress=False)


def test_other_code_trains_again_and_keeps_what_was_there(voc, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    first = fit(voc, folder)
    weights = (folder / "checkpoint.safetensors").read_bytes()
    assert fit(voc, folder) == first and (folder / "checkpoint.safetensors").read_bytes() == weights
    other_code(monkeypatch)
    again = fit(voc, folder)
    assert "code changed" in capsys.readouterr().out
    assert again["code"] == "another" and load_checkpoint(folder / "checkpoint.safetensors").about["code"] == "another"
    (aside,) = folder.glob("of-other-code-*")
    assert (aside / "checkpoint.safetensors").read_bytes() == weights and (aside / "trained.json").is_file()


def test_an_unfinished_training_of_other_code_does_not_go_on(voc, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    fit(voc, folder)
    (folder / "trained.json").unlink()
    other_code(monkeypatch)
    assert len(fit(voc, folder, steps=4)["losses"]) == 4 and list(folder.glob("of-other-code-*"))
    saved = load_checkpoint(folder / "checkpoint.safetensors")
    assert saved.about["code"] == "another" and saved.about["step"] == 4


def test_edited_weights_of_the_backbone_are_told_although_name_size_and_time_are_the_same(voc, tmp_path):
    from tlg_lib.machine.weights import empty_network

    file = tmp_path / "backbone.pt"
    state = dict(empty_network("efficientnet_lite0").state_dict())
    torch.save(state, file)
    before = file.stat()
    assert fit(voc, tmp_path / "run", backbone_weights=str(file)) == fit(
        voc, tmp_path / "run", backbone_weights=str(file)
    )
    torch.save({k: v + 1e-3 if v.is_floating_point() else v for k, v in state.items()}, file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    with pytest.raises(TLGError, match="or the weights that it names, changed since the run began"):
        fit(voc, tmp_path / "run", backbone_weights=str(file))


def test_scores_are_those_of_these_weights_and_this_code(voc, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    config = tiny_config(str(voc), steps=2, epoch_episodes=0)
    fit(voc, folder)
    arguments = (config.to_dict(), str(folder), "x", "X", (1,), False)
    records = study.evaluate_trained(*arguments)
    path = folder / "records.json"
    assert study._Scorer(config, folder, "x", "X", Inputs()).finished == records
    value = json.loads(path.read_text())
    value["records"][0]["miou"] = 99.0
    path.write_text(json.dumps(value))
    assert study._Scorer(config, folder, "x", "X", Inputs()).finished is None, "a figure was changed by hand"
    assert study.evaluate_trained(*arguments) == records
    shutil.copy(folder / "checkpoint.safetensors", tmp_path / "kept")
    fit(voc, tmp_path / "other", seed=1)
    shutil.copy(tmp_path / "other" / "checkpoint.safetensors", folder / "checkpoint.safetensors")
    assert study._Scorer(config, folder, "x", "X", Inputs()).finished is None, "other weights lie there now"
    shutil.copy(tmp_path / "kept", folder / "checkpoint.safetensors")
    assert study._Scorer(config, folder, "x", "X", Inputs()).finished == records
    other_code(monkeypatch)
    assert study._Scorer(config, folder, "x", "X", Inputs()).finished is None


def test_eval_says_where_data_or_code_are_not_those_of_training(voc, tmp_path, monkeypatch, capsys):
    from tlg_lib.commands import evaluate

    def said():
        evaluate.command(tmp_path / "run", shots="1", settings=["eval_episodes=4", "extra_episodes=4"])
        lines = capsys.readouterr().out.splitlines()
        return [line for line in lines if line.startswith(("note: scored on", "note: trained by"))]

    fit(voc, tmp_path / "run")
    assert said() == []
    image = sorted((voc / "JPEGImages").iterdir())[0]  # of a test row
    before = image.stat()
    content = bytearray(image.read_bytes())
    content[-40] ^= 3
    image.write_bytes(content)
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert said() == ["note: scored on other data than it was trained with, or they changed since"]
    monkeypatch.setattr(code, "code_digest", lambda *_, **__: "another")
    assert len(said()) == 2


@pytest.mark.parametrize(
    "content", [b"", b"[" * 100_000, b"{}", b'{"records": 1, "sha256": "0"}', b"\xff", b'{"a": 1e999}', None]
)
def test_a_sealed_file_that_is_no_longer_whole_is_told(tmp_path, content):
    path = tmp_path / "x.json"
    write_sealed(path, {"records": [1.5, {"0": None}], "stamp": {1: "a"}})
    assert read_sealed(path) == {"records": [1.5, {"0": None}], "stamp": {"1": "a"}}
    if content is None:
        write_json(path, {**json.loads(path.read_text()), "more": 1})
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError):
        read_sealed(path)


def test_deep_and_wrong_training_summaries_are_not_taken_for_finished(voc, tmp_path):
    folder = tmp_path / "run"
    first = fit(voc, folder)
    for content in ("[" * 100_000, "{}", json.dumps({**first, "history": 7})):
        (folder / "trained.json").write_text(content)
        again = fit(voc, folder)
        assert (again["losses"], read_sealed(folder / "trained.json")["history"]) == (first["losses"], first["history"])


def test_weights_alone_are_no_training_to_go_on_from(voc, tmp_path):
    folder = tmp_path / "run"
    fit(voc, folder, epoch_episodes=2)
    shutil.copy(folder / "best_test.safetensors", folder / "checkpoint.safetensors")
    with pytest.raises(TLGError, match="weights without the state of a training") as caught:
        fit(voc, folder, epoch_episodes=2)
    assert caught.value.code == 3


# --- the digest of the code


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A library of three files in place of ours; ``load()`` is what a new process does."""
    for name, text in {
        "model.py": '"""Doc."""\n\n\ndef f(x):\n    """Twice."""\n    return 2 * x  # why\n',
        "runs/study.py": "a = 1\n",
        "look/figures.py": "b = 1\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(code, "PACKAGE", tmp_path)

    def load():
        monkeypatch.setattr(code, "_LOADED", {p: hash(p.read_bytes()) for p in code._files()})

    load()
    return tmp_path, load


def test_the_code_counts_as_far_as_it_can_change_a_figure(package):
    root, load = package
    scorer = root / "runs" / "study.py"
    before = code.code_digest(), code.code_digest(scorer), code.code_digest(everything=True)

    def after(path, text):
        path.write_text(text)
        load()
        return code.code_digest(), code.code_digest(scorer), code.code_digest(everything=True)

    same = '"""Other words."""\ndef f(x):\n    "Thrice."\n    return 2*x\n'
    assert after(root / "model.py", same) == before, "comments, docstrings and layout change no figure"
    told = after(root / "look" / "figures.py", "b = 2\n")
    assert told[:2] == before[:2] and told[2] != before[2]
    scored = after(scorer, "a = 2\n")
    assert scored[0] == before[0] and scored[1] != before[1]
    assert after(root / "model.py", same.replace("2*x", "3*x"))[0] != before[0]


def test_every_python_reads_the_same_code(package):
    """A run that was finished by one Python is finished for another: syntax trees differ, what they say does not."""
    source = b'class A:\n    def f(self, w: int | None = None) -> str:\n        return f"{self:>{w}} {w!r}" or None\n'
    # by Python 3.10, 3.11, 3.12 and 3.13, which dump this tree in three ways
    assert code._meaning(source).hex()[:16] == "53f064cd72cc96e2"
    different = (
        b'x = [""]',
        b"x = []",
        b"x = None",
        b'x = ""',
        b'x = f""',
        b"x = 0",
        b"x: int",
        b'x = f"{y}"',
        b"x = y",
    )
    assert len({code._meaning(text) for text in different}) == len(different)


def test_a_process_does_not_sign_with_code_that_it_did_not_load(package):
    root, load = package
    (root / "model.py").write_text("def f(x):\n    return 5\n")
    with pytest.raises(TLGError, match="model.py was changed while this process ran: start it again"):
        code.code_digest()
    load()
    code.code_digest()


# --- data by content, features by checksum


def test_files_count_with_their_content_and_times_only_save_reading(tmp_path, own_home, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"first")
    first = contents(tmp_path, [path, tmp_path / "none"])
    assert first[tmp_path / "none"] == "" and len(first[path]) == 16
    stat = path.stat()
    path.write_bytes(b"other")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as `touch -r` or an unpacker does
    second = contents(tmp_path, [path])
    assert second[path] != first[path]
    (tmp_path / "b.jpg").write_bytes(b"first")
    assert contents(tmp_path, [tmp_path / "b.jpg"])[tmp_path / "b.jpg"] == first[path]
    monkeypatch.setattr("tlg_lib.data.digest._KNOWN", {})
    monkeypatch.setattr(type(path), "read_bytes", lambda self: pytest.fail(f"read {self}") if self == path else b"{")
    monkeypatch.setattr("tlg_lib.data.digest.read_sealed", lambda store: json.loads(open(store).read()))
    assert contents(tmp_path, [path]) == second, "a later process does not read the file again"


def open_features(voc):
    """The features as a new process finds them: (store, first layer's file)."""
    config = tiny_config(str(voc), cache_features="on")
    store = experiment.open_experiment(config, progress=False).store
    return store, sorted(store.folder.glob("layer*.npy"))[0]


def damage_bit(file, marker):
    content = bytearray(file.read_bytes())
    content[-5] ^= 64
    file.write_bytes(content)


def truncate(file, marker):
    file.write_bytes(file.read_bytes()[:-1000])


def empty(file, marker):
    file.write_bytes(b"")


def remove(file, marker):
    file.unlink()


def zeros(file, marker):
    content = file.read_bytes()
    file.write_bytes(content[:128] + bytes(len(content) - 128))


def other_shape(file, marker):
    np.save(file, np.zeros((3, 2), np.float32))


def deep_marker(file, marker):
    marker.write_text("[" * 100_000)


def wrong_marker(file, marker):
    write_json(marker, {"sums": [1e300, "x"]})


def half_marker(file, marker):
    write_sealed(marker, {"sums": read_sealed(marker)["sums"][:5]})
    file.write_bytes(file.read_bytes()[:-1000])


@pytest.mark.parametrize(
    "harm",
    [damage_bit, truncate, empty, remove, zeros, other_shape, deep_marker, wrong_marker, half_marker],
    ids=lambda f: f.__name__,
)
def test_damaged_features_are_made_again(voc, harm):
    store, file = open_features(voc)
    ids = store.data.image_ids
    expected, content = [m.clone() for m in store(ids)], file.read_bytes()
    harm(file, store.folder / "done.json")
    store, file = open_features(voc)
    assert all(torch.equal(a, b) for a, b in zip(store(ids), expected))
    assert file.read_bytes() == content, "the file is whole again"


def test_a_changed_image_of_the_same_size_and_time_gets_new_features(voc):
    store, _ = open_features(voc)
    image = store.data.image_ids[0]
    before = store([image])[0].clone()
    path = store.data.image_path(image)
    stat, other = path.stat(), store.data.image_path(store.data.image_ids[-1]).read_bytes()
    size = max(stat.st_size, len(other))
    path.write_bytes(other + bytes(size - len(other)))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert not torch.equal(open_features(voc)[0]([image])[0], before)


def test_features_stay_on_a_device_with_room_whole_and_the_same(voc, monkeypatch):
    store, file = open_features(voc)
    ids = store.data.image_ids[::-3]
    expected = [m.clone() for m in store(ids)]
    assert store.resident == [], "a CPU maps the files"
    damage_bit(file, None)
    monkeypatch.setattr(features, "room", lambda device: sum(m.nbytes for m in store.maps))
    store, _ = open_features(voc)
    assert all(torch.equal(a, b) for a, b in zip(store(ids), expected)) and len(store.resident) == len(expected)
    store.maps = [None]  # nothing is read any more
    assert all(torch.equal(a, b) for a, b in zip(store(ids), expected))
    monkeypatch.setattr(features, "room", lambda device: 1000)
    store, _ = open_features(voc)
    assert all(torch.equal(a, b) for a, b in zip(store(ids), expected)) and store.resident == []


def test_features_need_no_more_than_a_word_where_the_disk_is_full(voc, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(features.os, "posix_fallocate", full)
    with pytest.raises(TLGError, match="no space left") as caught:
        open_features(voc)
    assert caught.value.code == 5


# --- sweeps


def test_a_sweep_runs_cells_of_other_data_or_code_again(voc, tmp_path, monkeypatch):
    from tlg_lib.runs.spec import spec_from_dict

    spec = spec_from_dict({"preset": "smoke", "set": {"data": str(voc), "dataset": "pascal"}, "grid": {"fold": [0, 1]}})
    states = lambda: [s["state"] for s in jobs.states(spec, tmp_path).values()]  # noqa: E731
    for cell in spec.cells:
        jobs.write_status(tmp_path / cell.name, "done", **jobs.inputs_of(cell.config))
    jobs.recheck(spec, tmp_path)
    assert states() == ["done", "done"]
    mask = sorted((voc / "PseudoMasks").glob("2007_0000--0*"))[0]
    shutil.copy(sorted((voc / "PseudoMasks").glob("2007_0001--0*"))[0], mask)
    jobs.recheck(spec, tmp_path)
    assert "interrupted" in states() and not jobs.to_run(spec, tmp_path, retry=False) == []
    for cell in spec.cells:
        jobs.write_status(tmp_path / cell.name, "done", **jobs.inputs_of(cell.config))
    shutil.move(voc, tmp_path / "away")
    jobs.recheck(spec, tmp_path)
    assert states() == ["done", "done"], "without the data nothing can be compared"
    other_code(monkeypatch)
    jobs.recheck(spec, tmp_path)
    assert states() == ["interrupted", "interrupted"]
