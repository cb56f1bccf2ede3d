"""Short trainings: their size follows the preset, the score card outlives a notebook, differences are not overdone."""

import pytest

from tlg_lib.config import make_config
from tlg_lib.errors import TLGError
from tlg_lib.runs import trials
from tlg_lib.runs.notebook import Run
from tlg_lib.runs.trials import BARE, ROWS, ScoreCard, brief, network_to_look_at, verdict

from conftest import SMALL


def test_a_difference_whose_interval_over_seeds_holds_zero_is_called_open():
    line = verdict({"without": (40, 44, 42), "with": (43, 45, 44)})
    assert line.startswith("with minus without: +2.0 points [-0.5, +4.5] (by seed +3.0, +1.0, +2.0)")
    assert line.endswith("the interval holds zero, so it is open")
    assert "+0.0 points" in verdict({"without": (40.0, 40.0), "with": (39.96, 39.97)})


def test_a_training_that_has_not_begun_is_named():
    assert "does not yet mark anything" in verdict({"a": (0.0, 41), "b": (50, 51)})
    assert "does not yet mark" not in verdict({"a": (40, 41), "b": (50, 51)})


def test_a_larger_difference_is_not_called_proof():
    line = verdict({"without": (40, 44), "with": (30, 34.5)})  # pairs: seeds differ more than their difference does
    assert "-9.8 points" in line and line.endswith("brief and this is one fold")
    assert verdict({"a": (1, 2), "b": (9, 9)}, smoke=True).endswith("smoke: figures mean nothing")


@pytest.mark.parametrize("preset, steps, batch, episodes", [("mini", 100, 4, 200), ("pascal", 2000, 8, 500)])
def test_short_trainings_grow_with_the_preset_but_not_without_end(tmp_path, preset, steps, batch, episodes):
    config = brief(Run(make_config(preset), (0,), (0,), (1,), (), tmp_path), **BARE)
    assert (config.steps, config.batch, config.eval_episodes) == (steps, batch, episodes)
    assert config.query_mask == "none" and not config.prototype_prior and not config.trusted_vote


@pytest.fixture
def run(tiny_voc, own_home, tmp_path, monkeypatch):
    """A smoke run on shapes: random backbone, tiny widths; the smoke data themselves are not made."""
    from tlg_lib.runs.study import table_rows

    config = make_config(
        "smoke",
        data=str(tiny_voc),
        masks=str(tiny_voc / "PseudoMasks"),
        **SMALL,
        use_hc=False,
        use_ht=False,
        steps=2,
        eval_episodes=4,
        epoch_episodes=0,
    )
    monkeypatch.setattr("tlg_lib.runs.notebook.open_data", lambda run: None)
    return Run(config, (0,), (0,), (1,), table_rows(config), tmp_path / "run")


def test_the_card_keeps_the_order_of_the_notebooks_and_the_other_rows(run):
    ScoreCard(run).add("4D + HA", (50, 51.234))
    card = ScoreCard(run)
    card.add("4D encoder", [12])
    assert ScoreCard(run).scores == {"4D encoder": [12.0], "4D + HA": [50.0, 51.23]}
    ScoreCard(run).add("4D + HA", [60])
    assert ScoreCard(run).scores["4D + HA"] == [60.0] and list(ScoreCard(run).scores) == [ROWS[1], ROWS[2]]
    with pytest.raises(TLGError, match="no row '4E'"):
        card.add("4E", [1])
    card.path.write_text("[1")
    with pytest.raises(TLGError, match="scorecard.json: delete it"):
        ScoreCard(run)


def test_changed_data_are_another_training(run, monkeypatch):
    config = brief(run)
    before = trials.brief_folder(run, config)
    monkeypatch.setattr("tlg_lib.protocol.data_digest", lambda *a: "other-data")
    assert trials.brief_folder(run, config) != before


def test_the_network_of_notebook_06_is_preferred(run):
    from tlg_lib.train import train

    _, config, words, folder = network_to_look_at(run)
    assert words == "a network trained for 2 steps only: run notebook 06 for a real one"
    train(run.config, run.job_folder(), progress=False)
    _, config, words, folder = network_to_look_at(run)
    assert (
        words.startswith("the network of notebook 06")
        and folder == run.job_folder()
        and config == run.config.replace(shots=1)
    )
