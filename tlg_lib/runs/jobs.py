"""Running many jobs: worker processes of a study, and the cells of a sweep with restarts, signals and status."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..config import Config
from ..errors import TLGError
from ..machine.locks import folder_lock, is_locked, living_owner
from ..machine.parallel import one_per_core, run_jobs
from ..machine.paths import read_json, write_json
from .spec import Cell, Spec

CELL_LOCK = ".cell.lock"
SCORING = Path(__file__).with_name("study.py")  # the code of scores beside the core's
RESTARTS = 3  # of a cell whose process was killed, within one call
STATES = ("done", "failed", "running", "queued", "interrupted", "pending")


def read_status(cell: Path) -> dict:
    """The cell's status with a ``state`` of STATES; "interrupted" is a running one whose process is gone."""
    try:
        status = read_json(cell / "status.json")
        state = status["state"]
    except (OSError, ValueError, KeyError, TypeError):
        return {"state": "pending"}
    if state not in STATES:
        return {"state": "pending"}
    if state == "running" and not is_locked(cell, CELL_LOCK):
        return {**status, "state": "interrupted"}
    return status


def write_status(cell: Path, state: str, **more) -> None:
    write_json(cell / "status.json", {**more, "state": state, "time": round(time.time(), 1)})


def prepare(spec: Spec, folder: Path, threads: int) -> None:
    """Write what each cell is to run. Cells of an earlier spec stay where they are."""
    write_json(
        folder / "sweep.json",
        {
            "name": spec.name,
            "description": spec.description,
            "compare": [list(p) for p in spec.compare],
            "cells": [{"name": c.name, "setting": c.setting} for c in spec.cells],
        },
    )
    scored: set[str] = set()
    for cell in spec.cells:
        # Rows without training depend on the inputs only: one cell per fold, seed and inputs scores them.
        inputs = json.dumps({k: v for k, v in cell.config.to_dict().items() if k in INPUTS}, sort_keys=True)
        path = folder / cell.name / "cell.json"
        wanted = {
            "setting": cell.setting,
            "config": cell.config.to_dict(),
            "training_free": inputs not in scored,
            "threads": threads,
        }
        scored.add(inputs)
        if path.is_file():
            try:
                # Sums in another order differ in the last bits: a cell keeps the thread count it began with.
                wanted["threads"] = int(read_json(path)["threads"])
            except (ValueError, KeyError, TypeError, OSError, OverflowError):
                pass
        write_json(path, wanted)


INPUTS = tuple(
    "dataset data masks fold seed shots backbone backbone_weights image_size eval_episodes extra_episodes "
    "threshold".split()
)


def inputs_of(config: Config) -> dict[str, str]:
    """What a finished cell was made of beside its settings: data and code, as they are now."""
    from ..machine.code import code_digest
    from ..protocol import inputs_digest

    return {"data": inputs_digest(config), "code": code_digest(SCORING)}


def recheck(spec: Spec, folder: Path) -> None:
    """Finished cells of other data or code than those here are no longer done: they run again.

    Where the data are gone, finished cells stay as they are.
    """
    now: dict[str, dict] = {}
    for cell in spec.cells:
        status = read_status(folder / cell.name)
        if status["state"] == "done":
            key = json.dumps([cell.config.dataset, cell.config.data, cell.config.masks, cell.config.fold])
            here = now.setdefault(key, inputs_of(cell.config))
            changed = [name for name, value in here.items() if value and status.get(name) != value]
            if changed:
                write_status(folder / cell.name, "interrupted", error=f"{' and '.join(changed)} changed since it ran")


def states(spec: Spec, folder: Path) -> dict[str, dict]:
    """Status of every cell of the spec by name, in order."""
    return {cell.name: read_status(folder / cell.name) for cell in spec.cells}


def to_run(spec: Spec, folder: Path, retry: bool) -> list[Cell]:
    """Cells that still need work: all but done, queued or running ones, and failed ones unless ``retry``."""
    skip = {"done", "queued", "running"} | (set() if retry else {"failed"})
    found = states(spec, folder)
    return [cell for cell in spec.cells if found[cell.name]["state"] not in skip]


def last_lines(cell: Path, count: int = 3) -> list[str]:
    """The end of the cell's log, for lists of failures."""
    try:
        with open(cell / "log.txt", "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 8192))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    # A progress bar redraws its line with carriage returns; terminal colours are of no use in a list.
    lines = [
        re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line.rstrip("\r").split("\r")[-1]).strip() for line in text.split("\n")
    ]
    return ["".join(c for c in line if c.isprintable())[:200] for line in lines if line][-count:]


@dataclass
class Slot:
    """A place to run a cell: a share of the CPU, or one GPU (its number as CUDA counts them)."""

    label: str
    gpu: str = ""


def make_slots(cells: list[Cell], workers: int = 0) -> list[Slot]:
    """One slot per GPU when a cell may use GPUs, else ``workers`` (default: one per core, at most 8)."""
    if any(cell.config.device != "cpu" for cell in cells):
        import torch

        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        count = torch.cuda.device_count()
        names = visible.split(",") if visible else [str(i) for i in range(count)]
        if count:
            gpus = [Slot(f"gpu {name}", name) for name in names[:count]]
            return gpus[:workers] if workers else gpus
    return [Slot(f"cpu {i}") for i in range(workers or one_per_core())]


@dataclass
class Worker:
    cell: Cell
    slot: Slot
    process: subprocess.Popen
    began: float


