"""Several processes and parts of batches learn what one process with whole batches learns."""

import re
import subprocess
import sys

import pytest
import torch

from tlg_lib.checkpoints import load_checkpoint
from tlg_lib.config import make_config
from tlg_lib.train import train

from conftest import SMALL

# A network that trains in a second. Dropout is off: its masks depend on how the batch is shared out.
TINY = dict(
    SMALL,
    dataset="pascal",
    steps=4,
    batch=4,
    epoch_steps=4,
    checkpoint_every=4,
    epoch_episodes=0,
    eval_episodes=2,
    dropout=0.0,
    mask_dropout=0.0,
    support_loss=0.6,
)


def run(folder, tiny_voc, **overrides):
    config = make_config("smoke", **{**TINY, "data": str(tiny_voc), **overrides})
    summary = train(config, folder, progress=False)
    return summary["losses"], load_checkpoint(folder / "checkpoint.safetensors").weights


def assert_same_learning(one, other):
    """The same loss curve, but for the rounding of sums taken in another order.

    Weights are not compared: where a gradient is zero but for rounding (a bias before a normalisation), AdamW
    steps by the sign of the rounding.
    """
    assert len(one[0]) == len(other[0]) == TINY["steps"]
    assert abs(one[0][0] - one[0][-1]) > 1e-3 * one[0][0]  # the steps do something
    assert other[0] == pytest.approx(one[0], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["corrected", "released"])
def test_two_processes_learn_what_one_learns(variant, tiny_voc, own_home, tmp_path):
    one = run(tmp_path / "one", tiny_voc, variant=variant)
    two = run(tmp_path / "two", tiny_voc, variant=variant, devices=2)
    assert_same_learning(one, two)
    for statistic in ("running_mean", "running_var"):
        torch.testing.assert_close(
            two[1][f"transport.norm.{statistic}"], one[1][f"transport.norm.{statistic}"], rtol=1e-3, atol=1e-4
        )


@pytest.mark.slow
def test_a_training_process_that_is_gone_is_told_in_one_line(tiny_voc, own_home, tmp_path):
    """As where a script has no guard: its processes run it again and meet the folder's lock."""
    config = make_config("smoke", **TINY, data=str(tiny_voc), devices=2).to_dict()
    (tmp_path / "script.py").write_text(
        "from tlg_lib.config import config_from_dict\nfrom tlg_lib.train import train\n"
        f"train(config_from_dict({config!r}), 'two', False)\n"
    )
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert re.search(r'TLGError:\s+one of 2 training processes is gone .*if __name__ == "__main__"', done.stderr)


def test_accumulated_parts_learn_what_a_whole_batch_learns(tiny_voc, own_home, tmp_path):
    """Without HT, whose batch normalisation sees one part at a time."""
    whole = run(tmp_path / "whole", tiny_voc, use_ht=False)
    parts = run(tmp_path / "parts", tiny_voc, use_ht=False, accumulate=4)
    assert_same_learning(whole, parts)


def test_bf16_learns_nearly_the_same_from_float32_weights(tiny_voc, own_home, tmp_path):
    exact, weights = run(tmp_path / "exact", tiny_voc)
    mixed, rounded = run(tmp_path / "mixed", tiny_voc, precision="bf16-mixed")
    assert mixed != exact  # the setting does something
    assert mixed == pytest.approx(exact, rel=0.05)
    assert all(w.dtype == weights[name].dtype for name, w in rounded.items())


def test_recomputing_and_memory_format_change_nothing_learned(tiny_voc, own_home, tmp_path):
    plain = run(tmp_path / "plain", tiny_voc)
    other = run(tmp_path / "other", tiny_voc, activation_checkpointing=True, channels_last=True)
    assert_same_learning(plain, other)
