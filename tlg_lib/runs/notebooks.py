"""Run the notebooks in order by papermill: from a preset to executed notebooks, figures, results and a report.

A run can be stopped at any moment and started again: a notebook whose executed copy is complete for the same
source, library and parameters is skipped, and the training inside a notebook goes on from its checkpoint.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import json
import logging
import os
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..config import NAMES, PRESETS
from ..errors import TLGError
from ..machine.code import code_digest
from ..machine.locks import folder_lock
from ..machine.paths import atomic, notebooks_home, read_json, runs_home, user_path
from ..machine.safe_yaml import read_yaml
from ..machine.terminal import bare, plain
from .ahead import Ahead
from .notebook import PARAMETERS, setup, typed

LOCK_NAME = ".run.lock"
CELL_FAILED = 1  # exit code: a notebook stopped at a cell


@dataclass(frozen=True)
class Notebook:
    """One notebook on disk and the parameters that it declares, with their defaults."""

    path: Path
    parameters: dict

    @property
    def name(self) -> str:
        return self.path.stem


def find_notebooks(folder: Path | None = None) -> list[Notebook]:
    """The numbered notebooks, in order. Raises TLGError when there are none or one cannot be read."""
    folder = folder or notebooks_home()
    found = [Notebook(path, declared_parameters(path)) for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))]
    if not found:
        raise TLGError(f"no notebooks in {folder}: install from a clone with `pip install -e .`", code=3)
    return found


def declared_parameters(path: Path) -> dict:
    """Names and literal values of the cell tagged ``parameters``."""
    for cell in _read(path).cells:
        if "parameters" in cell.metadata.get("tags", []):
            try:
                return {
                    node.targets[0].id: ast.literal_eval(node.value)
                    for node in ast.parse(cell.source).body
                    if isinstance(node, ast.Assign)
                }
            except (SyntaxError, ValueError, AttributeError):
                raise TLGError(f"{path}: its parameters cell must hold `name = literal` lines only") from None
    raise TLGError(f"{path} has no cell tagged 'parameters': papermill would have nothing to set")


def read_preset(name: str) -> dict:
    """Parameters of notebooks/params/<name>.yaml, or of a bare preset.

    Raises TLGError naming what may be chosen.
    """
    folder = notebooks_home() / "params"
    known = sorted({p.stem for p in folder.glob("*.yaml")} | set(PRESETS))
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise TLGError(f"unknown preset '{name}': {hint}choose one of {', '.join(known)}")
    path = folder / f"{name}.yaml"
    values = read_yaml(path) if path.is_file() else {"preset": name}
    if not isinstance(values, dict):
        raise TLGError(f"{path}: expected lines of the form `name: value`")
    return values


def merge_parameters(preset: dict, given: dict, settings: dict, known: dict) -> dict:
    """The preset's parameters, then the named ones, then ``--set`` pairs, which may be either kind of name.

    known: the notebooks' parameters with their defaults, which say of what kind each is. Raises TLGError for a
    name that is neither a notebook parameter nor a field of the config, and for a value of another kind.
    """
    merged = {**preset, **given}
    extra = [str(merged["settings"])] if merged.get("settings") else []
    for name, value in settings.items():
        if name in known:
            merged[name] = value
        elif name in NAMES:
            if ";" in value:
                raise TLGError(f"--set {name}: ';' separates settings and cannot stand in a value")
            extra.append(f"{name}={value}")
        else:
            close = difflib.get_close_matches(name, sorted({*known, *NAMES}), n=1)
            raise TLGError(
                f"unknown parameter '{name}'"
                + (f": did you mean '{close[0]}'?" if close else f": the names are {', '.join(sorted(known))}")
            )
    for name in merged:
        if name not in known:
            raise TLGError(f"unknown parameter '{name}': the notebooks know {', '.join(sorted(known))}")
    if extra:
        merged["settings"] = "; ".join(extra)
    return {name: typed(name, value, known[name]) for name, value in merged.items()}


def run_notebooks(
    preset: str,
    given: dict | None = None,
    settings: dict | None = None,
    out: str | Path = "",
    notebooks: list[Notebook] | None = None,
    check: bool = True,
) -> Path:
    """Execute the notebooks into the run folder and return it.

    given: notebook parameters that replace the preset's; settings: ``--set`` pairs. All input is checked
    before any work; ``check=False`` leaves out the config's own checks, for notebooks that have no config.
    Raises TLGError: code 4 when another run is at work in the folder, code 1 when a cell failed (its
    executed copy stays, and the line names notebook, cell and error).
    """
    notebooks = notebooks if notebooks is not None else find_notebooks()
    known = {name: default for notebook in notebooks for name, default in notebook.parameters.items()}
    parameters = merge_parameters(read_preset(preset), given or {}, settings or {}, known)
    out = out or parameters.get("out", "")
    folder = user_path(out, follow=True) if out else runs_home() / preset
    parameters["out"] = str(folder)
    asked = None
    if check:
        asked = setup(**{name: value for name, value in parameters.items() if name in PARAMETERS}, quiet=True)
        _check_data(asked.config, named=bool(parameters.get("data")))
    library = code_digest(everything=True)
    with folder_lock(folder, name=LOCK_NAME), Ahead(asked.study() if asked else None) as ahead:
        _say(f"{preset}: {len(notebooks)} notebooks into {folder}")
        began = time.perf_counter()
        for count, notebook in enumerate(notebooks, 1):
            mine = {name: value for name, value in parameters.items() if name in notebook.parameters}
            stamp = {"source": _digest(notebook.path), "library": library, "parameters": mine, "data": _data(asked)}
            copy = folder / notebook.path.name
            head = f"[{count}/{len(notebooks)}] {notebook.name}"
            began_one = time.perf_counter()
            if _is_complete(copy, stamp):
                _say(f"{head}: done before, skipped")
            else:
                _execute(notebook, copy, mine, head)
                _sign(copy, {**stamp, "data": _data(asked)}, began_one)  # a first run has made its data meanwhile
                ahead.begin()
                _say(f"{head}: {time.perf_counter() - began_one:.0f} s")
        _say(f"all notebooks done in {time.perf_counter() - began:.0f} s")
    return folder


def _check_data(config, named: bool) -> None:
    """A named folder, and real data, must be there before anything starts; mini is made on the way. Raises TLGError."""
    from ..data.folder import open_folder
    from ..protocol import data_root

    if named or config.dataset != "mini":
        open_folder(str(data_root(config)), config.dataset, config.masks)


def _data(asked) -> str:
    """What the data of a run's folds are; "" for notebooks without a config, and where there are none yet."""
    from ..protocol import inputs_digest

    return "+".join(inputs_digest(asked.config.replace(fold=fold)) for fold in asked.folds) if asked else ""


