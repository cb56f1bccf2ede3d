"""Statistics against scipy, hand-computed values and simulated truth."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from tlg_lib.errors import TLGError
from tlg_lib.metrics import class_iou
from tlg_lib.runs.ladder import ladder_table
from tlg_lib.runs.records import fold_table, mean_interval, mean_over_folds
from tlg_lib.runs.statistics import paired_bootstrap
from tlg_lib.runs.tables import summarise


def test_interval_is_students_t_as_scipy_computes_it():
    values = [44.1, 43.3, 46.8, 45.2]
    low, high = scipy.stats.t.interval(0.95, 3, loc=np.mean(values), scale=scipy.stats.sem(values))
    got = mean_interval(values)
    assert (got.low, got.high) == pytest.approx((low, high), abs=1e-12)
    assert got.mean == pytest.approx(44.85) and got.count == 4


def test_interval_of_three_seeds_by_hand():
    # s = 1, n = 3; the 97.5% quantile of t with 2 degrees of freedom is 4.302653 in every table.
    got = mean_interval([1.0, 2.0, 3.0])
    assert got.half_width == pytest.approx(4.302653 / math.sqrt(3), abs=1e-6)


def test_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(1)
    inside = 0
    for _ in range(2000):
        interval = mean_interval(generator.normal(40, 2, size=4))
        inside += interval.low <= 40 <= interval.high
    assert 0.935 < inside / 2000 < 0.965


def test_one_value_has_no_interval_and_says_so():
    got = mean_interval([40.0])
    assert got.mean == 40 and math.isnan(got.low) and "no interval" in str(got)
    assert got.to_dict() == {"mean": 40.0, "count": 1}


@pytest.mark.parametrize("values", [[], [float("nan")], [1.0, float("inf")]])
def test_interval_refuses_values_that_are_not_finite(values):
    with pytest.raises(TLGError, match="finite"):
        mean_interval(values)


def test_a_mean_over_three_folds_does_not_exist():
    assert mean_over_folds({0: 1.0, 1: 2.0, 2: 3.0, 3: 6.0}) == 3.0
    assert math.isnan(mean_over_folds({0: 1.0, 1: 2.0, 3: 6.0}))


@pytest.mark.parametrize("lost", [set(), {(2, 1)}, {(0, 0), (1, 1), (3, 2)}], ids=["all", "a fold of a seed", "of all"])
def test_study_ladder_and_sweep_take_the_same_mean_and_interval_over_seeds(lost):
    generator = np.random.default_rng(1)
    values = {(f, s): generator.uniform(20, 70) for s in range(3) for f in range(4) if (f, s) not in lost}
    text = {"row": "x", "key": "x", "label": "x", "method": "x", "epoch": "last", "control": "", "metric": "miou"}
    records = [
        {**text, "fold": f, "seed": s, "shots": 1, "threshold_from": t, "class": "", "miou": v, "value": v}
        for (f, s), v in values.items()
        for t in ("fixed", "base classes")
    ]
    whole = [s for s in range(3) if all((f, s) in values for f in range(4))]
    means = np.array([np.mean([values[f, s] for f in range(4)]) for s in whole])
    frame, fixed = pd.DataFrame(records), [r for r in records if r["threshold_from"] == "fixed"]
    table = fold_table(frame).loc["x"]
    assert [table[f] for f in range(4)] == pytest.approx(
        [np.mean([values[f, s] for s in range(3) if (f, s) in values]) for f in range(4)]
    )
    line = [r for r in summarise(fixed) if r["folds"] == "0,1,2,3"]
    if not len(whole):
        assert not line and math.isnan(table["± 95%"])
        return
    half = scipy.stats.t.ppf(0.975, len(means) - 1) * scipy.stats.sem(means)
    rung = ladder_table([{**r, "row": "up-00-released"} for r in records]).iloc[0]
    assert (table["± 95%"], rung.miou, rung.miou_half) == pytest.approx((half, means.mean(), half))
    assert (line[0]["mean"], line[0]["high"], line[0]["seeds"]) == (
        pytest.approx(means.mean(), abs=1e-4), pytest.approx(means.mean() + half, abs=1e-4), ",".join(map(str, whole))
    )  # fmt: skip


def test_miou_by_hand():
    # class 0: (1 + 3) / (2 + 6) = 50%; class 7: 1 / 4 = 25%.
    assert class_iou([1, 3, 1], [2, 6, 4], [0, 0, 7]) == pytest.approx({0: 50, 7: 25})


def test_paired_bootstrap_agrees_with_scipy_on_a_mean():
    # With one class and equal unions, mIoU is a plain mean, for which scipy has the same bootstrap.
    generator = np.random.default_rng(0)
    b = generator.uniform(20, 60, 80)
    a = b + generator.normal(3, 8, 80).clip(-20, 30)
    unions = np.full(80, 100.0)
    got = paired_bootstrap(a, unions, b, unions, np.zeros(80, int), resamples=20_000)
    seed = "rng" if tuple(map(int, scipy.__version__.split(".")[:2])) >= (1, 15) else "random_state"
    expected = scipy.stats.bootstrap(
        (a, b),
        lambda x, y, axis: (x - y).mean(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=20_000,
        method="percentile",
        **{seed: np.random.default_rng(5)},
    ).confidence_interval
    assert got.difference == pytest.approx((a - b).mean())
    assert got.low == pytest.approx(expected.low, abs=0.06)
    assert got.high == pytest.approx(expected.high, abs=0.06)
    normal = 2 * scipy.stats.norm.sf(abs((a - b).mean()) / scipy.stats.sem(a - b))
    assert got.p_value == pytest.approx(normal, rel=0.6, abs=2e-3)


def test_pairing_matters_and_is_used():
    # A is always 1 point better while episodes vary by tens of points: paired, the sign is certain.
    generator = np.random.default_rng(0)
    b = generator.uniform(0, 90, 50)
    unions = np.full(50, 100.0)
    got = paired_bootstrap(b + 1, unions, b, unions, np.repeat([3, 8], 25), resamples=2000)
    assert got.low == pytest.approx(1) and got.high == pytest.approx(1) and got.p_value < 1e-3


def test_identical_settings_differ_by_nothing():
    values, unions = np.arange(1, 21.0), np.full(20, 30.0)
    got = paired_bootstrap(values, unions, values, unions, np.repeat([0, 1], 10), resamples=500)
    assert (got.difference, got.low, got.high, got.p_value) == (0, 0, 0, 1)


def test_bootstrap_interval_covers_the_truth_with_unequal_unions():
    # Truth from the whole population of 4,000 episodes, intervals from samples of 80 of them.
    generator = np.random.default_rng(3)
    size = generator.integers(50, 400, 4000).astype(float)
    a = size * generator.beta(4, 4, 4000)
    b = size * generator.beta(4, 5, 4000)
    classes = generator.integers(0, 2, 4000)
    truth = np.mean([np.subtract(class_iou(a, size, classes)[c], class_iou(b, size, classes)[c]) for c in set(classes)])
    inside = 0
    for repeat in range(150):
        pick = generator.choice(4000, 80, replace=False)
        got = paired_bootstrap(a[pick], size[pick], b[pick], size[pick], classes[pick], resamples=500, seed=repeat)
        inside += got.low <= truth <= got.high
    assert 0.88 <= inside / 150 <= 0.99


def test_episodes_of_one_query_are_drawn_together():
    # Each query is shown 5 times with the same outcome: the honest interval is that of the 20 queries.
    generator = np.random.default_rng(4)
    a, b = generator.uniform(10, 90, 20), generator.uniform(10, 90, 20)
    unions = np.full(20, 100.0)
    queries = paired_bootstrap(a, unions, b, unions, np.zeros(20, int))
    shown = [np.repeat(v, 5) for v in (a, unions, b, unions)]
    grouped = paired_bootstrap(*shown, np.zeros(100, int), groups=np.repeat(np.arange(20), 5))
    loose = paired_bootstrap(*shown, np.zeros(100, int))
    assert (grouped.low, grouped.high) == pytest.approx((queries.low, queries.high)) and grouped.units == 20
    assert loose.high - loose.low < 0.55 * (grouped.high - grouped.low)


def test_bootstrap_is_deterministic_and_refuses_nonsense():
    unions = np.full(4, 10.0)
    values = np.array([1.0, 2, 3, 4])
    same = [paired_bootstrap(values, unions, values[::-1], unions, [0, 0, 1, 1], resamples=200) for _ in range(2)]
    assert same[0] == same[1]
    with pytest.raises(TLGError, match="lengths differ"):
        paired_bootstrap(values, unions, values[:3], unions[:3], [0, 0, 1, 1])
    with pytest.raises(TLGError, match="intersection <= union"):
        paired_bootstrap(values + 10, unions, values, unions, [0, 0, 1, 1])
    for broken in (values * np.nan, values * np.inf):
        with pytest.raises(TLGError, match="intersection <= union"):
            paired_bootstrap(broken, unions, values, unions, [0, 0, 1, 1])
        with pytest.raises(TLGError, match="intersection <= union"):
            paired_bootstrap(values, unions, values, abs(broken), [0, 0, 1, 1])
