"""What stands beside a score: fewer classes than the fold's, supports drawn twice, a predictor that says one thing;
and values that are not finite, which reach neither a score nor a kept checkpoint."""

import numpy as np
import pytest
import torch

from tlg_lib.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from tlg_lib.config import make_config
from tlg_lib.episodes import Episode, shots_remark, test_episodes
from tlg_lib.errors import TLGError
from tlg_lib.evaluate import Counts, count_episodes


class Batch:
    """As much of an EpisodeBatch as scoring reads: two images of 4 x 4, the left half is the object."""

    truth = torch.tensor([[[1, 1, 0, 0]] * 4] * 2)
    query_mask = truth[:, None].float()


def counted(value, classes=(3, 4)):
    episodes = [Episode("a", ("b",), c) for c in classes]
    return count_episodes(lambda _: torch.full((2, 1, 4, 4), value), episodes, lambda _: Batch, (0.5, 0.95))


@pytest.mark.parametrize(
    "value, remarks",
    [
        (0.0, ["2 of 5 classes", "predicts background everywhere"]),
        (1.0, ["2 of 5 classes", "predicts foreground everywhere"]),
    ],
)
def test_a_predictor_that_always_says_the_same_is_told(value, remarks, tmp_path):
    counts = counted(value)
    assert counts.remarks(0, 5) == counts.remarks(1, 5) == remarks and counts.remarks(0, 2) == remarks[1:]
    counts.save(tmp_path / "counts.npz")
    assert Counts.load(tmp_path / "counts.npz").remarks(0, 5) == remarks


def test_each_threshold_has_its_own_remark_and_others_none():
    counts = counted(0.9)
    assert counts.remarks(0, 2) == ["predicts foreground everywhere"]
    assert counts.remarks(1, 2) == ["predicts background everywhere"]
    counts.predicted[0] = 0.25
    assert counts.remarks(0, 2) == []


def test_counts_of_earlier_versions_are_read(tmp_path):
    counts = counted(0.0)
    known = {k: v for k, v in counts.__dict__.items() if k != "predicted"}
    np.savez_compressed(tmp_path / "counts.npz", **known)
    assert Counts.load(tmp_path / "counts.npz").remarks(0, 5) == ["2 of 5 classes"]


def test_an_output_that_is_not_finite_is_no_background():
    with pytest.raises(TLGError, match="output is not finite") as caught:
        counted(float("nan"))
    assert caught.value.code == 6


def test_supports_drawn_twice_are_counted():
    rows = [(f"i{k}", 0) for k in range(3)] + [(f"j{k}", 1) for k in range(6)]
    episodes = test_episodes(rows, dataset="pascal", fold=0, shots=5, seed=0, count=9)
    by_hand = sum(len(set(e.support)) < 5 for e in episodes)
    assert by_hand == 3 and shots_remark(episodes)[0].startswith("3 of 9 episodes repeat a support")
    assert shots_remark([e for e in episodes if e.class_id == 1]) == []


@pytest.mark.parametrize("where", ["weights", "optimizer"])
def test_a_nan_never_takes_the_place_of_a_good_checkpoint(tmp_path, where):
    good = {"weights": {"w": torch.ones(3)}, "optimizer": {"0/exp_avg": torch.ones(3)}}
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, Checkpoint(make_config("smoke"), good["weights"], good["optimizer"], {}))
    bad = {**good, where: {k: v * float("nan") for k, v in good[where].items()}}
    with pytest.raises(TLGError, match="is not finite") as caught:
        save_checkpoint(path, Checkpoint(make_config("smoke"), bad["weights"], bad["optimizer"], {}))
    assert caught.value.code == 6 and torch.equal(load_checkpoint(path).weights["w"], torch.ones(3))
