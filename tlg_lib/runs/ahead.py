"""The networks of notebook 06, trained beside the notebooks before it: their short trainings leave a core idle.

`tlg run` starts one process of lower priority as soon as there are data. It trains the run's rows one after the other,
in the folders where ``Run.train`` looks for them. When that is called, it ends this process, wherever it is, and goes
on from what is finished and from the last checkpoint of what is not: the same bits as without it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import TLGError
from ..machine.locks import folder_lock, is_locked, living_owner
from ..machine.parallel import APART, end_with

if TYPE_CHECKING:
    from .study import Study

LOCK = ".ahead.lock"
SMALL = 128 * 128  # pixels of images for whose tensors a second thread gains nothing
PATIENCE = 10.0  # seconds that a process may take to end


def one_thread_is_enough(config) -> bool:
    """On a CPU, for images so small that two threads take as long as one (100 steps of mini: 2.6 s and 2.5 s)."""
    from ..machine.device import pick_device

    height, width = config.image_size
    return height * width <= SMALL and pick_device(config.device).type == "cpu"


class Ahead:
    """Trains ahead of the notebooks from the first ``begin`` until it is done, stopped or left.

    nice: how much its process gives way to others, 0 (not at all) to 19.
    """

    def __init__(self, study: Study | None, nice: int = 10):
        self.study, self.nice, self.process = study, nice, None
        self.useful = study is not None and (os.cpu_count() or 1) > 1 and one_thread_is_enough(study.config)

    def __enter__(self) -> Ahead:
        return self

    def begin(self) -> None:
        """Start, once, where it is of use and there are data."""
        from ..protocol import inputs_digest

        if self.useful and self.process is None and inputs_digest(self.study.config):
            self.process = APART.Process(target=_train, args=(self.study, os.getpid(), self.nice), daemon=True)
            self.process.start()

    def __exit__(self, *error) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()


def stop(folder: Path) -> None:
    """End the process that trains ahead in ``folder``, if there is one; returns when its locks are free."""
    deadline = time.monotonic() + PATIENCE
    while is_locked(folder, LOCK) and time.monotonic() < deadline:
        with suppress(TLGError, ProcessLookupError):  # it has not written its number yet, or is gone already
            os.kill(living_owner(folder, LOCK), signal.SIGTERM)
        time.sleep(0.05)


def _train(study: Study, parent: int, nice: int) -> None:
    """All networks of the study, in order. What goes wrong is told by the notebook that meets it again."""
    import torch

    from .study import row_config, train_job

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the notebooks; the parent ends this process
    end_with(parent)
    if hasattr(os, "nice"):
        os.nice(nice)
    torch.set_num_threads(1)
    sys.stdout = open(os.devnull, "w", encoding="utf-8")
    with suppress(TLGError), folder_lock(study.folder, name=LOCK):
        for row, fold, seed in study.cells():
            config = row_config(study.config, row, fold, seed)
            train_job(config.to_dict(), str(study.job_folder(row.name, fold, seed)), study.inputs)