def _execute(notebook: Notebook, copy: Path, parameters: dict, head: str) -> None:
    """One notebook. Raises TLGError, code 1, naming the cell that failed."""
    from papermill.exceptions import PapermillExecutionError

    terminal = _Terminal(head)
    try:
        _papermill(notebook, copy, parameters, terminal)
    except PapermillExecutionError as error:
        terminal.clear()
        heading = terminal.heading or "before the first heading"
        last = str(error.evalue).strip().splitlines()[-1:] or [""]
        raise TLGError(
            f"{notebook.path.name} stopped at cell {error.exec_count} ({heading}): {error.ename}: {last[0]} "
            f"(see {copy}; after a remedy, the same command goes on from there)",
            code=CELL_FAILED,
        ) from None
    terminal.clear()


def _sign(copy: Path, stamp: dict, began: float) -> None:
    """The executed copy is stamped only when every cell has run."""
    executed = _read(copy)
    executed.metadata["tlg"] = {**stamp, "seconds": round(time.perf_counter() - began, 1)}
    _write(copy, executed)


def _papermill(notebook: Notebook, copy: Path, parameters: dict, terminal: _Terminal) -> None:
    """Execute with our progress in place of papermill's bar."""
    import warnings

    from papermill.engines import NBClientEngine, papermill_engines

    class TellingEngine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, **kwargs):
            begin = nb_man.cell_start

            def cell_start(cell, *args, **kw):
                terminal.cell(nb_man.nb.cells.index(cell), nb_man.nb.cells)
                begin(cell, *args, **kw)

            nb_man.cell_start = cell_start
            return super().execute_managed_notebook(nb_man, kernel_name, **kwargs)

    papermill_engines.register("tlg", TellingEngine)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of jupyter's own modules, about their own futures
        execute_notebook(notebook.path, copy, parameters, cwd=copy.parent, stdout=terminal, engine_name="tlg")


