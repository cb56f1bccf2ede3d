"""`make install`, `make run` and `make test` without make and bash, as on Windows: python make.py run

    python make.py install [--cpu]    .venv and the installation; --cpu: PyTorch without CUDA (4 GB less)
    python make.py run                from nothing to runs/mini/report.html
    python make.py test               unit tests, then every notebook and its exercises at smoke size

Needs Python 3.10 or newer and nothing else; the Makefile says what else there is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
STAMP = VENV / "installed"
TEST_HOME = ROOT / "build" / "test-home"
TEST = {"TLG_SMOKE": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "JUPYTER_PLATFORM_DIRS": "1"}


def call(*command: str, **environment: str) -> None:
    done = subprocess.run([str(part) for part in command], cwd=ROOT, env={**os.environ, **environment})
    if done.returncode:
        sys.exit(done.returncode)


def python() -> Path:
    return BIN / ("python.exe" if os.name == "nt" else "python")


def install(cpu: bool = False) -> None:
    """Nothing where pyproject.toml is older than the last installation."""
    if STAMP.is_file() and STAMP.stat().st_mtime >= (ROOT / "pyproject.toml").stat().st_mtime:
        return
    free, needed = shutil.disk_usage(ROOT).free >> 30, 4 if cpu else 10
    if free < needed:
        sys.exit(f"error: {free} GB free in {ROOT}, the installation takes {needed}: free some, or clone elsewhere")
    print("== making .venv and installing into it (once; some minutes, PyTorch is large)", flush=True)
    venv.create(VENV, clear=True, with_pip=True)
    pip = (python(), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    if cpu:
        call(*pip, "uv")
        call(python(), "-m", "uv", "pip", "install", "--quiet", "--torch-backend=cpu", "--editable", ".[test]")
    else:
        call(*pip, "--editable", ".[test]")
    STAMP.touch()


def run() -> None:
    call(python(), "-m", "tlg_lib.cli", "run", "mini")


def test() -> None:
    pytest = (python(), "-m", "pytest", "-n", "2", "--dist")
    call(*pytest, "loadfile", "tests", "-m", "not browser", **TEST)
    shutil.rmtree(TEST_HOME, ignore_errors=True)
    books = TEST_HOME / "notebooks"
    call(python(), "-m", "tlg_lib.runs.exercises", "--write", books)
    call(*pytest, "loadscope", books, "--nbval-lax", "--nbval-cell-timeout=300", **TEST, TLG_HOME=str(TEST_HOME))


def main(arguments: list[str]) -> None:
    targets = {"install": lambda: None, "run": run, "test": test}
    cpu = "--cpu" in arguments
    names = [argument for argument in arguments if argument != "--cpu"]
    if sys.version_info < (3, 10):  # noqa: UP036  who starts it may have another
        sys.exit("error: Python 3.10 or newer is needed")
    if not names or any(name not in targets for name in names):
        sys.exit(__doc__)
    install(cpu)
    for name in names:
        targets[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
