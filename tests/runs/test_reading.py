"""Rows of a run in pairs: the same queries, drawn together however often they are asked; verdicts by the interval."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from tlg_lib.config import make_config
from tlg_lib.errors import TLGError
from tlg_lib.evaluate import Counts
from tlg_lib.look.examples import causes, worst_of_each_query
from tlg_lib.runs.reading import (
    CHOSEN,
    Belief,
    believed,
    by_mask_quality,
    card_gain,
    compare,
    counts_file,
    fold_gains,
    has,
)
from tlg_lib.runs.records import Interval
from tlg_lib.runs.statistics import paired_bootstrap

QUERIES = 10  # pictures of a fold; longer lists wrap round


def counts(ious, class_ids):
    """Counts at 0.5, where half as much is right, and at the threshold of base classes, where the IoUs are these."""
    inter = np.zeros((2, len(ious), 2), np.int64)
    inter[:, :, 1] = np.round(ious) // 2, np.round(ious)
    return Counts(
        (0.5, 0.3),
        inter,
        np.full_like(inter, 100),
        np.zeros((len(ious), 2), np.int64),
        np.array(class_ids),
        np.full((2, len(ious)), 0.5),
    )


@dataclass(frozen=True)
class Run:
    config: object
    its_study: object
    experiment: object
    folds: tuple = (0, 1)
    seeds: tuple = (0,)

    def study(self):
        return self.its_study

    @property
    def inputs(self):
        return SimpleNamespace(open=lambda config: self.experiment)


@pytest.fixture
def run(tmp_path):
    """Two folds of one class each, whose first row gains 10 points on every second query over the mask."""

    def episodes(config):
        return [SimpleNamespace(query=f"q{i % QUERIES}") for i in range(40)]

    config = make_config("smoke")
    study = SimpleNamespace(job_folder=lambda row, fold, seed: tmp_path / f"{row}-fold{fold}-seed{seed}")
    experiment = SimpleNamespace(test_episodes=episodes)
    run = Run(config, study, experiment)
    for fold in run.folds:
        mask = np.arange(40) % QUERIES * 5 + 20.0
        counts(mask, [fold] * 40).save(_made(counts_file(run, "mask", fold, 0)))
        gain = 10 * (np.arange(40) % QUERIES % 2)
        counts(mask + gain, [fold] * 40).save(_made(counts_file(run, "extended-pixel", fold, 0)))
        counts((mask + gain)[:15] - 5, [fold] * 15).save(_made(counts_file(run, "wrong-support", fold, 0)))
    return run


def _made(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_a_difference_is_that_of_the_pooled_scores_and_its_units_are_queries(run):
    found = compare(run, "extended-pixel", "mask")
    assert found.difference == pytest.approx(5.0) and found.episodes == 80 and found.units == 2 * QUERIES


def test_drawing_repeated_episodes_as_if_they_were_new_believes_too_much(run):
    a, b = (Counts.load(counts_file(run, m, 0, 0)) for m in ("extended-pixel", "mask"))
    arrays = [getattr(c, n)[CHOSEN, :, 1] for c in (a, b) for n in ("intersection", "union")]
    naive, grouped = (
        paired_bootstrap(*arrays, a.class_ids, resamples=2000),
        fold_gains(run, "extended-pixel", "mask")[0],
    )
    assert grouped.high - grouped.low > 1.6 * (naive.high - naive.low)  # each query is asked four times: twice as wide


def test_a_shorter_list_is_compared_on_what_both_answered(run):
    found = compare(run, "extended-pixel", "wrong-support")
    assert found.episodes == 30 and found.difference == pytest.approx(5.0)


def test_other_episodes_are_refused(run):
    counts(np.full(40, 50.0), [7] * 40).save(counts_file(run, "mask", 1, 0))
    with pytest.raises(TLGError, match="other episodes on fold 1"):
        compare(run, "extended-pixel", "mask")


def test_what_was_not_scored_on_every_fold_is_not_there(run):
    assert has(run, "mask") and not has(run, "mask", shots=5) and not has(run, "hsnet-pixel")
    counts_file(run, "mask", 1, 0).unlink()
    assert not has(run, "mask")


def test_files_of_a_control_and_of_the_network_alone(run):
    assert counts_file(run, "wrong-support-image", 0, 0).parts[-2:] == (
        "extended-image-fold0-seed0",
        "counts-1shot-wrong.npz",
    )
    assert counts_file(run, "extended-pixel-alone", 1, 0).parts[-2:] == (
        "extended-pixel-fold1-seed0",
        "counts-1shot-alone.npz",
    )


@pytest.mark.parametrize(
    "low, high, verdict",
    [(0.1, 2, "holds here"), (-2, -0.1, "contradicted here"), (-1, 2, "open: the interval holds zero")],
)
def test_a_verdict_goes_by_the_interval_and_either_way(low, high, verdict):
    belief = Belief("x", "y", Interval((low + high) / 2, low, high, 3))
    assert belief.verdict == verdict and f"**{verdict}**" in believed([belief])
    assert verdict not in believed([belief], smoke=True) and "mean nothing" in believed([belief], smoke=True)


def test_one_value_or_none_decides_nothing():
    assert Belief("x", "y", Interval(5.0, np.nan, np.nan, 1)).verdict == "open: one value has no interval"
    assert Belief("x", "y", None).verdict == "not measured in this run"
    assert Belief("x", "y", Interval(5.0, np.nan, np.nan, 1)).figure == "+5.0"


def test_rows_of_the_card_are_compared_seed_by_seed():
    card = {"mask": [50.0], "a": [51.0, 53.0], "b": [52.0, 55.0]}
    assert card_gain(card, "b", "a").mean == pytest.approx(1.5)
    assert card_gain(card, "a", "mask").mean == pytest.approx(2.0)
    assert card_gain(card, "a", "absent") is None
    assert card_gain({"a": [50.0, 52.0], "b": [0.0, 41.0]}, "a", "b") is None, "a training that has not begun"


def test_bins_hold_pooled_ious_from_bad_to_good_masks():
    masks = np.array([90.0, 10, 50, 30])
    found = by_mask_quality(masks, {"x": counts([80, 20, 60, 40], [0] * 4)}, bins=2)["x"]
    assert found == [(20.0, 30.0), (70.0, 70.0)]


def test_the_cause_of_a_failure_is_what_heals_it():
    healing = {
        "as it is": np.array([10.0, 10, 10, 10]),
        "true query mask": np.array([70.0, 20, 25, 10]),
        "true support mask": np.array([40.0, 45, 25, 10]),
        "object": np.array([10.0, 10, 1, 10]),
    }
    expected = ["the query's mask", "the support's mask", "a small object", "the network itself"]
    assert causes(healing).tolist() == expected


def test_of_a_query_that_is_asked_again_the_worst_answer_counts():
    episodes = [SimpleNamespace(query=q) for q in "abab"]
    assert worst_of_each_query(counts([50, 20, 10, 30], [0] * 4), episodes, 5) == [2, 1]
