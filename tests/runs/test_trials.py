"""Brief trials: what a line about a difference says, that settings and data name a training, that results are kept."""

import pytest

from tlg_lib.config import make_config
from tlg_lib.runs import trials as with_without
from tlg_lib.runs.notebook import Run
from tlg_lib.runs.trials import HA, NOTHING, Trial, brief_trials, network_to_look_at, verdict


def trial(*miou):
    return Trial((), miou, make_config("smoke"))


def test_a_difference_within_the_spread_of_seeds_is_called_noise():
    line = verdict({"without": trial(40, 44, 42), "with": trial(43, 45, 44)})
    assert line.startswith("with minus without: +2.0 points (by seed +3.0, +1.0, +2.0;")
    assert "up to 4.0" in line and line.endswith("within the noise of brief runs")


def test_a_larger_difference_is_not_called_proof():
    line = verdict({"without": trial(40, 41), "with": trial(30, 31)})
    assert "-10.0 points" in line and line.endswith("brief and this is one fold")
    assert verdict({"a": trial(1, 2), "b": trial(9, 9)}, smoke=True).endswith("smoke: figures mean nothing")


@pytest.fixture
def run(tiny_voc, own_home, tmp_path, monkeypatch):
    """A smoke run on shapes: random backbone, tiny widths; the smoke data themselves are not made."""
    from tlg_lib.runs.study import table_rows

    config = make_config(
        "smoke",
        data=str(tiny_voc),
        masks=str(tiny_voc / "PseudoMasks"),
        image_size=64,
        width=8,
        widths_4d=[4, 4, 8],
        token_count=4,
        backbone_weights="random",
        device="cpu",
        use_hc=False,
        use_ht=False,
        steps=2,
        eval_episodes=4,
        epoch_episodes=0,
    )
    monkeypatch.setattr("tlg_lib.runs.notebook.open_data", lambda run: None)
    return Run(config, (0,), (0,), (1,), table_rows(config), tmp_path / "run")


def test_trials_train_each_setting_once_and_score_all_seeds_on_the_same_list(run, monkeypatch):
    trials = brief_trials(run, {"without": NOTHING, "with": HA})
    assert [len(t.models) for t in trials.values()] == [2, 2]
    assert not trials["without"].config.use_ha and trials["with"].config.use_ha
    assert hasattr(trials["with"].models[0], "aggregation") and not hasattr(trials["without"].models[0], "aggregation")
    monkeypatch.setattr("tlg_lib.train._train", lambda *a: pytest.fail("trained again"))
    again = brief_trials(run, {"without": NOTHING, "with": HA})
    assert {k: t.miou for k, t in again.items()} == {k: t.miou for k, t in trials.items()}


def test_changed_data_are_another_training(run, monkeypatch):
    config = with_without._brief(run)
    before = with_without._folder(run, config)
    monkeypatch.setattr("tlg_lib.experiment.data_digest", lambda *a: "other-data")
    assert with_without._folder(run, config) != before


def test_the_network_of_notebook_06_is_preferred(run):
    from tlg_lib.train import train

    _, config, words, folder = network_to_look_at(run)
    assert words == "a network trained for 2 steps only: run notebook 06 for a real one"
    train(run.config.replace(seed=3), run.job_folder(), progress=False)
    _, config, words, folder = network_to_look_at(run)
    assert words.startswith("the network of notebook 06") and folder == run.job_folder() and config.seed == 3
