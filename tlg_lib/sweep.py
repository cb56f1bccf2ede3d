"""Batches of runs: a spec becomes cells (one config each), which run side by side and survive interruption.

A sweep's folder holds ``sweep.json`` (the spec as read), one folder per cell (``cell.json`` what to run,
``status.json`` how it went, ``log.txt``, the executed notebook, checkpoints and scores) and, rewritten after
every call, ``results.csv``, ``summary.csv``, ``comparisons.csv`` and figures (sweep_results.py). All is
decided from these files, so a sweep can be killed, resumed, extended and moved.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .config import FIELDS, PRESETS, Config, make_config
from .errors import TLGError
from .locks import folder_lock, is_locked, owner
from .paths import PACKAGE, runs_home, write_json
from .safe_yaml import read_yaml

SPECS = PACKAGE / "sweeps"
CELL_LOCK = ".cell.lock"
MOST_CELLS = 5000
RESTARTS = 3  # of a cell whose process was killed, within one call
FAILED_CODE = 8  # exit code: the sweep ended, some cells failed
STATES = ("done", "failed", "running", "queued", "interrupted", "pending")


@dataclass(frozen=True)
class Cell:
    """One run: a row of the table (``setting``) on one fold and seed. ``name`` is its folder."""

    name: str
    setting: str
    config: Config


@dataclass(frozen=True)
class Spec:
    """A checked sweep. ``compare``: pairs of settings; ``slurm``: options of the cluster (sweep_slurm.py)."""

    name: str
    description: str
    cells: tuple[Cell, ...]
    compare: tuple[tuple[str, str], ...] = ()
    slurm: dict = field(default_factory=dict)

    @property
    def settings(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.setting for cell in self.cells))


# --- reading a spec

_KEYS = {"name", "description", "preset", "set", "settings", "grid", "cells", "compare", "slurm"}


def preset_specs() -> dict[str, Path]:
    """The specs that come with the library, by name."""
    return {path.stem: path for path in sorted(SPECS.glob("*.yaml"))}


def load_spec(source: str | Path, overrides: dict | None = None) -> Spec:
    """Read and check a spec: a YAML file, or the name of one that comes with the library.

    overrides: settings for every cell, as from ``--set``; they win over the spec's.
    Raises TLGError naming the file and the entry.
    """
    known = preset_specs()
    path = known.get(str(source), Path(source))
    if not path.is_file():
        raise TLGError(f"no sweep '{source}': give a YAML file or one of {', '.join(known)}")
    return spec_from_dict(read_yaml(path), default_name=path.stem, where=str(source), overrides=overrides)


def spec_from_dict(
    values, default_name: str = "sweep", where: str = "the spec", overrides: dict | None = None
) -> Spec:
    """Check a spec given as a dictionary (the YAML's value). Raises TLGError naming the entry."""
    values = _mapping(values, where)
    unknown = sorted(set(values) - _KEYS)
    if unknown:
        raise TLGError(f"{where}: unknown entry '{unknown[0]}': the entries are {', '.join(sorted(_KEYS))}")
    name = _folder_name(values.get("name", default_name), f"{where}: name")
    preset = values.get("preset", "mini")
    if not isinstance(preset, str) or preset not in PRESETS:
        raise TLGError(f"{where}: unknown preset {_short(preset)}: choose one of {', '.join(PRESETS)}")
    common = _overrides(values.get("set"), f"{where}: set")
    last = dict(overrides or {})
    settings = _mapping(values.get("settings"), f"{where}: settings")
    grid = _grid(values.get("grid"), f"{where}: grid")
    rows = [(str(key), _overrides(value, f"{where}: settings: {key}")) for key, value in settings.items()]
    combined: list[tuple[str, dict]] = []
    size = max(1, len(rows)) * _product(len(v) for v in grid.values())
    if size > MOST_CELLS:
        raise TLGError(f"{where}: {size} cells: a sweep has at most {MOST_CELLS}, split it")
    if rows or grid:
        for setting, bundle in rows or [("", {})]:
            for combination in itertools.product(*grid.values()):
                point = dict(zip(grid, combination))
                twice = sorted(set(point) & set(bundle))
                if twice:
                    raise TLGError(
                        f"{where}: '{twice[0]}' stands in grid and in setting '{setting}': keep one"
                    )
                combined.append((setting, {**bundle, **point}))
    extra = values.get("cells") or []
    if not isinstance(extra, list):
        raise TLGError(f"{where}: cells: expected a list of mappings")
    for position, entry in enumerate(extra):
        entry = dict(_mapping(entry, f"{where}: cells: entry {position}"))
        setting = entry.pop("setting", "")
        if not isinstance(setting, str):
            raise TLGError(f"{where}: cells: entry {position}: setting must be text")
        bundle = dict(rows).get(setting, {})
        combined.append((setting, {**bundle, **_overrides(entry, f"{where}: cells: entry {position}")}))
    if not combined:
        raise TLGError(f"{where}: no cells: give grid, settings or cells")
    if len(combined) > MOST_CELLS:
        raise TLGError(f"{where}: {len(combined)} cells: a sweep has at most {MOST_CELLS}, split it")
    cells = tuple(_cell(setting, preset, {**common, **point, **last}, where) for setting, point in combined)
    _refuse_twins(cells, where)
    names = tuple(dict.fromkeys(cell.setting for cell in cells))
    compare, slurm = _pairs(values.get("compare"), names, where), _slurm(values.get("slurm"), where)
    return Spec(name, str(values.get("description", "")), cells, compare, slurm)


def _cell(setting: str, preset: str, overrides: dict, where: str) -> Cell:
    overrides = dict(overrides)
    preset = overrides.pop("preset", preset)
    try:
        config = make_config(preset, **overrides)
    except TLGError as error:
        raise TLGError(f"{where}: {error}", code=error.code) from None
    if not setting:
        shown = {k: v for k, v in overrides.items() if k not in ("fold", "seed", "data", "device")}
        setting = ", ".join(f"{k}={_short(v)}" for k, v in shown.items()) or preset
    # The digest keeps cells apart whatever their settings are called; an edited setting becomes a new cell.
    # Names stay short enough for any file system.
    slug = re.sub(r"[^A-Za-z0-9.=_-]+", "-", setting).strip("-.")[:60] or "cell"
    name = f"{slug}-fold{config.fold}-seed{config.seed}-{config.digest()[:8]}"
    return Cell(name, setting, config)


def _refuse_twins(cells: tuple[Cell, ...], where: str) -> None:
    seen: dict[str, Cell] = {}
    for cell in cells:
        other = seen.setdefault(cell.config.digest(), cell)
        if other is not cell:
            raise TLGError(
                f"{where}: '{other.setting}' and '{cell.setting}' are the same run (fold "
                f"{cell.config.fold}, seed {cell.config.seed}): drop one"
            )


def _mapping(value, where: str) -> dict:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, (str, int)) for key in value):
        raise TLGError(f"{where}: expected names with values")
    return {str(k): v for k, v in value.items()}


