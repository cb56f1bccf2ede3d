"""kill -9 at random moments of training, evaluation, mask and data generation, then the same results bit for bit.

The number of kills follows TLG_RESUME_TRIALS (default 28 in all;
`TLG_RESUME_TRIALS=200 pytest tests/core/test_resume.py -s` for the long run). Each trial starts in a
fresh folder, is killed one to three times, and then goes on to its end.
"""

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tlg_lib.checkpoints import load_checkpoint
from tlg_lib.machine.paths import read_sealed

from conftest import make_tiny_voc

TRIALS = int(os.environ.get("TLG_RESUME_TRIALS", "28"))
SHARES = {"train": 0.5, "evaluate": 0.32, "masks": 0.14, "mini": 0.04}


class Killer:
    """A warm process (resume_jobs.py) that runs jobs in children and kills them."""

    def __init__(self, home: Path, data: Path):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        script = Path(__file__).parents[1] / "resume_jobs.py"
        self.data, self.kills, self.asked = str(data), 0, 0
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert json.loads(self.process.stdout.readline())["ready"]
        self.ask(warm=True)

    def ask(self, **request) -> dict:
        self.asked += 1
        request = {"data": self.data, "number": self.asked, **request}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        while True:  # a test that ran into its time limit leaves an answer that belongs to it
            answer = json.loads(self.process.stdout.readline())
            if answer["number"] == self.asked:
                return answer

    def run(self, job: str, folder: Path) -> tuple[float, int]:
        """To the end, undisturbed; returns the seconds it took and the number of files written."""
        answer = self.ask(job=job, folder=str(folder))
        assert answer["code"] == 0, f"{job} failed in {folder}"
        return answer["seconds"], answer["writes"]

    def kill_and_finish(self, job: str, folder: Path, rng: random.Random, seconds: float, writes: int) -> list[str]:
        """One to three kills at random moments, then the rest. Returns what was done, for the message."""
        story = []
        for attempt in range(rng.choice((1, 1, 2, 3))):
            # The first is tied to a write, and so happens on any machine; a moment in seconds may come too late.
            if attempt and rng.random() < 0.7:
                how = {"time": rng.uniform(0, 0.8 * seconds)}
            else:
                how = {"write": rng.randint(1, writes), "how": rng.choice(("before", "middle", "after"))}
            answer = self.ask(job=job, folder=str(folder), **how)
            assert answer["code"] in (0, -9), f"{job}: {story} then {how}: code {answer['code']}"
            self.kills += answer["code"] == -9
            story.append(f"{how} -> {answer['code']}")
        self.run(job, folder)
        return story

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=120)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def killer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    killer = Killer(folder / "home", make_tiny_voc(folder / "voc"))
    yield killer
    print(f"\n{killer.kills} processes were killed by kill -9, every result was the same", file=sys.stderr)
    killer.close()


def training_result(folder: Path) -> dict:
    """All that training decides: weights and optimizer bit for bit, losses, history; not the seconds it took."""
    found = {}
    for name in ("checkpoint", "best_test", "best_base"):
        saved = load_checkpoint(folder / f"{name}.safetensors")
        for kind, tensors in (("w", saved.weights), ("o", saved.optimizer)):
            found |= {f"{name}/{kind}/{k}": hashlib.sha256(v.numpy().tobytes()).hexdigest() for k, v in tensors.items()}
        found[f"{name}/about"] = {k: v for k, v in saved.about.items() if k != "seconds"}
    summary = read_sealed(folder / "trained.json")
    return {**found, "trained": {k: v for k, v in summary.items() if k not in ("seconds", "weights")}}


def evaluation_result(folder: Path) -> dict:
    found = {str(p.relative_to(folder)): read_sealed(p) for p in sorted(folder.rglob("records.json"))}
    for path in sorted(folder.rglob("counts-*.npz")):
        with np.load(path) as file:
            found |= {f"{path.relative_to(folder)}/{k}": file[k].tolist() for k in file.files}
    return found


def files_result(folder: Path) -> dict:
    """Every file, byte for byte, apart from locks and the unfinished files that kills left (``.part``)."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and "lock" not in p.name and p.suffix != ".part"
    }


RESULTS = {"train": training_result, "evaluate": evaluation_result, "masks": files_result, "mini": files_result}


@pytest.mark.slow
@pytest.mark.parametrize("job", list(SHARES))
def test_kill_9_at_a_random_moment_changes_nothing(killer, tmp_path, job):
    reference, trials = tmp_path / "undisturbed", max(1, round(TRIALS * SHARES[job]))
    start = tmp_path / "start"
    if job == "evaluate":
        killer.run("train", start)
    _copy(start, reference)
    seconds, writes = killer.run(job, reference)
    expected = RESULTS[job](reference)
    assert expected, "the job left nothing to compare"
    rng = random.Random(f"{job}/{os.environ.get('TLG_RESUME_SEED', '0')}")
    before = killer.kills
    for trial in range(trials):
        folder = tmp_path / f"trial{trial}"
        _copy(start, folder)
        story = killer.kill_and_finish(job, folder, rng, seconds, writes)
        got = RESULTS[job](folder)
        different = [k for k in {**expected, **got} if got.get(k) != expected.get(k)]
        assert not different, f"{job}, trial {trial}, {story}: {different[:5]}"
        leftovers = [p.name for p in folder.rglob("*.part")]
        assert len(leftovers) <= len(story), f"{leftovers}"
    print(f"\n{job}: {trials} trials, {killer.kills - before} kills, all the same", file=sys.stderr)
    assert killer.kills - before >= trials


def _copy(source: Path, target: Path) -> None:
    import shutil

    shutil.copytree(source, target) if source.is_dir() else target.mkdir()


def test_a_longer_training_goes_on_from_a_shorter_one_only_when_asked_for_the_same(killer, tmp_path):
    """A resumed run that quietly used other settings would make the comparison above worthless."""
    killer.run("train", tmp_path / "run")
    answer = killer.ask(job="train", folder=str(tmp_path / "run"), set={"lr": 0.01})
    assert answer["code"] == 1, "another learning rate was accepted in the same folder"
