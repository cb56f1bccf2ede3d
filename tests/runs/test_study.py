"""A study trains and scores its rows on the same episodes, side by side, and gives the same figures again."""

import json

import numpy as np
import pytest
import torch

from tlg_lib.baselines import fusions, joint_prototype, support_against_background
from tlg_lib.batches import EpisodeBatch
from tlg_lib.commands.options import cells
from tlg_lib.config import make_config
from tlg_lib.errors import TLGError
from tlg_lib.evaluate import Counts
from tlg_lib.experiment import open_experiment
from tlg_lib.prototypes import prototype_probability, query_mask_alone
from tlg_lib.runs.jobs import run_study_jobs
from tlg_lib.runs.study import Row, Study, items, row_config, table_rows

from conftest import SMALL

TINY = dict(
    SMALL,
    dataset="pascal",
    steps=3,
    batch=2,
    epoch_steps=2,
    checkpoint_every=2,
    epoch_episodes=2,
    eval_episodes=6,
    use_hc=False,
)


def test_rows_change_what_they_name_and_keep_the_rest():
    config = make_config("mini", steps=77, lr=1e-3)
    rows = {row.name: row_config(config, row, fold=2, seed=5) for row in table_rows(config)}
    assert all((c.steps, c.lr, c.fold, c.seed) == (77, 1e-3, 2, 5) for c in rows.values())
    assert rows["extended-image"].supervision == "image"
    assert rows["extended-nomask"].query_mask == "none"
    assert rows["hsnet-pixel"].variant == "hsnet" and not rows["hsnet-pixel"].use_ha
    rival = rows["rival-pixel"]
    assert (rival.support_masks, rival.query_mask, rival.supervision) == ("drawn", "none", "pixel")
    assert rival.replace(support_masks="pseudo") == rows["hsnet-pixel"]
    assert {"transport", "train_hetero"} <= rows["released-pixel"].as_released


def test_a_seed_or_fold_named_twice_is_trained_and_counted_once(tmp_path):
    study = Study(tmp_path, make_config("mini"), folds=(0, 0, 1), seeds=(1, 1), rows=(Row("a", "A"),))
    assert [(fold, seed) for _, fold, seed in study.cells()] == [(0, 1), (1, 1)]
    assert cells("0,0,1", "1,1") == ((0, 1), (1,))


@pytest.mark.slow
def test_study_end_to_end(tiny_voc, tmp_path, own_home, request):
    config = make_config("smoke", data=str(tiny_voc), **TINY)
    rows = (Row("a", "A", (), full=True), Row("b", "B", (("variant", "hsnet"), ("use_hc", False)), wrong=True))
    study = Study(tmp_path / "study", config, folds=(0, 3), rows=rows, shots=(1, 2))
    trained = study.train(workers=2, progress=False)
    records = study.evaluate(workers=2, progress=False)
    assert [t["step"] for t in trained] == [3] * 4

    # a: 1-shot, 2-shot, wrong support, best epoch, its network alone; b: 1-shot, wrong support; six
    # training-free rows: 1- and 2-shot; two thresholds.
    assert len(records) == 2 * 2 * (5 + 2 + 6 * 2)
    assert {r["episodes"] for r in records} == {6}
    mask = [r for r in records if r["row"] == "query pseudo mask"]
    assert all(r["agreement"] in (None, 100.0) for r in mask)

    # The same episodes for every row, and figures that follow from the counts on disk.
    for fold in (0, 3):
        a, b = (Counts.load(study.job_folder(name, fold, 0) / "counts-1shot.npz") for name in "ab")
        assert np.array_equal(a.class_ids, b.class_ids)
        record = next(
            r
            for r in records
            if r["row"] == "a"
            and r["fold"] == fold
            and r["threshold_from"] == "fixed"
            and r["shots"] == 1
            and not r["control"]
            and r["epoch"] == "last"
        )
        assert record["miou"] == a.scores(0).miou
        _assert_split(record, a, config.replace(fold=fold))

    # Again: nothing is trained twice; from nothing, one process gives the same bits as two.
    before = {p: p.stat().st_mtime_ns for p in study.folder.rglob("*.safetensors")}
    assert study.train(workers=1, progress=False) == trained
    assert study.evaluate(workers=1, progress=False) == records
    assert before == {p: p.stat().st_mtime_ns for p in study.folder.rglob("*.safetensors")}
    request.getfixturevalue("jobs_here")
    fresh = Study(tmp_path / "fresh", config, folds=(3,), rows=rows, shots=(1, 2))
    fresh.train(workers=1, progress=False)
    again = fresh.evaluate(workers=1, progress=False)
    assert json.dumps(again) == json.dumps([r for r in records if r["fold"] == 3])


