"""A study: the rows of one results table, trained and scored on the same episodes, folds and seeds.

Every row is a change to one base config. Jobs are independent and resumable: each has a folder
``<study>/jobs/<row>-fold<f>-seed<s>``; several run side by side on the CPU, one thread each, which for these
small tensors is faster than several threads for one. Records are long-form, one figure set per line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..config import Config, config_from_dict
from ..errors import TLGError
from ..inputs import Inputs
from ..machine.code import code_digest
from ..machine.downloads import sha256_of
from ..machine.paths import read_sealed, write_sealed
from ..machine.terminal import plain
from .jobs import SCORING, default_workers, run_study_jobs
from .records import remarks_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..baselines import Predictor
    from ..batches import EpisodeBatch
    from ..episodes import Episode
    from ..evaluate import Counts

    Answers = Callable[[EpisodeBatch], Sequence[Tensor]]  # one or several foreground probabilities [B, K, H, W]

TRAINING_FREE = "training-free"
BASE_EPISODES = 200  # base-class episodes on which a threshold is chosen


FOLDS = (0, 1, 2, 3)


def several(name: str, value, everything: tuple[int, ...]) -> tuple[int, ...]:
    """ "all", 2, "2" or "0,2" to whole numbers without repeats, in order. Raises TLGError naming the option."""
    if value == "all":
        return everything
    texts = [t.strip() for t in str(value).split(",")]
    if isinstance(value, bool) or not all(t.isdecimal() and len(t) < 10 for t in texts):
        raise TLGError(f'{name}={value!r}: expected a whole number, several as "0,1", or "all"')
    return tuple(dict.fromkeys(int(t) for t in texts))


@dataclass(frozen=True)
class Row:
    """One trained line of the table. full: also 5 shots, the wrong-support control and the best epoch; wrong: only
    that control."""

    name: str
    label: str
    overrides: tuple[tuple[str, object], ...] = ()
    full: bool = False
    wrong: bool = False


# The fully supervised rival: supports and targets drawn by hand, the plain 4D encoder, nothing of the query but pixels.
RIVAL: dict[str, object] = {"variant": "hsnet", "support_masks": "drawn", "supervision": "pixel"}


def table_rows(config: Config) -> tuple[Row, ...]:
    """The trained rows that stand beside each other in every study (docs/design.md, 3.3)."""
    image, pixel = {"supervision": "image"}, {"supervision": "pixel"}
    rows = [
        Row("extended-pixel", "TLG extended, pixel labels", items(pixel), True),
        Row("extended-image", "TLG extended, image labels", items(image), True),
        Row("extended-nomask", "TLG extended, pixel labels, no query mask", items({**pixel, "query_mask": "none"})),
        Row("rival-pixel", "4D encoder, drawn supports, pixel labels", items(RIVAL), wrong=True),
        Row("hsnet-pixel", "4D encoder alone, pixel labels", items({**pixel, "variant": "hsnet"})),
        Row("corrected-pixel", "TLG corrected, pixel labels", items({**pixel, "variant": "corrected"})),
        Row("released-pixel", "TLG as released, pixel labels", items({**pixel, "variant": "released"})),
    ]
    return tuple(rows)


def items(values: Mapping[str, object]) -> tuple[tuple[str, object], ...]:
    """Settings as ``Row.overrides`` holds them: by name, lists as tuples."""
    return tuple(sorted((k, tuple(v) if isinstance(v, list) else v) for k, v in values.items()))


def row_config(config: Config, row: Row, fold: int, seed: int) -> Config:
    """The row's config: the study's, the switches of the row's variant and supervision, its overrides."""
    return config.replace(**{**dict(row.overrides), "fold": fold, "seed": seed})


