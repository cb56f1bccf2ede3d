"""Counts of episodes: which threshold a figure is of, what a share of them says, several answers in one pass."""

import numpy as np
import pytest
import torch

from tlg_lib.errors import TLGError
from tlg_lib.evaluate import Counts, count_answers, count_episodes


def counts(thresholds, intersection, union, ids):
    """Of the object alone: intersection, union [T, E]; nothing of the background."""
    inter, union = (np.stack([np.zeros_like(x), x], -1) for x in map(np.array, (intersection, union)))
    blank = np.zeros((len(ids), 2), int)
    return Counts(thresholds, inter, union, blank, np.array(ids), np.zeros((len(thresholds), len(ids)), np.float32))


def test_scores_are_of_the_first_threshold_where_none_is_named():
    found = counts((0.5, 0.7), [[1, 1], [3, 1]], [[4, 4], [4, 4]], [0, 1])
    assert found.scores().miou == pytest.approx(25.0)
    assert found.scores(1).miou == pytest.approx(50.0)
    assert found.best_threshold() == 0.7


def test_a_share_of_the_episodes_counts_the_classes_that_it_shows():
    """Class means by hand; an episode that nothing of its object is in, marked nor true, shows no class."""
    found = counts((0.5, 0.7), [[2, 1, 0, 1], [1, 1, 0, 0]], [[4, 1, 0, 4], [4, 1, 0, 4]], [0, 0, 1, 2])
    chosen = np.array([True, True, True, False])
    assert found.miou_among(chosen) == pytest.approx(100 * 3 / 5)  # class 0 alone: (2 + 1) / (4 + 1)
    assert found.miou_among(chosen, 1) == pytest.approx(100 * 2 / 5)
    assert found.miou_among(~chosen) == pytest.approx(25.0)
    assert found.miou_among(np.array([False, False, True, False])) is None


class Episode:
    def __init__(self, class_id):
        self.class_id = class_id


class Batch:
    """Two of these make the truth of every episode its left half."""

    def __init__(self, episodes):
        self.episodes = episodes
        self.truth = torch.zeros(len(episodes), 4, 8, dtype=torch.long)
        self.truth[:, :, :4] = 1
        self.query_mask = torch.ones(len(episodes), 1, 4, 8)


def left(batch, columns):
    """An answer that marks so many columns from the left, with one shot."""
    probability = torch.full((len(batch.episodes), 1, 4, 8), 0.2)
    probability[..., :columns] = 0.6
    return probability


def test_several_answers_of_one_pass_are_counted_as_each_by_itself():
    episodes = [Episode(c) for c in (0, 0, 1)]
    seen = []

    def answers(batch):
        seen.append(len(batch.episodes))
        return left(batch, 2), left(batch, 8)

    narrow, wide = count_answers(answers, episodes, Batch, ((0.5,), (0.5, 0.1)), batch_size=2)
    assert seen == [2, 1]  # one pass over all three
    assert (narrow.thresholds, wide.thresholds) == ((0.5,), (0.5, 0.1))
    assert narrow.scores().miou == pytest.approx(50.0)  # 2 of the 4 columns, nothing beside them
    assert wide.scores(0).miou == wide.scores(1).miou == pytest.approx(50.0)  # 4 of 8 columns are right
    assert (narrow.mask_agreement(), wide.mask_agreement()) == (pytest.approx(25.0), pytest.approx(100.0))
    for columns, found in ((2, narrow), (8, wide)):
        alone = count_episodes(
            lambda b, columns=columns: left(b, columns), episodes, Batch, found.thresholds, batch_size=3
        )
        for name in ("intersection", "union", "agreement", "class_ids", "predicted"):
            np.testing.assert_array_equal(getattr(alone, name), getattr(found, name))


def test_counts_are_read_back_and_pickled_ones_refused(tmp_path):
    kept = counts((0.5,), [[1, 3]], [[4, 4]], [0, 1])
    kept.save(tmp_path / "counts.npz")
    assert Counts.load(tmp_path / "counts.npz").scores() == kept.scores()
    fields = vars(kept) | {"class_ids": np.array([0, None], object)}  # NumPy keeps an array of objects as a pickle
    np.savez_compressed(tmp_path / "pickled.npz", **fields)
    with pytest.raises(TLGError, match="cannot read counts .*pickled.npz .*evaluate again"):
        Counts.load(tmp_path / "pickled.npz")


def test_answers_and_thresholds_must_be_as_many_and_finite():
    episodes = [Episode(0)]
    with pytest.raises(ValueError):
        count_answers(lambda b: (left(b, 1),), episodes, Batch, ((0.5,), (0.5,)))
    with pytest.raises(TLGError, match="not finite"):
        count_episodes(lambda b: left(b, 1) / 0, episodes, lambda e: Batch(e))