def _overrides(value, where: str) -> dict:
    """Names of config fields with plain values."""
    found = _mapping(value, where)
    for key, item in found.items():
        if key not in FIELDS:
            try:
                make_config("mini", **{key: item})  # raises with the closest name
            except TLGError as error:
                raise TLGError(f"{where}: {error}") from None
        _plain(item, f"{where}: {key}")
    return found


def _plain(value, where: str) -> None:
    """Numbers, text, true/false, or a short list of numbers (sizes)."""
    items = value if isinstance(value, list) else [value]
    if len(items) > 8 or not all(isinstance(v, (bool, int, float, str)) for v in items):
        raise TLGError(f"{where}: expected a number, text, true or false, or a short list of numbers")
    if any(isinstance(v, str) and (len(v) > 500 or not v.isprintable()) for v in items):
        raise TLGError(f"{where}: text must be printable and at most 500 characters")
    if any(isinstance(v, int) and abs(v) > 10**12 for v in items):
        raise TLGError(f"{where}: the number is too large")


def _grid(value, where: str) -> dict[str, list]:
    grid = _mapping(value, where)
    for key, choices in grid.items():
        if not isinstance(choices, list) or not choices:
            raise TLGError(f"{where}: {key}: expected a list of values, as [0, 1]")
        for choice in choices:
            _overrides({key: choice}, where)
    return grid


def _pairs(value, settings: tuple[str, ...], where: str) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise TLGError(f"{where}: compare: expected a list of pairs, as [[a, b]]")
    pairs = []
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(p, str) for p in pair):
            raise TLGError(f"{where}: compare: expected pairs of settings, as [a, b]")
        missing = [p for p in pair if p not in settings]
        if missing:
            raise TLGError(
                f"{where}: compare: no setting '{missing[0]}': the settings are {', '.join(settings)}"[:600]
            )
        pairs.append((pair[0], pair[1]))
    return tuple(pairs)


def _slurm(value, where: str) -> dict:
    """Options of sbatch by submitit's names; plain values only."""
    options = _mapping(value, f"{where}: slurm")
    for key, item in options.items():
        _plain(item, f"{where}: slurm: {key}")
        if not re.fullmatch(r"[a-z_]{1,40}", key):
            raise TLGError(f"{where}: slurm: '{_short(key)}' is not an option's name")
    for key in ("time_min", "signal_delay_s", "max_requeues"):
        number = options.get(key, 1)
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise TLGError(f"{where}: slurm: {key}={_short(number)}: expected a whole number")
    return options


def _folder_name(value, where: str) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", value):
        raise TLGError(f"{where}: {_short(value)}: letters, digits, '.', '_' and '-' only, at most 80")
    return value