class _Terminal:
    """Shows which cell runs and passes on what it prints, on a terminal in place, elsewhere as plain lines."""

    def __init__(self, head: str):
        self.head, self.heading, self.rest = head, "", ""
        self.live = sys.stdout.isatty()

    def cell(self, index: int, cells) -> None:
        source = str(cells[index].source)
        if cells[index].cell_type == "markdown" and source.lstrip().startswith("#"):
            self.heading = source.lstrip().splitlines()[0].lstrip("# ").strip()
        if self.live:
            line = plain(f"{self.head}  cell {index + 1}/{len(cells)}  {self.heading[:50]}", line=True)
            print(f"\r\x1b[K{line}", end="", flush=True, file=bare())

    def write(self, text: str) -> None:
        """Receives the standard output of cells; whole lines are passed on, indented."""
        *lines, self.rest = (self.rest + text).split("\n")
        self.clear()
        for line in lines:
            print(f"    {plain(line)}", flush=True)

    def flush(self) -> None:
        """papermill asks for it; every line is already flushed."""

    def clear(self) -> None:
        if self.live:
            print("\r\x1b[K", end="", flush=True, file=bare())


def _say(line: str) -> None:
    print(line, flush=True)


def _read(path: Path):
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises many kinds; each means that the file is no notebook
        raise TLGError(f"{path} is not a readable notebook ({type(error).__name__}): restore it", code=3) from None


def _write(path: Path, notebook) -> None:
    import nbformat

    with atomic(path, "w") as file:
        nbformat.write(notebook, file)


def _is_complete(copy: Path, stamp: dict) -> bool:
    """Whether the executed copy was finished from the same source, library and parameters."""
    try:
        saved = read_json(copy)["metadata"]["tlg"]
        return {name: saved[name] for name in stamp} == stamp
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _digest(path: Path) -> str:
    """Of what a notebook says (cell types and sources), so that stored outputs do not matter."""
    cells = [[cell.cell_type, cell.source] for cell in _read(path).cells]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()[:16]


START_TIMEOUT = 300  # seconds: a first import from a network drive is slow
OUTPUT_TIMEOUT = 60  # seconds for a cell's last output to arrive; nbclient's 4 are too few on a busy machine
LONGEST_FOLDER = 85  # characters; macOS takes 103 for a socket's whole path


def execute_notebook(source: Path, copy: Path, parameters: dict, *, cwd: Path, stdout, **more) -> None:
    """Run ``source`` with ``parameters`` in folder ``cwd``; the executed copy is written as the cells run.

    stdout: file-like, gets what the cells print. more: for ``papermill.execute_notebook`` (``stderr_file``,
    ``engine_name``). Raises papermill's PapermillExecutionError where a cell fails.
    """
    import papermill

    logging.getLogger("papermill").setLevel(logging.ERROR)
    with _own_sockets() as config:
        papermill.execute_notebook(
            _literal_path(source),
            _literal_path(copy),
            parameters=parameters,
            kernel_name="python3",
            progress_bar=False,
            stdout_file=stdout,
            cwd=str(cwd),
            start_timeout=START_TIMEOUT,
            iopub_timeout=OUTPUT_TIMEOUT,
            extra_arguments=["--log-level=40"],  # the kernel's own warnings are about its sockets
            config=config,
            **more,
        )


def _literal_path(path: Path) -> str:
    """papermill fills parameters into the braces of its two files' paths; doubled they stand for themselves."""
    return str(path).replace("{", "{{").replace("}", "}}")


@contextmanager
def _own_sockets():
    """A configuration of Jupyter that has the kernel talk through files in a folder of its own.

    By default a free TCP port is looked for, given back, and opened by the kernel a second later; another
    process may have it by then, and the kernel dies or hangs. TCP stays where there are no such files (Windows)
    or their path would be longer than systems allow.
    """
    from traitlets.config import Config

    with tempfile.TemporaryDirectory(prefix="tlg-", ignore_cleanup_errors=True) as folder:
        if os.name == "posix" and len(folder) <= LONGEST_FOLDER:
            yield Config({"KernelManager": {"transport": "ipc", "connection_file": f"{folder}/kernel.json"}})
        else:
            yield Config()
