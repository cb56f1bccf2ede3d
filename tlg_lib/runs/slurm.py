"""Sweeps on a SLURM cluster through submitit: one job array, time limits, requeue after preemption.

A preempted or timed-out job is requeued by submitit and goes on from the cell's last checkpoint. Nothing is
kept in memory between calls: `tlg sweep SPEC --status` reads the cells' files and asks the cluster.
submitit pickles our function's name and the cell's path for its own jobs; no such file of others is read.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from ..errors import TLGError
from ..machine.locks import folder_lock, is_locked
from .jobs import CELL_LOCK, prepare, read_status, recheck, states, to_run, write_status
from .spec import Spec

# Our names -> submitit's; the others of spec.SLURM are handed on as they are.
OWN = {"time_min": "time", "mem_gb": "mem", "max_requeues": None}
DEFAULTS = {
    "time": 720,
    "nodes": 1,
    "ntasks_per_node": 1,
    "cpus_per_task": 4,
    "signal_delay_s": 120,
    "array_parallelism": 32,
    "use_srun": True,
}


class CellJob:
    """What a SLURM task runs: the cell's own process, so that a signal here cannot hurt the kernel.

    submitit calls ``checkpoint`` when the job is about to be preempted or has run out of time, and then
    requeues it. Training has written its checkpoint at the last ``checkpoint_every`` step; the cell is ended
    and marked, and the requeued job goes on from there.
    """

    def __init__(self, notebook: str = ""):
        self.notebook = notebook
        self.process: subprocess.Popen | None = None

    def __call__(self, cell: str) -> int:
        folder = Path(cell)
        command = [sys.executable, "-m", "tlg_lib.runs.cell", cell, "--parent", str(os.getpid())]
        if self.notebook:
            command += ["--notebook", self.notebook]
        with open(folder / "log.txt", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
            while (code := self.process.poll()) is None:  # not wait(): see checkpoint
                time.sleep(0.2)
        if read_status(folder)["state"] not in ("done", "failed"):
            why = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
            write_status(folder, "failed", error=f"{why} (out of memory? see log.txt)")
        return code

    def checkpoint(self, cell: str):
        from submitit.helpers import DelayedSubmission

        # This runs in a signal handler, perhaps in the middle of poll() with its lock held: methods of Popen
        # that take the lock would wait for ever, those of the operating system do not.
        if self.process is not None and is_locked(Path(cell), CELL_LOCK):
            os.kill(self.process.pid, signal.SIGKILL)
            for _ in range(100):
                if not is_locked(Path(cell), CELL_LOCK):
                    break
                time.sleep(0.1)
        job = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID", "")
        task = os.environ.get("SLURM_ARRAY_TASK_ID")
        write_status(Path(cell), "queued", job=f"{job}_{task}" if task else job, note="requeued after preemption")
        return DelayedSubmission(CellJob(self.notebook), cell)


def submit(spec: Spec, folder: Path, *, retry: bool = False, notebook: str = "", options: dict | None = None) -> int:
    """Submit what is left as one job array; returns the number of cells.

    options: replace those of the spec's ``slurm`` entry. Raises TLGError, code 3, when the cluster's commands
    are missing, code 2 naming an option that sbatch does not take, code 1 when sbatch refuses.
    """
    import submitit

    missing = [name for name in ("sbatch", "srun", "squeue", "scontrol") if shutil.which(name) is None]
    if missing:
        raise TLGError(
            f"no `{missing[0]}` here: --slurm works on a SLURM login node; leave it out to run locally", code=3
        )
    with folder_lock(folder):
        recheck(spec, folder)
        refresh(spec, folder)
        cells = to_run(spec, folder, retry)
        threads = int({**DEFAULTS, **spec.slurm, **(options or {})}["cpus_per_task"])
        prepare(spec, folder, threads)
        if not cells:
            return 0
        given = {**spec.slurm, **(options or {})}
        executor = submitit.SlurmExecutor(folder / "slurm", max_num_timeout=int(given.get("max_requeues", 20)))
        named = {OWN.get(k, k): v for k, v in given.items() if k != "max_requeues"}
        if "mem" in named:
            named["mem"] = f"{named['mem']}GB"
        try:
            executor.update_parameters(
                **{**DEFAULTS, "job_name": f"tlg-{spec.name}"[:60], **named}, additional_parameters={"requeue": True}
            )
        except (ValueError, TypeError) as error:
            raise TLGError(f"slurm: {str(error).splitlines()[0]}: see `tlg sweep --help`") from None
        executor.update_parameters(setup=[f"export OMP_NUM_THREADS={threads}"])
        try:
            with executor.batch():
                jobs = [executor.submit(CellJob(notebook), str((folder / cell.name).resolve())) for cell in cells]
        except (
            submitit.core.utils.FailedJobError,
            submitit.core.utils.FailedSubmissionError,
            subprocess.SubprocessError,
            OSError,
        ) as error:
            raise TLGError(f"sbatch refused the job: {' '.join(str(error).split())[-300:]}", code=1) from None
        for cell, job in zip(cells, jobs):
            # A job that has already begun wrote "running": its word counts.
            if read_status(folder / cell.name)["state"] not in ("running", "done", "failed"):
                write_status(folder / cell.name, "queued", job=job.job_id)
        return len(cells)


def refresh(spec: Spec, folder: Path) -> None:
    """Mark queued cells whose job the cluster no longer knows as interrupted: they are submitted again."""
    queued = {name: s for name, s in states(spec, folder).items() if s["state"] == "queued"}
    if not queued or shutil.which("squeue") is None:
        return
    alive = _known_jobs({n for s in queued.values() if (n := str(s.get("job", "")).split("_")[0]).isdecimal()})
    for name, status in queued.items():
        if str(status.get("job", "")) not in alive and read_status(folder / name)["state"] == "queued":
            write_status(folder / name, "interrupted", error=f"job {status.get('job')} is gone from the queue")


def _known_jobs(numbers: set[str]) -> set[str]:
    """Ids of array tasks ("12_3") and jobs ("12") that squeue lists; --array writes one task per line."""
    command = ["squeue", "--noheader", "--array", "--format=%i", "--jobs", ",".join(sorted(numbers)) or "0"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise TLGError(f"squeue does not answer ({type(error).__name__}): try again later", code=1) from None
    return {line.strip() for line in answer.stdout.splitlines() if line.strip()}


def cancel(spec: Spec, folder: Path) -> int:
    """scancel every queued or running job of the sweep; returns how many."""
    found = [s for s in states(spec, folder).values() if s["state"] in ("queued", "running")]
    jobs = sorted({str(s.get("job")) for s in found if re.fullmatch(r"\d+(_\d+)?", str(s.get("job")))})
    if jobs and shutil.which("scancel"):
        subprocess.run(["scancel", *jobs], check=False, timeout=60)
    return len(jobs)