class Study:
    """Train and score ``rows`` (by default the table's) on ``folds`` and ``seeds`` below ``folder``.

    inputs: those that the caller has open.
    """

    def __init__(
        self,
        folder: str | Path,
        config: Config,
        folds=(0, 1, 2, 3),
        seeds=(0,),
        rows: tuple[Row, ...] | None = None,
        shots=(1, 5),
        inputs: Inputs | None = None,
    ):
        self.folder, self.config, self.inputs = Path(folder), config, inputs or Inputs()
        # each once: the same seed twice would be an interval of nothing
        self.folds, self.seeds, self.shots = (tuple(dict.fromkeys(given)) for given in (folds, seeds, shots))
        self.rows = tuple(rows) if rows is not None else table_rows(config)

    def job_folder(self, row: str, fold: int, seed: int) -> Path:
        return self.folder / "jobs" / f"{row}-fold{fold}-seed{seed}"

    def cells(self) -> list[tuple[Row, int, int]]:
        """Row, fold and seed of every training, in the order of what ``train`` returns."""
        return [(row, fold, seed) for seed in self.seeds for fold in self.folds for row in self.rows]

    def train(self, workers: int = 0, progress: bool = True) -> list[dict]:
        """Train every row that is not finished; returns one summary per job, in order."""
        jobs = [
            (
                f"{row.label}, fold {fold}, seed {seed}",
                train_job,
                (row_config(self.config, row, fold, seed).to_dict(), str(self.job_folder(row.name, fold, seed))),
            )
            for row, fold, seed in self.cells()
        ]
        self._prepare(progress)
        known = [finished_job(*arguments, self.inputs) for _, _, arguments in jobs]
        return run_study_jobs(in_workers(jobs), workers or default_workers(self.config), "trained", progress, known)

    def evaluate(self, workers: int = 0, progress: bool = True) -> list[dict]:
        """Score every trained row and the training-free ones; returns long-form records."""
        jobs = []
        for seed in self.seeds:
            for fold in self.folds:
                config = self.config.replace(fold=fold, seed=seed)
                folder = self.job_folder(TRAINING_FREE, fold, seed)
                jobs.append(
                    (
                        f"training-free rows, fold {fold}, seed {seed}",
                        evaluate_training_free,
                        (config.to_dict(), str(folder), self.shots),
                    )
                )
        for row, fold, seed in self.cells():
            config = row_config(self.config, row, fold, seed)
            jobs.append(
                (
                    f"{row.label}, fold {fold}, seed {seed}",
                    evaluate_trained,
                    (
                        config.to_dict(),
                        str(self.job_folder(row.name, fold, seed)),
                        row.name,
                        row.label,
                        self.shots if row.full else (self.shots[0],),
                        row.full,
                        row.wrong,
                    ),
                )
            )
        self._prepare(progress)
        known = [_FINISHED[function](*arguments, self.inputs) for _, function, arguments in jobs]
        results = run_study_jobs(in_workers(jobs), workers or default_workers(self.config), "scored", progress, known)
        found = [record for records in results for record in records]
        if progress:
            _tell_remarks(found)
        return found

    def _prepare(self, progress: bool) -> None:
        """Make data, masks and the feature cache once, before several processes would want them."""
        for fold in self.folds:
            self.inputs.open(self.config.replace(fold=fold), progress)


def _tell_remarks(records: list[dict]) -> None:
    """Once each: what must be known of a row's figures before they are compared."""
    import pandas as pd

    frame = pd.DataFrame(records)
    for label, rows in frame.groupby("label", sort=False):
        for remark in remarks_of(rows):
            print(f"note: {plain(label, line=True)}, {remark}")


_WORKER = Inputs()  # of a worker process: it opens its own, once for all the jobs that it is given


def in_workers(jobs: list[tuple[str, Callable, tuple]]) -> list[tuple[str, Callable, tuple]]:
    """The jobs (label, function, arguments) for worker processes, whose ``inputs`` come last."""
    return [(label, _in_worker, (function, *arguments)) for label, function, arguments in jobs]


def _in_worker(function: Callable, *arguments):
    return function(*arguments, _WORKER)


def train_job(config: dict, folder: str, inputs: Inputs) -> dict:
    from ..train import train

    return train(config_from_dict(config), folder, progress=False, inputs=inputs)


def evaluate_trained(
    config: dict,
    folder: str,
    name: str,
    label: str,
    shots: tuple[int, ...],
    full: bool,
    wrong: bool = False,
    inputs: Inputs | None = None,
) -> list[dict]:
    """Records of one trained network: last epoch, threshold 0.5 and the one chosen on base classes; the network alone
    where its answer was put to the vote; when ``full`` also the best epoch by the test classes, and when ``full`` or
    ``wrong`` the wrong-support control."""
    from ..train import load_trained
    from ..trust import answer

    inputs = inputs or Inputs()
    scorer = _Scorer(config_from_dict(config), folder, name, label, inputs)
    if scorer.finished is not None:
        return scorer.finished
    model = load_trained(folder, progress=False, inputs=inputs)[0]
    if scorer.config.trusted_vote:
        scorer.score(partial(answer, model), shots=shots[0], kinds=(VOTED, ALONE))
    else:
        scorer.score(_one(model.predict), shots=shots[0])
    for k in shots[1:]:
        scorer.score(_one(model.predict), shots=k)
    if full or wrong:
        scorer.score(_one(model.predict), shots=shots[0], control="wrong support")
    if full:
        best_step = _best_step(folder)
        if best_step == scorer.config.steps:
            scorer.repeat(shots=shots[0], epoch="best by test classes")
        elif best_step:
            best = load_trained(folder, "best_test", False, inputs)[0]
            scorer.score(_one(best.predict), shots=shots[0], epoch="best by test classes")
    return scorer.finish()


