"""What a job has opened, handed on from its door. Loads no torch before something is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .config import Config

if TYPE_CHECKING:
    from .experiment import Experiment


class Inputs:
    """The experiments that a job has opened: configs of the same inputs share one, whatever fold or network they name.

    Made at a job's door (a command, a notebook's run, a worker process) and handed on to all that it calls.
    """

    def __init__(self) -> None:
        self._opened: dict[tuple, tuple[Experiment, set[str]]] = {}  # with digests of what was found right in it

    def open(self, config: Config, progress: bool = False) -> Experiment:
        """open_experiment, or the one that is open already with the rows of ``config`` checked. Raises TLGError."""
        from .experiment import open_experiment
        from .machine.device import pick_device
        from .protocol import check_rows, data_root

        names = "masks dataset backbone backbone_weights clip clip_weights image_size use_hc".split()
        names += "cache_features feature_bits".split()
        key = (data_root(config), pick_device(config.device), *(getattr(config, name) for name in names))
        if key in self._opened:
            experiment, right = self._opened[key]
            check_rows(config, experiment, right=right)
        else:
            experiment = open_experiment(config, progress)
            self._opened[key] = experiment, set()
        return experiment
