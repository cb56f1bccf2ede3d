"""Training ahead of the notebooks: what it leaves is taken, what it has begun goes on, the bits are the same."""

import os
import time

import pytest
from test_study import TINY

from tlg_lib.config import make_config
from tlg_lib.machine.locks import is_locked
from tlg_lib.runs import ahead
from tlg_lib.runs.notebook import Run
from tlg_lib.runs.study import Row


def small_run(data, folder, steps):
    rows = tuple(Row(name, name, (("seed", seed),)) for name, seed in (("a", 0), ("b", 0)))
    often = {"epoch_episodes": 0, "epoch_steps": 15, "checkpoint_every": 15}
    config = make_config("smoke", data=str(data), **{**TINY, "steps": steps, **often})
    return Run(config, (0, 1), (0,), (1,), rows, folder)


def wait_for(path, seconds=400):
    until = time.monotonic() + seconds
    while not path.is_file():
        assert time.monotonic() < until, f"{path} did not come"
        time.sleep(0.05)


@pytest.mark.slow
def test_what_is_trained_ahead_is_taken_and_what_is_begun_goes_on(tiny_voc, tmp_path, own_home, jobs_here):
    run, alone = (small_run(tiny_voc, tmp_path / name, 60) for name in ("run", "alone"))
    with ahead.Ahead(run.study(), nice=0) as beside:
        beside.begin()
        wait_for(run.job_folder("a") / "trained.json")
        wait_for(run.job_folder("b") / "checkpoint.safetensors")  # begun, most likely not finished
        assert is_locked(run.folder, ahead.LOCK)
        before = (run.job_folder("a") / "trained.json").stat().st_mtime_ns
        trained = run.train()
        assert not is_locked(run.folder, ahead.LOCK)
        beside.process.join(10)
        assert beside.process.exitcode is not None
    assert len(trained) == 4 and (run.job_folder("a") / "trained.json").stat().st_mtime_ns == before
    alone.train()
    for folder in (run.job_folder(row, fold) for row in "ab" for fold in (0, 1)):
        same = alone.folder / "jobs" / folder.name / "checkpoint.safetensors"
        weights = [torch_weights(path) for path in (folder / "checkpoint.safetensors", same)]
        assert weights[0] == weights[1]


def torch_weights(path):
    from safetensors.torch import load_file

    return {name: value.tolist() for name, value in load_file(path).items()}


def test_nothing_begins_without_data_or_on_a_large_image(tiny_voc, tmp_path, own_home):
    run = small_run(tiny_voc, tmp_path / "run", 3)
    gone = Run(run.config.replace(data=str(tmp_path / "none")), (0,), (0,), (1,), run.rows, tmp_path / "gone")
    large = Run(run.config.replace(image_size=224), (0,), (0,), (1,), run.rows, tmp_path / "large")
    for found in (None, gone, large):
        with ahead.Ahead(found and found.study()) as beside:
            beside.begin()
            assert beside.process is None
    assert ahead.one_thread_is_enough(run.config) and not ahead.one_thread_is_enough(large.config)


def test_leaving_ends_it(tiny_voc, tmp_path, own_home):
    run = small_run(tiny_voc, tmp_path / "run", 10**6)
    with ahead.Ahead(run.study(), nice=0) as beside:
        beside.begin()
        wait_for(run.job_folder("a") / "checkpoint.safetensors")
        pid = beside.process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not is_locked(run.folder, ahead.LOCK)
