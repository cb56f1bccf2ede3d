"""One cell of a sweep in its own process: execute its notebook by papermill and write down how it went.

``python -m tlg_lib.runs.cell FOLDER [--parent PID] [--notebook FILE]``; started by the sweep or by SLURM.
The notebook (sweeps/cell.ipynb) gets the cell's folder as its only parameter and calls ``open_cell``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from ..config import Config, config_from_dict
from ..errors import TLGError
from ..inputs import Inputs
from ..machine.locks import LOCK_NAME, folder_lock, is_locked
from ..machine.parallel import end_with
from ..machine.paths import read_json
from .jobs import CELL_LOCK, inputs_of, write_status
from .notebooks import execute_notebook
from .spec import SPECS

NOTEBOOK = SPECS / "cell.ipynb"
PATIENCE = 60.0  # seconds that a new process waits for the last one's kernel to notice that it is alone


@dataclass(frozen=True)
class OpenCell:
    """What the notebook needs: the row's name, the config, where to work, whether to score the training-free rows
    too, and the inputs, opened once."""

    setting: str
    config: Config
    folder: Path
    training_free: bool
    inputs: Inputs = field(default_factory=Inputs, compare=False, repr=False)

    @property
    def shots(self) -> tuple[int, ...]:
        """1-shot is always scored; a config with more shots adds those."""
        return tuple(sorted({1, self.config.shots}))


def open_cell(folder: str | Path) -> OpenCell:
    """Read ``cell.json``. Raises TLGError, code 3, when it is missing or not ours."""
    folder = Path(folder)
    try:
        values = read_json(folder / "cell.json")
        return OpenCell(
            str(values["setting"]), config_from_dict(values["config"]), folder.resolve(), bool(values["training_free"])
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TLGError(
            f"{folder / 'cell.json'} is not a cell of a sweep ({error}): run `tlg sweep` again, it writes the file",
            code=3,
        ) from None


def save_cell_episodes(cell: OpenCell) -> list[Path]:
    """Write the test episodes of each shot count beside the scores, for paired comparisons."""
    from ..episodes import save_episodes

    paths = []
    for shots in cell.shots:
        config = cell.config.replace(shots=shots)
        paths.append(cell.folder / f"episodes-{shots}shot.json")
        save_episodes(paths[-1], cell.inputs.open(config).scored_episodes(config))
    return paths


def run_cell(folder: Path, notebook: str | Path = "") -> int:
    """Execute the cell in ``folder``; returns the exit code. The status file then says done or failed."""
    began = time.time()
    with folder_lock(folder, CELL_LOCK, wait=PATIENCE):
        try:
            write_status(folder, "running", pid=os.getpid())
            config = open_cell(folder).config
            _wait_for_old_kernel(folder)
            _execute(Path(notebook) if notebook else NOTEBOOK, folder)
        except Exception as error:
            text = error_line(error)
            print(f"error: {text}", flush=True)
            write_status(folder, "failed", error=text, seconds=round(time.time() - began, 1))
            return error.code if isinstance(error, TLGError) else 1
        write_status(folder, "done", seconds=round(time.time() - began, 1), **inputs_of(config))
        return 0


def error_line(error: Exception) -> str:
    """One line for the status: our own errors as they are, others with their type."""
    name, value = (getattr(error, "ename", ""), getattr(error, "evalue", ""))  # papermill's view of the kernel's error
    if isinstance(error, TLGError) or name == "TLGError":
        return " ".join((value or str(error)).split())[:500]
    return " ".join(f"{name or type(error).__name__}: {value or error}".split())[:500]


def _execute(notebook: Path, folder: Path) -> None:
    if not notebook.is_file():
        raise TLGError(f"no notebook {notebook}: --notebook takes an .ipynb file", code=3)
    parameters = {"folder": str(folder.resolve())}
    copy = folder / "cell.ipynb"
    execute_notebook(notebook, copy, parameters, cwd=folder, stdout=sys.stdout, stderr_file=sys.stderr)


def _wait_for_old_kernel(folder: Path) -> None:
    """A killed process leaves its kernel, which ends within seconds and locks its folders until then."""
    deadline = time.monotonic() + PATIENCE
    while any(is_locked(lock.parent) for lock in folder.rglob(LOCK_NAME)):
        if time.monotonic() > deadline:
            raise TLGError(f"something else still runs in {folder}: stop it and start again", code=4)
        time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parent", type=int, default=0)
    parser.add_argument("--notebook", default="")
    arguments = parser.parse_args()
    if arguments.parent:
        end_with(arguments.parent, 143)  # no cell runs unseen; its kernel in turn notices that this process is gone
    try:
        code = run_cell(arguments.folder, arguments.notebook)
    except TLGError as error:
        print(f"error: {error}", flush=True)
        code = error.code
    # _exit: a failed kernel leaves threads and exit hooks that may hang.
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
