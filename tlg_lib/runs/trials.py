"""Short trainings of notebooks 03 to 06: their size, the score card they share, and what a difference may be called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..config import Config
from ..errors import TLGError
from ..machine.paths import read_json, write_json
from ..machine.terminal import signed
from .notebook import SMOKE_NOTE

LONGEST, SEEDS = 2000, (0, 1, 2)  # optimizer steps of a short training, its seeds

# What notebooks 03 to 05 leave out: the query's own mask, which would hide what a part can do, and what is ours. By
# cross-entropy alone so short a training stays cautious, so they score where base classes would cut, not at 0.5.
BARE = {"variant": "corrected", "supervision": "pixel", "query_mask": "none", "support_loss": 0.0, "flip": False}
# The rows of the score card, in the order in which the notebooks add them.
ROWS = (
    "the pseudo mask alone",
    "4D encoder",
    "4D + HA",
    "4D + HA + HT",
    "4D + HA + HT + HC",
    "with the query's mask",
    "with what is ours",
)


def brief(run, **changes) -> Config:
    """The config of a short training: two fifths of the preset's steps (at most LONGEST), half its batch, half
    of its episodes.

    run: notebook.Run; a smoke run keeps its few steps. changes: settings, as in Config.replace.
    """
    config = run.config
    size = (
        {}
        if run.smoke
        else {
            "steps": min(2 * config.steps // 5, LONGEST),
            "batch": max(1, config.batch // 2),
            "eval_episodes": max(1, config.eval_episodes // 2),
        }
    )
    return config.replace(**{"epoch_episodes": 0, "shots": 1, **size, **changes})


def brief_seeds(run) -> tuple[int, ...]:
    """Three seeds, in a smoke run two."""
    return SEEDS[:2] if run.smoke else SEEDS


class ScoreCard:
    """mIoU by row and seed of one run, carried from notebook to notebook in <run>/scorecard.json.

    A row is one of ROWS; a notebook that runs again replaces its own row and leaves the others.
    """

    def __init__(self, run):
        self.path = run.folder / "scorecard.json"
        try:
            saved = read_json(self.path)
            self.scores = {row: [float(s) for s in saved[row]] for row in ROWS if row in saved}
        except FileNotFoundError:
            self.scores = {}
        except (OSError, ValueError, TypeError, AttributeError):
            raise TLGError(
                f"cannot read the score card {self.path}: delete it and run notebooks 03 to 06 again"
            ) from None

    def add(self, row: str, scores: Sequence[float]) -> None:
        """Write a row: one score in percent per seed. Raises TLGError for a row that the card does not have."""
        if row not in ROWS:
            raise TLGError(f"no row '{row}' on the score card: choose one of {', '.join(ROWS)}")
        found = {**self.scores, row: [round(float(s), 2) for s in scores]}
        self.scores = {name: found[name] for name in ROWS if name in found}
        write_json(self.path, self.scores)

    def figure(self, title: str = "The network so far, 1-shot"):
        """Rows as lines, seeds as dots (figures_inside.paired_dots)."""
        from ..look.figures_inside import paired_dots

        return paired_dots(self.scores, title=title)


def verdict(scores: Mapping[str, Sequence[float]], smoke: bool = False) -> str:
    """One line: the last setting minus the first, seed by seed, with the interval of that difference.

    scores: label -> mIoU in percent, one per seed, in the same order of seeds: a seed is one start and one order of
    episodes for all settings, so differences are taken within it (records.mean_interval).
    """
    from .records import mean_interval

    labels = list(scores)
    first, last = (np.asarray(scores[label], dtype=float) for label in (labels[0], labels[-1]))
    gain = mean_interval(last - first)
    line = (
        f"{labels[-1]} minus {labels[0]}: {signed(gain.mean)} points [{signed(gain.low)}, {signed(gain.high)}] "
        f"(by seed {', '.join(map(signed, last - first))})"
    )
    if min(first.min(), last.min()) < 1:
        line += "; a score near 0 is a training that does not yet mark anything"
    if smoke:
        return f"{line} - {SMOKE_NOTE}"
    if gain.low > 0 or gain.high < 0:
        return f"{line}: more than seeds explain here, but the runs are brief and this is one fold"
    return f"{line}: the interval holds zero, so it is open"


def network_to_look_at(run):
    """A trained network of the run's first row: (model in eval mode, config, what it is in words, its folder).

    Notebook 06's where it is finished; otherwise a brief run, trained here where it is missing, and the words say so.
    """
    from ..machine.locks import folder_lock
    from ..train import load_trained, train
    from .notebook import open_data
    from .study import finished_job

    open_data(run)
    folder = run.job_folder()
    if finished_job(run.config.to_dict(), str(folder), run.inputs) is not None:
        words = f"the network of notebook 06 ({run.rows[0].label})"
    else:
        config = brief(run)
        folder = brief_folder(run, config)
        with folder_lock(run.folder, name=".brief.lock", wait=True):
            train(config, folder, False, run.inputs)
        words = f"a network trained for {config.steps} steps only: run notebook 06 for a real one"
    model, config = load_trained(folder, progress=False, inputs=run.inputs)
    return model, config.replace(shots=1), words, folder


def brief_folder(run, config: Config):
    """Named by settings and data, so that a change of either is a new training."""
    return run.folder / "jobs" / f"brief-{config.digest()}-{run.inputs.open(config).digest(config)[:8]}"