VOTED, ALONE = False, True  # an answer that is scored as it is, and the network's before it was put to the vote


def _one(predictor: Predictor) -> Answers:
    """A predictor as what gives one answer."""
    return lambda batch: (predictor(batch),)


def finished_job(config: dict, folder: str, inputs: Inputs) -> dict | None:
    """The summary of a finished training, found without a process of its own."""
    from ..train import finished_training

    cfg = config_from_dict(config)
    return finished_training(Path(folder), cfg, inputs.open(cfg).digest(cfg))


def _finished_trained(config: dict, folder: str, name: str, label: str, shots, full: bool, wrong: bool, inputs: Inputs):
    return _Scorer(config_from_dict(config), folder, name, label, inputs).finished


def _free_scorers(config: Config, folder: str, inputs: Inputs) -> list[_Scorer]:
    from ..baselines import FREE_ROWS

    place = lambda label: f"{folder}/{label.replace(' ', '_').replace('+', 'and')}"  # noqa: E731
    return [_Scorer(config, place(label), label, label, inputs) for label in FREE_ROWS]


def _finished_free(config: dict, folder: str, shots: tuple[int, ...], inputs: Inputs) -> list[dict] | None:
    found = [scorer.finished for scorer in _free_scorers(config_from_dict(config), folder, inputs)]
    return None if None in found else [record for records in found for record in records]


def _best_step(folder: str | Path) -> int:
    """The step after which the test classes scored best; 0 where epochs were not scored (epoch_episodes=0)."""
    try:
        best = read_sealed(Path(folder) / "trained.json")["best"]
    except (OSError, ValueError, KeyError) as error:
        raise TLGError(f"{folder} holds no finished training ({error}): `tlg train` goes on with it", code=3) from None
    return best.get("test", {}).get("step", 0)


def evaluate_training_free(
    config: dict, folder: str, shots: tuple[int, ...], inputs: Inputs | None = None
) -> list[dict]:
    """Records of the training-free rows."""
    from ..baselines import training_free
    from ..prototypes import base_consensus

    cfg, inputs = config_from_dict(config), inputs or Inputs()
    scorers = _free_scorers(cfg, folder, inputs)
    left = [scorer for scorer in scorers if scorer.finished is None]
    if left:
        experiment = inputs.open(cfg)
        predictors = training_free(experiment.backbone.levels, base_consensus(cfg, experiment).general)
        _score_in_one_pass(left, lambda batch: [predictors[scorer.label](batch) for scorer in left], shots)
    return [record for scorer in scorers for record in scorer.finished]


def _score_in_one_pass(scorers: list[_Scorer], answers: Answers, shots: tuple[int, ...]) -> None:
    """Finish rows without training: ``answers`` gives those of all scorers, so each batch is made once for all."""
    one = scorers[0]  # all are of one config
    thresholds = [(one.config.threshold, counts.best_threshold()) for counts in one.on_base(answers, len(scorers))]
    for k in shots:
        config, episodes, found = one.on_test(answers, thresholds, k)
        for scorer, counts in zip(scorers, found):
            scorer.record(config, episodes, counts, epoch="no training")
    for scorer in scorers:
        scorer.finish()


_FINISHED = {evaluate_trained: _finished_trained, evaluate_training_free: _finished_free}


