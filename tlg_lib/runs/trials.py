"""With and without one part: short trainings that differ in a switch, repeated over seeds, scored on one list."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..config import Config

STEPS, BATCH, EPISODES = 60, 4, 200  # of a brief run: enough to see a tendency, far from convergence

# The ladder of notebooks 03 to 05: each adds one part to the one before.
NOTHING = {"use_ha": False, "use_ht": False, "use_hc": False}
HA = {"use_ha": True, "use_ht": False, "use_hc": False}
HA_HT = {"use_ha": True, "use_ht": True, "use_hc": False}
HA_HT_HC = {"use_ha": True, "use_ht": True, "use_hc": True}


@dataclass(frozen=True)
class Trial:
    """Networks of one setting. models, miou: one per seed, trained on the same batches; config: the first seed's."""

    models: tuple
    miou: tuple[float, ...]
    config: Config


def brief_trials(run, settings: dict[str, dict], seeds: tuple[int, ...] = (0, 1, 2)) -> dict[str, Trial]:
    """Train each setting briefly with each seed and score it on the same test episodes of the run's first fold.

    run: notebook.Run; settings: label -> changes of the config. A smoke run takes its preset's few steps and two
    seeds. Finished trainings are found again. Returns label -> Trial, mIoU in percent at probability 0.5.
    """
    from ..machine.locks import folder_lock
    from ..train import load_trained, train
    from .jobs import default_workers, run_study_jobs
    from .notebook import open_data
    from .study import in_workers, train_job

    open_data(run)
    if run.smoke:
        seeds = seeds[:2]
    configs = {label: [_brief(run, **changes, seed=seed) for seed in seeds] for label, changes in settings.items()}
    places = {c: _folder(run, c) for group in configs.values() for c in group}
    with folder_lock(run.folder, name=".brief.lock", wait=True):  # notebooks 03 to 05 share some of these
        left = [
            (label, c) for label, group in configs.items() for c in group if not (places[c] / "trained.json").is_file()
        ]
        if run.smoke:  # starting a process would take longer than these trainings
            for _, config in left:
                train(config, places[config], False, run.inputs)
        elif left:
            run_study_jobs(
                in_workers(
                    [(f"{label}, seed {c.seed}", train_job, (c.to_dict(), str(places[c]))) for label, c in left]
                ),
                default_workers(run.config),
                "trained",
                True,
            )
    trials = {}
    for label, group in configs.items():
        models = tuple(load_trained(places[c], progress=False, inputs=run.inputs)[0] for c in group)
        trials[label] = Trial(models, tuple(_score(m, group[0], run) for m in models), group[0])
    return trials


def _folder(run, config: Config) -> Path:
    """Named by settings and data, so that a change of either is a new training."""
    return run.folder / "jobs" / f"brief-{config.digest()}-{run.inputs.open(config).digest(config)[:8]}"


def _score(model, config: Config, run) -> float:
    from ..evaluate import count_episodes, network_predictor

    experiment = run.inputs.open(config)
    episodes = experiment.test_episodes(config, config.eval_episodes if run.smoke else EPISODES)
    counts = count_episodes(
        network_predictor(model), episodes, experiment.batches(config), batch_size=config.eval_batch
    )
    return counts.scores().miou


def verdict(trials: dict[str, Trial], smoke: bool = False) -> str:
    """One line: the difference of the last setting to the first, seed by seed, beside the spread over seeds."""
    labels = list(trials)
    first, last = trials[labels[0]], trials[labels[-1]]
    gains = np.subtract(last.miou, first.miou)
    spread = max(np.ptp(first.miou), np.ptp(last.miou))
    line = (
        f"{labels[-1]} minus {labels[0]}: {gains.mean():+.1f} points (by seed "
        f"{', '.join(f'{g:+.1f}' for g in gains)}; seeds alone move a score by up to {spread:.1f})"
    )
    if smoke:
        return f"{line} - smoke: figures mean nothing"
    if abs(gains.mean()) <= spread:
        return f"{line}: within the noise of brief runs"
    return f"{line}: more than seeds explain here, but the runs are brief and this is one fold"


def network_to_look_at(run):
    """A trained network of the run's first row: (model in eval mode, config, what it is in words, its folder).

    Notebook 06's where it is finished; otherwise a brief run, trained here where it is missing, and the words say so.
    """
    from ..machine.locks import folder_lock
    from ..train import load_trained, train
    from .notebook import open_data

    open_data(run)
    folder = run.job_folder()
    if (folder / "trained.json").is_file():
        words = f"the network of notebook 06 ({run.rows[0].label})"
    else:
        config = _brief(run)
        folder = _folder(run, config)
        with folder_lock(run.folder, name=".brief.lock", wait=True):
            train(config, folder, False, run.inputs)
        words = f"a network trained for {config.steps} steps only: run notebook 06 for a real one"
    model, config = load_trained(folder, progress=False, inputs=run.inputs)
    return model, config.replace(shots=1), words, folder


def _brief(run, **changes) -> Config:
    """The config of a brief run; a smoke run keeps its preset's few steps."""
    small = {} if run.smoke else {"steps": STEPS, "batch": BATCH}
    return run.config.replace(epoch_episodes=0, shots=1, **{**small, **changes})