def _product(numbers) -> int:
    result = 1
    for number in numbers:
        result *= number
    return result


def _short(value) -> str:
    text = " ".join(repr(value).split()) if not isinstance(value, str) else value
    return text if len(text) <= 60 else text[:57] + "..."


# --- the folder of a sweep


def sweep_folder(spec: Spec, out: str | Path = "") -> Path:
    return Path(out).expanduser() if out else runs_home() / "sweeps" / spec.name


def read_status(cell: Path) -> dict:
    """The cell's status with a ``state`` of STATES; "interrupted" is a running one whose process is gone."""
    try:
        status = json.loads((cell / "status.json").read_text(encoding="utf-8"))
        state = status["state"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
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
                wanted["threads"] = int(json.loads(path.read_text(encoding="utf-8"))["threads"])
            except (ValueError, KeyError, TypeError, OSError):
                pass
        write_json(path, wanted)


INPUTS = (
    "dataset",
    "data",
    "masks",
    "fold",
    "seed",
    "shots",
    "backbone",
    "backbone_weights",
    "image_size",
    "eval_episodes",
    "extra_episodes",
    "threshold",
)


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
        re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line.rstrip("\r").split("\r")[-1]).strip()
        for line in text.split("\n")
    ]
    return ["".join(c for c in line if c.isprintable())[:200] for line in lines if line][-count:]


# --- running on this machine


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
    return [Slot(f"cpu {i}") for i in range(workers or min(8, os.cpu_count() or 1))]


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
    threads = str(json.loads((path / "cell.json").read_text(encoding="utf-8"))["threads"])
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "PYTHONUNBUFFERED": "1",
    }
    if slot.gpu:
        environment["CUDA_VISIBLE_DEVICES"] = slot.gpu
    # Written before the start: a parent killed right here leaves a cell that counts as interrupted.
    write_status(path, "running")
    command = [sys.executable, "-m", "tlg_lib.sweep_cell", str(path), "--parent", str(os.getpid())]
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
    who = owner(folder)
    import socket

    if who.get("host") != socket.gethostname() or not isinstance(who.get("pid"), int):
        raise TLGError(
            f"the sweep in {folder} runs on {who.get('host', 'another machine')}: stop it there", code=4
        )
    os.kill(who["pid"], signal.SIGTERM)
    for _ in range(200):
        if not is_locked(folder):
            return f"stopped process {who['pid']}; the same command goes on"
        time.sleep(0.1)
    raise TLGError(
        f"process {who['pid']} got the signal and still runs: look at it, or kill {who['pid']}", code=4
    )


# --- telling what goes on


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


class Table:
    """A live table on a terminal: what runs with its last line, how much is done, what failed."""

    def __init__(self):
        from rich.live import Live

        self.live = Live(refresh_per_second=4, transient=False)
        self.drawn = 0.0

    def __enter__(self):
        self.live.__enter__()
        return self

    def __exit__(self, *error):
        return self.live.__exit__(*error)

    def event(self, folder: Path, cell: Cell, state: str, detail: str) -> None:
        self.drawn = 0.0

    def show(self, spec: Spec, folder: Path, running: list[Worker]) -> None:
        if time.monotonic() - self.drawn > 1:
            self.drawn = time.monotonic()
            self.live.update(status_table(spec, folder, {w.cell.name: w for w in running}))


def status_table(spec: Spec, folder: Path, running: dict[str, Worker] | None = None, every: bool = False):
    """A rich table of the sweep: running and failed cells (or every one), counts in the title."""
    import rich.table
    from rich.markup import escape

    found = states(spec, folder)
    count = {state: sum(s["state"] == state for s in found.values()) for state in STATES}
    title = f"{spec.name}: " + ", ".join(f"{n} {state}" for state, n in count.items() if n)
    table = rich.table.Table(title=escape(title), title_justify="left")
    for column in ("cell", "state", "time", "last line"):
        table.add_column(column, no_wrap=column != "last line")
    for name, status in found.items():
        state = status["state"]
        if not every and state not in ("running", "failed", "interrupted"):
            continue
        worker = (running or {}).get(name)
        seconds = time.monotonic() - worker.began if worker else status.get("seconds")
        error = status.get("error") if state in ("failed", "interrupted") else ""
        line = error or " ".join(last_lines(folder / name, 1))
        shown = f"{seconds:.0f} s" if isinstance(seconds, (int, float)) else ""
        table.add_row(escape(name), state, shown, escape(str(line)[:120]))
    return table


def failures(spec: Spec, folder: Path) -> list[str]:
    """Text lines: each failed cell, its error and the end of its log."""
    lines = []
    for name, status in states(spec, folder).items():
        if status["state"] == "failed":
            lines.append(f"failed: {name}: {status.get('error', '')}")
            lines += [f"    {line}" for line in last_lines(folder / name)]
            lines.append(f"    log: {folder / name / 'log.txt'}")
    return lines