class _Scorer:
    """Scores predictors of one job and writes records.json at the end; counts per episode are kept beside it."""

    def __init__(self, config: Config, folder: str | Path, name: str, label: str, inputs: Inputs):
        self.config, self.folder, self.name, self.label = config, Path(folder), name, label
        self.experiment = inputs.open(config)
        self.make = self.experiment.batches(config)
        self.stamp = {"config": config.to_dict(), "data": self.experiment.digest(config)}
        self.stamp |= {"code": code_digest(SCORING), "weights": _weights(self.folder)}
        self.records: list[dict] = []
        self.thresholds: dict[bool, float] = {}

    @property
    def finished(self) -> list[dict] | None:
        try:
            saved = read_sealed(self.folder / "records.json")
            return saved["records"] if saved["stamp"] == self.stamp else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _judged(self):
        """What makes the batches on which a threshold is chosen: with image labels no drawn mask is looked at."""
        from ..evaluate import judged_by_labels
        from ..prototypes import base_consensus

        if self.config.supervision == "pixel":
            return self.make
        consensus = base_consensus(self.config, self.experiment)
        return judged_by_labels(self.make, consensus, self.experiment.backbone.levels)

    def on_base(self, answers: Answers, number: int) -> list[Counts]:
        """Counts of ``number`` answers at all thresholds on the base-class images by which one is chosen."""
        from ..evaluate import THRESHOLDS, count_answers

        config = self.config.replace(shots=1)
        base = self.experiment.base_episodes(config, min(BASE_EPISODES, config.eval_episodes))
        return count_answers(answers, base, self._judged(), (THRESHOLDS,) * number, config.eval_batch)

    def on_test(
        self, answers: Answers, thresholds: Sequence[tuple[float, ...]], shots: int, control: str = ""
    ) -> tuple[Config, list[Episode], list[Counts]]:
        """The config with so many shots, the episodes that are scored, and the counts of each answer on them."""
        from ..evaluate import count_answers

        config = self.config.replace(shots=shots)
        episodes, batch = self.experiment.scored_episodes(config, control), max(1, config.eval_batch // shots)
        return config, episodes, count_answers(answers, episodes, self.make, thresholds, batch)

    def _choose_thresholds(self, answers: Answers, kinds: tuple[bool, ...]) -> None:
        """For each kind that has none yet the best threshold of base-class images; a vote with the mask keeps its own
        (trust.py)."""
        if self.config.trusted_vote:
            self.thresholds[VOTED] = self.config.threshold
        if not self.thresholds.keys() >= set(kinds):
            for kind, counts in zip(kinds, self.on_base(answers, len(kinds))):
                self.thresholds.setdefault(kind, counts.best_threshold())

    def score(
        self,
        answers: Answers,
        *,
        shots: int,
        control: str = "",
        epoch: str = "last",
        kinds: tuple[bool, ...] = (VOTED,),
    ) -> None:
        """Records of each answer at 0.5 and at the threshold chosen on base classes.

        kinds: what each answer is; ALONE is a row of its own with its own threshold.
        """
        self._choose_thresholds(answers, kinds)
        thresholds = [(self.config.threshold, self.thresholds[kind]) for kind in kinds]
        config, episodes, found = self.on_test(answers, thresholds, shots, control)
        for kind, counts in zip(kinds, found):
            self.record(config, episodes, counts, epoch=epoch, control=control, alone=kind == ALONE)

    def record(
        self, config: Config, episodes: list[Episode], counts: Counts, *, epoch: str, control="", alone=False
    ) -> None:
        """Keep the counts in a file of their own, and what they say as two records."""
        from ..episodes import shots_remark

        kind = (
            f"{config.shots}shot"
            + ("-wrong" if control else "")
            + ("-best" if epoch.startswith("best") else "")
            + "-alone" * alone
        )
        counts.save(self.folder / f"counts-{kind}.npz")
        data = self.experiment.data
        names, held = data.classes, data.fold_classes(config.fold)
        several = np.array([len(data.classes_in(episode.query)) > 1 for episode in episodes])
        queries = {(episode.query, episode.class_id) for episode in episodes}
        rows_several = sum(len(data.classes_in(image)) > 1 for image, _ in queries)
        for position, threshold_from in enumerate(("fixed", "base classes")):
            figures = asdict(counts.scores(position))
            figures["per_class"] = {names[c]: v for c, v in figures["per_class"].items()}
            self.records.append(
                {
                    "row": self.name + "-alone" * alone,
                    "label": self.label + ", network alone" * alone,
                    "fold": config.fold,
                    "seed": config.seed,
                    "shots": config.shots,
                    "variant": config.variant,
                    "supervision": config.supervision,
                    "query_mask": config.query_mask,
                    "control": control,
                    "epoch": epoch,
                    "threshold": counts.thresholds[position],
                    "threshold_from": threshold_from,
                    # pictures of one class, and of several: mIoU, and distinct rows of the list
                    "miou_one": counts.miou_among(~several, position),
                    "miou_several": counts.miou_among(several, position),
                    "rows_one": len(queries) - rows_several,
                    "rows_several": rows_several,
                    "agreement": counts.mask_agreement() if position == 0 else None,
                    "remarks": "; ".join(counts.remarks(position, len(held)) + shots_remark(episodes)),
                    **figures,
                }
            )

    def repeat(self, *, shots: int, epoch: str) -> None:
        """The records of the last epoch once more under another name: it was the best one."""
        same = [
            r
            for r in self.records
            if r["row"] == self.name and r["shots"] == shots and r["epoch"] == "last" and not r["control"]
        ]
        self.records += [{**record, "epoch": epoch} for record in same]

    def finish(self) -> list[dict]:
        write_sealed(self.folder / "records.json", {"stamp": self.stamp, "records": self.records})
        return self.records


def _weights(folder: Path) -> dict[str, str]:
    """SHA-256 of the files of weights in a job's folder: none for the rows without training."""
    names = ("checkpoint.safetensors", "best_test.safetensors")
    return {name: sha256_of(folder / name) for name in names if (folder / name).is_file()}
