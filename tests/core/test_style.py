"""One formatter and one linter for everything: ruff, as pyproject.toml sets it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("call", [["check"], ["format", "--check"]], ids=["lint", "format"])
def test_code_is_as_ruff_would_have_it(call):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *call, "--no-cache", "tlg_lib", "tests", "data_scripts"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
