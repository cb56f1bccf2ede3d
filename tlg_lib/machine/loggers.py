"""Training curves for other programs: the loss, the learning rate and the scores by step, by Fabric's loggers.

A training writes them beside its checkpoint, in ``curves/``: metrics.csv, or TensorBoard's events.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import TLGError

KINDS = ("csv", "tensorboard")


def check_kind(kind: str) -> None:
    """Raises TLGError for a kind that is not known, or whose package is missing."""
    from importlib.util import find_spec

    if kind not in ("", *KINDS):
        raise TLGError(f"--curves {kind}: choose csv or tensorboard")
    if kind == "tensorboard" and find_spec("tensorboard") is None:
        raise TLGError("--curves tensorboard: the package is missing: pip install tensorboard, or take csv")


class Curves:
    """Writes what a training's record (losses, history) holds and was not written yet.

    kind: one of KINDS; rate: the learning rate of a step, counted from 0. A training that goes on writes them again
    from its record, so no step is there twice.
    """

    def __init__(self, folder: Path, kind: str, rate: Callable[[int], float]):
        from lightning_fabric.loggers import CSVLogger, TensorBoardLogger

        self.rate, self.steps, self.epochs = rate, 0, 0
        for pattern in ("metrics.csv", "events.out.tfevents.*"):
            for old in (folder / "curves").glob(pattern):
                old.unlink()
        make = CSVLogger if kind == "csv" else TensorBoardLogger
        self.logger = make(folder, name="curves", version="")

    def write(self, record: dict) -> None:
        """record: ``losses``, one a step, and ``history``, one entry an epoch, as trained.json has them."""
        for step, loss in enumerate(record["losses"][self.steps :], self.steps):
            self.logger.log_metrics({"loss": loss, "lr": self.rate(step)}, step + 1)
        for row in record["history"][self.epochs :]:
            self.logger.log_metrics({"mIoU_test": row["test"], "mIoU_base": row["base"]}, row["step"])
        self.steps, self.epochs = len(record["losses"]), len(record["history"])
        self.logger.save()
