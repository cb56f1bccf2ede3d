"""Metrics against a slow count of every pixel, and against torchmetrics."""

import numpy as np
import pytest
import torch
from torchmetrics.classification import BinaryJaccardIndex

from tlg_lib.errors import TLGError
from tlg_lib.metrics import intersection_union, scores, vote


def slow_counts(prediction, truth):
    """(intersection, union) for background and foreground, pixel by pixel."""
    inter, union = [0, 0], [0, 0]
    for p, t in zip(prediction.reshape(-1).tolist(), truth.reshape(-1).tolist()):
        if t == 255:
            continue
        for value in (0, 1):
            inter[value] += int(p) == value and t == value
            union[value] += int(p) == value or t == value
    return inter, union


@pytest.fixture()
def random_case():
    rng = np.random.default_rng(0)
    truth = torch.from_numpy(rng.choice([0, 1, 255], size=(12, 9, 7), p=[0.5, 0.3, 0.2]))
    return torch.from_numpy(rng.random((12, 9, 7)) < 0.4), truth, rng.integers(0, 3, 12)


def test_counts_equal_a_pixel_by_pixel_count(random_case):
    prediction, truth, _ = random_case
    inter, union = intersection_union(prediction, truth)
    for e in range(len(truth)):
        assert ([*inter[e].tolist()], [*union[e].tolist()]) == slow_counts(prediction[e], truth[e])


def test_miou_sums_before_it_divides_and_ignores_255(random_case):
    prediction, truth, classes = random_case
    got = scores(*(x.numpy() for x in intersection_union(prediction, truth)), classes)
    expected = []
    for c in np.unique(classes):
        metric = BinaryJaccardIndex(ignore_index=255)
        expected.append(100 * float(metric(prediction[classes == c].int(), truth[classes == c])))
    assert got.miou == pytest.approx(np.mean(expected), abs=1e-4)
    assert list(got.per_class.values()) == pytest.approx(expected, abs=1e-4)
    total_i, total_u = np.zeros(2), np.zeros(2)
    for e in range(len(truth)):
        i, u = slow_counts(prediction[e], truth[e])
        total_i, total_u = total_i + i, total_u + u
    assert got.fb_iou == pytest.approx(100 * np.mean(total_i / total_u))


def test_empty_inputs_are_refused():
    with pytest.raises(TLGError, match="no episodes"):
        scores(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))
    with pytest.raises(TLGError, match="class number 4"):
        scores(np.zeros((1, 2)), np.array([[9, 0]]), np.array([4]))


def test_vote_follows_the_rule_in_words():
    """Share of the largest vote count reaches one half; no vote anywhere means no foreground."""
    rng = np.random.default_rng(1)
    predictions = torch.from_numpy(rng.random((20, 5, 4, 4)) < rng.random((20, 1, 1, 1)))
    predictions[0] = False
    got = vote(predictions)
    for b in range(20):
        votes = predictions[b].sum(0).numpy()
        expected = votes / max(1, votes.max()) >= 0.5
        assert (got[b].numpy() == expected).all()
    assert not got[0].any()


def test_one_shot_vote_is_the_prediction_and_identical_shots_change_nothing():
    prediction = torch.rand(3, 1, 8, 8) < 0.5
    assert torch.equal(vote(prediction), prediction[:, 0])
    assert torch.equal(vote(prediction.expand(-1, 5, -1, -1)), prediction[:, 0])
