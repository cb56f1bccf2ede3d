"""make.py does what the Makefile does, where there is no make."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clone(tmp_path):
    """A checkout that is installed already, whose python writes down what it is called with."""
    for name in ("make.py", "pyproject.toml"):
        shutil.copy(CHECKOUT / name, tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$TLG_SMOKE $@" >> called\n[ "$FAIL" = "" ] || exit 5\n')
    python.chmod(0o755)
    (tmp_path / ".venv" / "installed").touch()
    return tmp_path


def call(clone, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "make.py", *arguments],
        cwd=clone,
        capture_output=True,
        text=True,
        env={**{k: v for k, v in os.environ.items() if k != "TLG_SMOKE"}, **environment},
    )


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
def test_run_and_test_call_what_make_calls(clone):
    makefile = (CHECKOUT / "Makefile").read_text()
    assert call(clone, "run").returncode == 0 and call(clone, "test").returncode == 0
    first, second, third, fourth = (clone / "called").read_text().splitlines()
    assert first == " -m tlg_lib.cli run mini" and "tlg run mini" in makefile
    assert second == "1 -m pytest -n 2 --dist loadfile tests -m not browser"
    books = clone / "build" / "test-home" / "notebooks"
    assert third == f" -m tlg_lib.runs.exercises --write {books}"
    assert fourth == f"1 -m pytest -n 2 --dist loadscope {books} --nbval-lax --nbval-cell-timeout=300"
    for part in (
        '-m "not browser" -n 2 --dist loadfile',
        "--nbval-lax",
        "--nbval-cell-timeout=300 -n 2 --dist loadscope",
    ):
        assert part in makefile


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
def test_a_failure_is_passed_on_and_what_is_unknown_refused(clone):
    assert call(clone, "run", FAIL="yes").returncode == 5
    done = call(clone, "runn")
    assert (
        done.returncode == 1 and "python make.py run" in done.stderr and not (clone / "called").read_text().count("nn")
    )