@pytest.mark.slow
@pytest.mark.parametrize("supervision", ["pixel", "image"])
def test_a_vote_keeps_its_threshold(tiny_voc, tmp_path, own_home, jobs_here, supervision):
    """Whoever drew the targets; the network alone, and what takes no vote, is cut where base classes say."""
    config = make_config("smoke", data=str(tiny_voc), **TINY, supervision=supervision)
    rows = (Row("a", "A", wrong=True), Row("b", "B", items({"trusted_vote": False})))
    study = Study(tmp_path / "study", config, folds=(0,), rows=rows, shots=(1,))
    study.train(workers=1, progress=False)
    records = [r for r in study.evaluate(1, False) if r["threshold_from"] == "base classes"]
    assert {r["threshold"] for r in records if r["row"] == "a"} == {0.5}
    assert {r["control"] for r in records if r["row"] == "a"} == {"", "wrong support"}
    chosen = {r["row"]: r["threshold"] for r in records}
    assert set(chosen) > {"a", "a-alone", "b", "query pseudo mask"}
    assert chosen["a-alone"] != 0.5 and chosen["b"] != 0.5


def _assert_split(record, counts, config):
    """The two parts of a score, counted again from the label maps themselves."""
    experiment = open_experiment(config, False)
    episodes = experiment.test_episodes(config)
    shows = [len(set(np.unique(experiment.data.label(e.query)).tolist()) - {0, 255}) for e in episodes]
    for part, chosen in (("one", np.array(shows) == 1), ("several", np.array(shows) > 1)):
        iou = [
            counts.intersection[0, mine, 1].sum() / counts.union[0, mine, 1].sum()
            for c in set(counts.class_ids[chosen])
            for mine in [chosen & (counts.class_ids == c)]
        ]
        assert record[f"miou_{part}"] == (pytest.approx(100 * np.mean(iou)) if iou else None)
        assert record[f"rows_{part}"] == len({(e.query, e.class_id) for e, here in zip(episodes, chosen) if here})


def _fail(name):
    raise TLGError(f"{name} is missing", code=3)


def test_a_failing_job_is_named():
    with pytest.raises(TLGError, match="fold 2: x.png is missing") as caught:
        run_study_jobs([("fold 2", _fail, ("x.png",))], workers=1, done="done", progress=False)
    assert caught.value.code == 3


def test_prototype_by_hand():
    """Two directions: the mask holds one of them, so exactly its positions look like foreground."""
    features = torch.zeros(1, 2, 2, 2)
    features[0, 0, 0], features[0, 1, 1] = 1.0, 1.0  # top row points one way, bottom row the other
    mask = torch.zeros(1, 1, 2, 2)
    mask[0, 0, 0] = 1
    got = prototype_probability(features, mask, features)[0]
    expected = torch.sigmoid(torch.tensor([20.0, -20.0]))
    assert torch.allclose(got, expected[:, None].expand(2, 2))


