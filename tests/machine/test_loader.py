"""Batches that workers read ahead are those of this process, to the bit; workers die with their parent, and told."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
import torch

from tlg_lib.checkpoints import load_checkpoint
from tlg_lib.errors import TLGError
from tlg_lib.experiment import open_experiment
from tlg_lib.machine import loader
from tlg_lib.machine.parallel import WorkerKilled
from tlg_lib.train import _Shares, train

from conftest import make_tiny_voc
from resume_jobs import tiny_config


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLG_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr(loader, "FEW", 0)
        yield


def config_of(voc, **changes):
    settings = {"cache_features": "off", "epoch_episodes": 0, "support_loss": 0.6, **changes}
    return tiny_config(str(voc), **settings)


def tensors(batch):
    yield from (batch.query_mask, batch.support_mask, batch.query_target, batch.support_target, batch.truth)
    yield from (batch.class_ids, *batch.query, *(m for maps in batch.support for m in maps))


def batches(config, begin=0):
    experiment = open_experiment(config, progress=False)
    groups = _Shares(config, experiment.sampler(config), begin)
    return list(experiment.batches(config).each(groups, training=True))


def same(one, other):
    assert [b.episodes for b in one] == [b.episodes for b in other]
    return all(torch.equal(x, y) for a, b in zip(one, other) for x, y in zip(tensors(a), tensors(b), strict=True))


def test_neither_the_number_of_workers_nor_where_training_goes_on_changes_a_bit(tiny_voc):
    config = config_of(tiny_voc, steps=6, batch=4, accumulate=2)
    expected = batches(config)
    assert len(expected) == 12 and len(expected[0].episodes) == 2
    assert not torch.equal(expected[0].truth, expected[1].truth), "other groups are other pictures"
    assert same(expected, batches(config.replace(workers=1)))
    assert same(expected[8:], batches(config.replace(workers=3), begin=4)), "in the middle of an epoch"


def test_an_image_that_several_episodes_name_is_read_once(tiny_voc, monkeypatch):
    config = config_of(tiny_voc, batch=8)
    experiment = open_experiment(config, progress=False)
    make, data, seen = experiment.batches(config), experiment.data, []
    episodes = experiment.sampler(config).batch(0)
    episodes += [type(e)(e.support[0], (e.query,), e.class_id) for e in episodes]
    monkeypatch.setattr(data, "image", lambda i, real=data.image: seen.append(i) or real(i))
    batch = make(episodes)
    assert sorted(seen) == sorted({e.query for e in episodes} | {s for e in episodes for s in e.support})
    for layer, map_ in enumerate(batch.query):
        assert torch.equal(map_[8:], batch.support[0][layer][:8]) and torch.equal(map_[:8], batch.support[0][layer][8:])


def test_training_with_workers_learns_the_same_and_goes_on_with_another_number(tiny_voc, tmp_path):
    config, digests = config_of(tiny_voc, steps=4, checkpoint_every=2, epoch_steps=4), {}
    for name, first, then in (("none", 0, 0), ("changed", 2, 1)):
        folder = tmp_path / name
        if first != then:  # stopped after 2 steps by a step that fails
            with pytest.MonkeyPatch.context() as patch:
                _stop_at(patch, 3)
                with pytest.raises(KeyboardInterrupt):
                    train(config.replace(workers=first), folder, progress=False)
            assert load_checkpoint(folder / "checkpoint.safetensors").about["step"] == 2
        losses = train(config.replace(workers=then), folder, progress=False)["losses"]
        weights = load_checkpoint(folder / "checkpoint.safetensors").weights
        digests[name] = losses, {k: v.numpy().tobytes() for k, v in weights.items()}
    assert digests["none"] == digests["changed"]


def _stop_at(patch, stop):
    from tlg_lib import train as module

    def stops(*arguments, real=module._step):
        if arguments[-1] == stop:
            raise KeyboardInterrupt
        return real(*arguments)

    patch.setattr(module, "_step", stops)


def test_a_file_that_cannot_be_read_is_told_as_without_workers(tmp_path):
    config = config_of(make_tiny_voc(tmp_path / "voc"), steps=8, workers=2)
    experiment = open_experiment(config, progress=False)
    groups = _Shares(config, experiment.sampler(config), 0)
    victim = experiment.data.image_path(groups[5][0].query)
    victim.write_bytes(victim.read_bytes()[:300])
    with pytest.raises(TLGError) as caught:
        list(experiment.batches(config).each(groups))
    with pytest.raises(TLGError) as alone:
        list(experiment.batches(config.replace(workers=0)).each(groups))
    assert (str(caught.value), caught.value.code) == (str(alone.value), 3) and victim.name in str(caught.value)


def readers() -> list[psutil.Process]:
    """The worker processes of this one that are alive: what is only waited for has no command line any more."""
    alive = [c for c in psutil.Process().children() if c.status() != psutil.STATUS_ZOMBIE]
    return [c for c in alive if "spawn_main" in " ".join(c.cmdline())]


def test_a_worker_that_is_killed_is_one_line(tiny_voc, tmp_path, monkeypatch):
    from tlg_lib import train as module

    def kills(*arguments, real=module._step):
        if arguments[-1] == 2:
            for child in readers():
                child.kill()
        return real(*arguments)

    monkeypatch.setattr(module, "_step", kills)
    config = config_of(tiny_voc, steps=200, checkpoint_every=1, workers=2)
    with pytest.raises(WorkerKilled, match="a process that reads images was killed.*workers=1") as caught:
        train(config, tmp_path / "run", progress=False)
    assert "\n" not in str(caught.value) and caught.value.__cause__ is None
    assert load_checkpoint(tmp_path / "run" / "checkpoint.safetensors").about["step"] >= 1
    assert not readers()


def test_the_other_workers_are_gone_once_one_death_is_told(tiny_voc):
    """A second death would be told by a signal at any later moment, outside of whatever handles the first."""
    config = config_of(tiny_voc, steps=200, workers=2)
    experiment = open_experiment(config, progress=False)
    groups = _Shares(config, experiment.sampler(config), 0)
    theirs = signal.getsignal(signal.SIGCHLD)
    try:
        with pytest.raises(WorkerKilled) as told:
            for number, _ in enumerate(experiment.batches(config).each(groups, training=True)):
                if number == 0:
                    # PyTorch's handler taken away, whichever thread would hear it: found by waiting for a batch
                    theirs = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    readers()[0].kill()
        assert told.value and not readers()
    finally:
        signal.signal(signal.SIGCHLD, theirs)


def test_kill_9_of_the_parent_leaves_no_worker(tiny_voc, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys, time
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        if __name__ == "__main__":
            from tlg_lib.machine import loader
            from tlg_lib.experiment import open_experiment
            from tlg_lib.train import _Shares
            from resume_jobs import tiny_config
            loader.FEW = 0
            config = tiny_config({str(tiny_voc)!r}, cache_features="off", workers=2, steps=500)
            experiment = open_experiment(config, False)
            for batch in experiment.batches(config).each(_Shares(config, experiment.sampler(config), 0)):
                print("reading", flush=True)
                time.sleep(60)
        """)
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout.readline() == "reading\n"
        workers = psutil.Process(parent.pid).children(recursive=True)
        assert len([w for w in workers if "spawn_main" in " ".join(w.cmdline())]) == 2
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        parent.stdout.close()
    deadline = time.monotonic() + 20
    while any(w.is_running() and w.status() != psutil.STATUS_ZOMBIE for w in workers):
        assert time.monotonic() < deadline, "workers outlived the process that started them"
        time.sleep(0.1)
