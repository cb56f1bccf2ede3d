"""Training curves for other programs: every step once, also after an interruption, with the record's own figures."""

import csv
import sys

import pytest

from tlg_lib import train
from tlg_lib.errors import TLGError
from tlg_lib.machine.loggers import Curves
from tlg_lib.machine.paths import read_sealed

from conftest import make_tiny_voc
from resume_jobs import tiny_config


def fit(voc, folder, **changes):
    curves = changes.pop("curves", "csv")
    config = tiny_config(
        str(voc), **{"steps": 4, "epoch_steps": 2, "epoch_episodes": 2, "checkpoint_every": 1, **changes}
    )
    return config, train.train(config, folder, progress=False, curves=curves)


def rows(folder):
    return list(csv.DictReader((folder / "curves" / "metrics.csv").open()))


def losses(folder):
    return {int(row["step"]): float(row["loss"]) for row in rows(folder) if row["loss"]}


def test_a_resumed_training_has_each_step_once(tmp_path, own_home, monkeypatch):
    voc, folder = make_tiny_voc(tmp_path / "voc"), tmp_path / "run"
    write = Curves.write

    def stopped(self, record):
        write(self, record)
        if len(record["losses"]) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Curves, "write", stopped)
    with pytest.raises(KeyboardInterrupt):
        fit(voc, folder)
    assert list(losses(folder)) == [1, 2, 3], "the curves grow with the training"
    monkeypatch.undo()
    monkeypatch.setenv("TLG_HOME", str(own_home))
    config, summary = fit(voc, folder)
    assert losses(folder) == {i + 1: loss for i, loss in enumerate(summary["losses"])} and len(summary["losses"]) == 4
    assert sum(bool(row["loss"]) for row in rows(folder)) == 4
    assert float(rows(folder)[0]["lr"]) == pytest.approx(train.learning_rate(config, 0))
    found = [(int(row["step"]), float(row["mIoU_test"])) for row in rows(folder) if row["mIoU_test"]]
    assert found == [(row["step"], row["test"]) for row in summary["history"]] and [step for step, _ in found] == [2, 4]


def test_tensorboard_reads_a_finished_trainings_curves(tmp_path, own_home):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    voc, folder = make_tiny_voc(tmp_path / "voc"), tmp_path / "run"
    fit(voc, folder, curves="")
    assert not (folder / "curves").exists()
    for _ in range(2):  # asked twice, written once
        fit(voc, folder, curves="tensorboard")
    read = events.EventAccumulator(str(folder / "curves"))
    read.Reload()
    told = read_sealed(folder / "trained.json")["losses"]
    assert [(e.step, pytest.approx(e.value)) for e in read.Scalars("loss")] == [(i + 1, v) for i, v in enumerate(told)]
    assert [e.step for e in read.Scalars("mIoU_base")] == [2, 4]


def test_what_cannot_be_written_is_refused_before_the_data_is_opened(tmp_path, monkeypatch):
    with pytest.raises(TLGError, match="choose csv or tensorboard"):
        train.train(tiny_config("nowhere"), tmp_path / "run", curves="wandb")
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TLGError, match="pip install tensorboard"):
        train.train(tiny_config("nowhere"), tmp_path / "run", curves="tensorboard")