def run_local(
    spec: Spec, folder: Path, *, workers: int = 0, retry: bool = False, notebook: str = "", board=None
) -> dict[str, dict]:
    """Run what is left of the sweep on this machine; returns every cell's status.

    A cell whose process was killed starts again, up to RESTARTS times; one that failed by itself is left for
    ``retry``. Ctrl-C or SIGTERM stops the cells and raises KeyboardInterrupt; the same call goes on later.
    Raises TLGError, code 4, when another process runs this sweep.
    """
    with folder_lock(folder):
        recheck(spec, folder)
        cells = to_run(spec, folder, retry=True)
        slots = make_slots(cells, workers)
        threads = max(1, (os.cpu_count() or 1) // len(slots))
        prepare(spec, folder, threads)
        waiting = deque(to_run(spec, folder, retry))
        running: list[Worker] = []
        kills: dict[str, int] = {}
        board = board or Lines()
        with _stop_on_signals(), board:
            try:
                while waiting or running:
                    free = [s for s in slots if all(w.slot is not s for w in running)]
                    while waiting and free:
                        running.append(_start(waiting.popleft(), free.pop(0), folder, notebook))
                        board.event(folder, running[-1].cell, "running", f"on {running[-1].slot.label}")
                    time.sleep(0.1)
                    for worker in [w for w in running if w.process.poll() is not None]:
                        running.remove(worker)
                        _ended(worker, folder, kills, waiting, board)
                    board.show(spec, folder, running)
            except BaseException:
                _stop(running, folder)
                raise
    return states(spec, folder)


def _start(cell: Cell, slot: Slot, folder: Path, notebook: str) -> Worker:
    path = folder / cell.name
    threads = str(read_json(path / "cell.json")["threads"])
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
    if slot.gpu:
        environment["CUDA_VISIBLE_DEVICES"] = slot.gpu
    # Written before the start: a parent killed right here leaves a cell that counts as interrupted.
    write_status(path, "running")
    command = [sys.executable, "-m", "tlg_lib.runs.cell", str(path), "--parent", str(os.getpid())]
    if notebook:
        command += ["--notebook", notebook]
    with open(path / "log.txt", "ab") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
    return Worker(cell, slot, process, time.monotonic())


def _ended(worker: Worker, folder: Path, kills: dict[str, int], waiting: deque, board) -> None:
    """Book a worker that is gone: done or failed by its own status, killed otherwise."""
    cell, path = worker.cell, folder / worker.cell.name
    status, code = read_status(path), worker.process.returncode
    if status["state"] in ("done", "failed"):
        board.event(folder, cell, status["state"], status.get("error", ""))
        return
    kills[cell.name] = kills.get(cell.name, 0) + 1
    why = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
    if kills[cell.name] <= RESTARTS:
        write_status(path, "interrupted", error=why)
        board.event(folder, cell, "interrupted", f"{why}, starts again")
        waiting.append(cell)
    else:
        error = f"{why} {kills[cell.name]} times (out of memory? see log.txt)"
        write_status(path, "failed", error=error)
        board.event(folder, cell, "failed", error)


def _stop(running: list[Worker], folder: Path) -> None:
    for worker in running:
        worker.process.kill()  # everything survives it, and nothing waits for a kernel that is busy
    for worker in running:
        worker.process.wait()
        if read_status(folder / worker.cell.name)["state"] not in ("done", "failed"):
            write_status(folder / worker.cell.name, "interrupted", error="stopped")


@contextmanager
def _stop_on_signals():
    """SIGTERM stops the sweep as Ctrl-C does, so that the cells are stopped too."""

    def stop(signum, frame):
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread (a notebook, a test): the default stays
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def stop(folder: Path) -> str:
    """Stop the sweep that runs in ``folder`` from another terminal; returns a line that says what it did."""
    if not is_locked(folder):
        return f"no sweep runs in {folder}"
    pid = living_owner(folder)
    try:
        os.kill(pid, signal.SIGTERM)
    except OSError as error:
        raise TLGError(f"process {pid} cannot be stopped ({error.strerror}): ask its owner", code=4) from None
    for _ in range(200):
        if not is_locked(folder):
            return f"stopped process {pid}; the same command goes on"
        time.sleep(0.1)
    raise TLGError(f"process {pid} got the signal and still runs: look at it, or kill {pid}", code=4)


class Lines:
    """Plain lines, one per change: for logs and pipes."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def event(self, folder: Path, cell: Cell, state: str, detail: str) -> None:
        text = f"{time.strftime('%H:%M:%S')} {state:11s} {cell.name}"
        print(f"{text}: {detail}" if detail else text, flush=True)

    def show(self, spec: Spec, folder: Path, running: list[Worker]) -> None:
        return None


def default_workers(config: Config) -> int:
    """CPU: one process per core (at most 8). GPU: one, as it is shared."""
    from ..machine.device import pick_device

    return 1 if pick_device(config.device).type != "cpu" else one_per_core()


def run_study_jobs(
    jobs: list[tuple[str, Callable, tuple]], workers: int, done: str, progress: bool, known: list | None = None
) -> list:
    """Run (label, function, arguments) in processes of one thread each; results in the order of the jobs.

    known: results of an earlier run, None where a job is still to be done; no process starts for the others.
    The first failure cancels what has not begun and is raised with the job's name.
    """
    results: list = list(known) if known else [None] * len(jobs)
    missing = [i for i, result in enumerate(results) if result is None]
    began, count = time.perf_counter(), len(jobs) - len(missing)
    for position, result in run_jobs([jobs[i] for i in missing], workers, _one_thread) if missing else ():
        results[missing[position]], count = result, count + 1
        if progress:
            label, seconds = jobs[missing[position]][0], time.perf_counter() - began
            print(f"{count}/{len(jobs)} {done}: {label} ({seconds:.0f} s)", flush=True)
    return results


def _one_thread() -> None:
    import torch

    if not torch.cuda.is_available():
        torch.set_num_threads(1)
