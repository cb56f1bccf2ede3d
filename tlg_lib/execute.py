"""Execute one notebook by papermill, in a kernel that others on the machine cannot get in the way of."""

from __future__ import annotations

import logging
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

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
            str(source),
            str(copy),
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
