"""Costs of whole protocols from measured cells, by hand; and what more images cost."""

import json

import pytest

from tlg_lib.bench import growth, protocols
from tlg_lib.cli import main
from tlg_lib.errors import TLGError

# A device whose step of 16 takes 0.1 s, whose forward pass of 16 takes 0.032 s, and workers read 1,000 images a second.
CELLS = {
    "extended/bf16/step": {"seconds": 0.2},
    "extended/bf16/step/compiled": {"seconds": 0.1},
    "extended/bf16/forward1": {"seconds": 0.032},
    "corrected/bf16/step": {"seconds": 0.2},
    "corrected/bf16/forward1": {"error": "RuntimeError: out of memory"},
    "loader/0 workers": {"images_per_second": 150.0, "workers": 0},
    "loader/8 workers": {"images_per_second": 1000.0, "workers": 8},
}
RESULT = {"plan": {"batch": 16, "device": "cuda"}, "about": {"device": "a GPU"}, "cells": CELLS}


def test_a_fold_is_its_steps_its_curve_and_its_scores():
    # 40,000 steps of 16; 40 epochs of 100 test and 100 base episodes; 1,000 episodes with 3 + 5 supports in all.
    by_hand = 40_000 * 0.1 + (40 * 200 + 1000 * 8) * 0.032 / 16
    assert protocols.fold_seconds(RESULT, "pascal", "extended", "bf16") == pytest.approx(by_hand)
    # COCO: 80,000 steps of 20 episodes.
    by_hand = 80_000 * 0.1 * 20 / 16 + (80 * 200 + 5000 * 8) * 0.032 / 16
    assert protocols.fold_seconds(RESULT, "coco", "extended", "bf16") == pytest.approx(by_hand)
    assert protocols.fold_seconds(RESULT, "pascal", "corrected", "bf16") is None, "its forward pass was not measured"


def test_a_step_waits_for_a_slow_loader():
    slow = {**RESULT, "cells": {**CELLS, "loader/8 workers": {"images_per_second": 160.0, "workers": 8}}}
    assert protocols.step_time(slow, "extended", "bf16", 16).step == pytest.approx(32 / 160)


@pytest.mark.parametrize("slots, last", [(1, 14), (2, 7), (3, 6), (8, 6)])
def test_jobs_end_when_the_last_slot_does(slots, last):
    assert protocols.makespan([2, 6, 1, 5], slots) == last


def test_the_command_writes_a_table_and_refuses_other_files(tmp_path, capsys):
    (tmp_path / "device.json").write_text(json.dumps(RESULT))
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "protocols", str(tmp_path / "device.json"), "--out", str(tmp_path)])
    assert stopped.value.code == 0
    (pascal, coco) = json.loads((tmp_path / "protocols.json").read_text())["rows"]
    assert pascal["gpus_1"] == pytest.approx(4 * pascal["gpus_8"]) and coco["longest"] > pascal["longest"]
    assert "| Pascal-5i, extended" in (tmp_path / "protocols.md").read_text()
    for content in ("{}", "[1]", "no json"):
        (tmp_path / "other.json").write_text(content)
        with pytest.raises(TLGError, match="no result of `tlg bench device`"):
            protocols.read_device(tmp_path / "other.json")
    with pytest.raises(TLGError, match="tf32"):
        protocols.protocols_table(RESULT, "tf32")


def test_lists_of_more_images_cost_in_proportion_and_features_as_the_layers_say():
    found = growth.measure_images(600)
    assert found["images"] == 600 and found["memory_mib"] > 0 and found["batch"] > 0
    by_hand = 4 * (4 * 512 * 50 * 50 + 6 * 1024 * 25 * 25 + 3 * 2048 * 13 * 13)
    assert growth.feature_bytes("pascal") == by_hand
    assert found["features_gib"]["pascal"] == pytest.approx(600 * by_hand / 2**30)
    assert "| 600 " in growth.images_table([found])