def test_fusion_can_outvote_the_mask():
    features = [torch.zeros(1, 2, 4, 4) for _ in range(3)]
    for f in features:
        f[0, 0, :2], f[0, 1, 2:] = 1.0, 1.0
    mask, support = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 1, 4, 4)
    mask[0, 0, 3], support[0, 0, 0, :2] = 1.0, 1.0  # the query mask is wrong, the support's is right
    batch = EpisodeBatch([], features, [features], mask, support, None, None, None, torch.tensor([0]))
    assert (query_mask_alone(batch)[0, 0] >= 0.5).nonzero()[:, 0].unique().tolist() == [3]
    fused = fusions(((0,), (1,), (2,)))["mask + support prototype"](batch)
    assert (fused[0, 0] >= 0.5).nonzero()[:, 0].unique().tolist() == [0, 1]


def two_directions(query_object, support_object):
    """One episode of 4x4 maps: the named rows look one way and the rest another; only the support's mask is right."""

    def features(rows):
        maps = torch.zeros(1, 3, 4, 4)
        maps[0, 1] = 1.0
        maps[0, 1, rows], maps[0, 0, rows] = 0.0, 1.0
        return [maps] * 3

    mask, support = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 1, 4, 4)
    support[0, 0, 0, support_object] = 1.0
    return EpisodeBatch(
        [], features(query_object), [features(support_object)], mask, support, None, None, None, torch.tensor([0])
    )


def test_the_general_background_by_hand():
    """A support whose mask fills it has no surroundings of its own to compare with; the base classes' stand in."""
    levels, scene = ((0,), (1,), (2,)), torch.tensor([0, 1.0, 0, 0, 1.0, 0])
    batch = two_directions(query_object=[0], support_object=[0, 1, 2, 3])
    high, low = torch.sigmoid(torch.tensor([20.0, -20.0]))
    against = support_against_background(levels, scene)(batch)[0, 0]
    torch.testing.assert_close(against, torch.where(torch.arange(4)[:, None] < 1, high, low).expand(4, 4))
    # Joint: object = the support's; surroundings = the query's mean (its mask is empty) and the scene.
    batch = two_directions(query_object=[0, 1], support_object=[0, 1, 2, 3])
    outside = torch.tensor([0.5, 0.5]) / 2**0.5 + torch.tensor([0, 1.0])
    cosine = outside / outside.norm()
    got = joint_prototype(levels, scene)(batch)[0, 0]
    torch.testing.assert_close(got[0], torch.sigmoid(20 * (1 - cosine[0])).expand(4))
    torch.testing.assert_close(got[3], torch.sigmoid(20 * (0 - cosine[1])).expand(4))


def test_the_image_row_hides_masks_and_the_callers_own_share_wins():
    for given, expected in (({}, 0.97), ({"mask_dropout": 0.2}, 0.2)):
        config = make_config("mini", **given)
        image = next(row for row in table_rows(config) if row.name == "extended-image")
        assert row_config(config, image, 0, 0).mask_dropout == expected


def test_a_score_and_the_list_saved_for_comparisons_rest_on_the_same_episodes(tiny_voc, own_home, tmp_path):
    from tlg_lib.episodes import load_episodes
    from tlg_lib.experiment import open_experiment
    from tlg_lib.runs.cell import OpenCell, save_cell_episodes

    config = make_config(
        "smoke",
        dataset="pascal",
        data=str(tiny_voc),
        image_size=64,
        backbone_weights="random",
        device="cpu",
        eval_episodes=7,
        extra_episodes=3,
        shots=2,
    )
    experiment = open_experiment(config, False)
    one, two = (experiment.scored_episodes(config.replace(shots=k)) for k in (1, 2))
    wrong = experiment.scored_episodes(config.replace(shots=1), "wrong support")
    assert (len(one), len(two), len(wrong)) == (7, 3, 3)
    assert [e.query for e in two] == [e.query for e in wrong] == [e.query for e in one[:3]]
    saved = [load_episodes(path) for path in save_cell_episodes(OpenCell("a", config, tmp_path, False))]
    assert saved == [one, two]
