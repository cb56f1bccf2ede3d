"""The gradient-reach report against the counts that the design states."""

import pytest

from tlg_lib.config import make_config
from tlg_lib.released.gradients import gradient_reach, print_report, total


def test_released_resnet50_counts(capsys):
    print_report("released", "resnet50")
    printed = capsys.readouterr().out
    line = next(x for x in printed.splitlines() if x.startswith("total outside the backbone"))
    assert line.split()[-3:] == ["4,200,940", "3,675,740", "2,573,856"]
    assert "1/24" in printed and "113,394,321" in printed and "3,277,728" in printed


def test_released_idle_modules_are_the_heterogeneous_ones():
    rows = gradient_reach(make_config("mini", variant="released"))
    assert {row.module for row in rows if row.learning == 0} == {
        "aggregation.reduce",
        "aggregation.fuse",
        "aggregation.merge",
        "transport.spread",
        "transport.self_attention",
        "transport.cross_attention",
        "transport.norm",
        "text.project",
        "text.mix",
    }
    assert all(row.used == row.defined for row in rows)


@pytest.mark.parametrize("variant", ["corrected", "hsnet"])
def test_everything_of_the_trained_variants_learns(variant):
    everything = total(gradient_reach(make_config("mini", variant=variant, support_loss=0.6)))
    assert everything.defined == everything.used == everything.learning > 0
