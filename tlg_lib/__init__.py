"""TLG: weakly-supervised few-shot segmentation from image-level labels (arXiv 2508.16159).

``from tlg_lib import TLG, build_model, make_config, TrainingSampler, test_episodes, EpisodeDataset,
FewShotPredictor``: what most programs need. Each name is loaded when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING

from .machine.memory import keep_freed_memory

keep_freed_memory()

__version__ = "0.1.0"

PUBLIC = {  # name: module that defines it
    "Config": "config",
    "make_config": "config",
    "Episode": "episodes",
    "TrainingSampler": "episodes",
    "test_episodes": "episodes",
    "EpisodeDataset": "batches",
    "load_backbone": "backbones",
    "TLG": "model",
    "build_model": "model",
    "open_experiment": "experiment",
    "FewShotPredictor": "predict",
    "TLGError": "errors",
}
__all__ = [
    "Config",
    "make_config",
    "Episode",
    "TrainingSampler",
    "test_episodes",
    "EpisodeDataset",
    "load_backbone",
    "TLG",
    "build_model",
    "open_experiment",
    "FewShotPredictor",
    "TLGError",
]

if TYPE_CHECKING:
    from .backbones import load_backbone
    from .batches import EpisodeDataset
    from .config import Config, make_config
    from .episodes import Episode, TrainingSampler, test_episodes
    from .errors import TLGError
    from .experiment import open_experiment
    from .model import TLG, build_model
    from .predict import FewShotPredictor


def __getattr__(name: str):
    """A public name, from the module that defines it; ``import tlg_lib`` alone loads nothing."""
    if name not in PUBLIC:
        raise AttributeError(f"module 'tlg_lib' has no attribute '{name}'")
    return getattr(importlib.import_module(f".{PUBLIC[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *PUBLIC])
