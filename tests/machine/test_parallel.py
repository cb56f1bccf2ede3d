"""Worker processes: results and errors come back by job, and no worker outlives the process that started it."""

import math
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tlg_lib.errors import TLGError
from tlg_lib.machine.parallel import WorkerKilled, run_jobs


def _refuse(name):
    raise TLGError(f"no {name}", code=3)


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


def test_results_carry_their_position():
    assert dict(run_jobs([("", math.sqrt, (n * n,)) for n in range(5)], 2)) == dict(enumerate(range(5)))


def test_a_failing_job_is_named_and_a_killed_worker_told_apart():
    with pytest.raises(TLGError, match="^fold 2: no x.png$") as error:
        list(run_jobs([("fold 2", _refuse, ("x.png",))], 1))
    assert error.value.code == 3
    with pytest.raises(WorkerKilled, match="killed"):
        list(run_jobs([("fold 3", _die, ())], 1))


@pytest.mark.parametrize("as_module", [False, True])
def test_a_script_without_a_guard_is_run_once(tmp_path, as_module):
    (tmp_path / "script.py").write_text(
        "import math\n"
        "from tlg_lib.machine.parallel import APART, run_jobs\n"
        "print('once', sorted(run_jobs([('', math.sqrt, (n,)) for n in (4, 9)], 2)))\n"
        "places = APART.Queue(); places.put('queue')\n"
        "worker = APART.Process(target=places.get); worker.start(); worker.join(); print(worker.exitcode)\n"
    )
    how = ["-m", "script"] if as_module else ["script.py"]
    done = subprocess.run([sys.executable, *how], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("once [(0, 2.0), (1, 3.0)]\n0\n", 0), done.stderr


def test_a_guarded_script_may_bring_a_function_of_its_own(tmp_path):
    (tmp_path / "script.py").write_text(
        "from tlg_lib.machine.parallel import run_jobs\n"
        "def twice(n): return 2 * n\n"
        "if __name__ == '__main__': print(sorted(run_jobs([('', twice, (n,)) for n in (4, 9)], 2)))\n"
    )
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("[(0, 8), (1, 18)]\n", 0), done.stderr


def test_workers_end_when_their_parent_is_killed():
    code = (
        "import time; from tlg_lib.machine.parallel import run_jobs\n"
        "if __name__ == '__main__': list(run_jobs([('', time.sleep, (n,)) for n in (0, 300, 300)], 2))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    children, deadline = [], time.monotonic() + 90
    while len(children) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
        spawned = psutil.Process(parent.pid).children()
        children = [p for p in spawned if "spawn_main" in " ".join(p.cmdline())]
    assert len(children) == 2
    parent.kill()
    parent.wait()
    gone, alive = psutil.wait_procs(children, timeout=90)
    for process in alive:
        process.kill()
    assert not alive
