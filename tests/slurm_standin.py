"""sbatch, srun, squeue, scontrol and scancel for tests: jobs run here, as detached processes, one task is preempted.

``install(folder)`` writes the five commands; they keep their state below folder/state. The environment variable
STANDIN_PREEMPT="<task>:<file>" sends SIGUSR2 to that array task once, half a second after the file appears, as SLURM
does before a preemption.
"""

from __future__ import annotations

import sys
from pathlib import Path

SBATCH = r"""
import os, re, subprocess, sys
from pathlib import Path
state = Path(os.environ["STANDIN_STATE"]); script = Path(sys.argv[1])
text = script.read_text()
options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", text, re.M))
if options.get("partition", "'main'").strip("'") == "nosuch":
    sys.exit("sbatch: error: invalid partition specified: nosuch")
number = 1000 + len(list(state.glob("job-*")))
copy = state / f"job-{number}"  # as SLURM keeps one: the submitter may move its file
copy.write_text(text)
first, last = 0, 0
array = options.get("array")
if array:
    match = re.fullmatch(r"'?(\d+)-(\d+)(?:%(\d+))?'?", array)
    first, last = int(match[1]), int(match[2])
for task in range(first, last + 1):
    name = f"{number}_{task}" if array else str(number)
    subprocess.Popen([sys.executable, str(state / "task.py"), str(number), str(task), name, str(copy)],
                     start_new_session=True, stdout=open(state / f"{name}.out", "ab"), stderr=subprocess.STDOUT)
    (state / f"queue-{name}").touch()
print(f"Submitted batch job {number}")
"""

# One array task: waits until the submitter has written its files, runs the script, again after a requeue.
TASK = r"""
import os, signal, subprocess, sys, threading, time
from pathlib import Path
state = Path(os.environ["STANDIN_STATE"]); number, task, name, script = sys.argv[1:]
environment = {**os.environ, "SLURM_JOB_ID": str(int(number) + 500 + int(task)), "SLURM_ARRAY_JOB_ID": number,
               "SLURM_ARRAY_TASK_ID": task, "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_NODEID": "0",
               "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_NODELIST": "here"}
preempt, _, marker = os.environ.get("STANDIN_PREEMPT", "").partition(":")
(state / f"task-{name}.pid").write_text(str(os.getpid()))
time.sleep(0.5)
while True:
    (state / f"starts-{name}").open("a").write("x")
    process = subprocess.Popen(["bash", script], env=environment, start_new_session=True)
    if preempt == task and not (state / "preempted").exists():
        def signal_later():
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and not Path(marker).exists():
                time.sleep(0.05)
            time.sleep(0.5)
            (state / "preempted").touch()
            for line in (state / f"pid-{number}_{task}").read_text().split():
                os.kill(int(line), signal.SIGUSR2)
        threading.Thread(target=signal_later, daemon=True).start()
    process.wait()
    requeued = state / f"requeue-{environment['SLURM_JOB_ID']}"
    again = state / f"requeue-{name}"
    if requeued.exists() or again.exists():
        requeued.unlink(missing_ok=True); again.unlink(missing_ok=True)
        continue
    break
(state / f"queue-{name}").unlink()
"""

# Notes the pid that gets the signals, then becomes the command, as srun's task does.
SRUN = r"""
import os, sys
from pathlib import Path
state = Path(os.environ["STANDIN_STATE"])
arguments = sys.argv[1:]
while arguments and arguments[0].startswith("--"):
    option = arguments.pop(0)
    if option in ("--output", "--error"):
        arguments.pop(0)
name = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
(state / f"pid-{name}").write_text(str(os.getpid()))
os.execvp(arguments[0], arguments)
"""

SQUEUE = r"""
import os
from pathlib import Path
for path in sorted(Path(os.environ["STANDIN_STATE"]).glob("queue-*")):
    print(path.name.removeprefix("queue-"))
"""

SCONTROL = r"""
import os, sys
from pathlib import Path
assert sys.argv[1] == "requeue", sys.argv
(Path(os.environ["STANDIN_STATE"]) / f"requeue-{sys.argv[2]}").touch()
"""

SCANCEL = r"""
import os, signal, sys
from pathlib import Path
state = Path(os.environ["STANDIN_STATE"])
for job in sys.argv[1:]:
    (state / f"cancelled-{job}").touch()
    (state / f"queue-{job}").unlink(missing_ok=True)
"""


def install(folder: Path) -> dict[str, str]:
    """Write the commands; returns the environment variables that put them first in the PATH."""
    import os

    state, bin_folder = folder / "state", folder / "bin"
    state.mkdir(parents=True)
    bin_folder.mkdir()
    (state / "task.py").write_text(TASK)
    for name, source in (
        ("sbatch", SBATCH),
        ("srun", SRUN),
        ("squeue", SQUEUE),
        ("scontrol", SCONTROL),
        ("scancel", SCANCEL),
    ):
        path = bin_folder / name
        path.write_text(f"#!{sys.executable}\n{source}")
        path.chmod(0o755)
    return {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "STANDIN_STATE": str(state)}
