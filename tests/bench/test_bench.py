"""The benchmark measures what it says: exact counts on known work, exact agreement of the two networks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tlg_lib.bench import measure
from tlg_lib.bench.cases import Case, build, make_inputs
from tlg_lib.bench.notebooks import notebook_profile
from tlg_lib.bench.scaling import fit, scaling_figure
from tlg_lib.cli import main
from tlg_lib.errors import TLGError
from tlg_lib.released.plain import Straightforward

SMALL = Case("efficientnet_lite0", size=64, batch=2, dropout=0.0)


@pytest.fixture(scope="module")
def networks():
    return build(SMALL)


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "resnet50"])
def test_library_computes_what_the_straightforward_network_computes(backbone):
    """Outputs and every gradient, in float64, where no ReLU is undecided."""
    difference = measure.worst_difference(Case(backbone, size=96, batch=2), double=True)
    assert difference["output"] < 1e-7
    assert difference["gradient"] < 1e-6


@pytest.mark.parity
def test_straightforward_network_computes_what_the_release_computes():
    folder = Path(os.environ.get("TLG_PARITY") or Path(__file__).parents[2].with_name("shared") / "parity")
    if not (folder / "release_resnet50.npz").is_file():
        pytest.skip(f"no parity fixture in {folder}: set TLG_PARITY")
    from tlg_lib.released.parity import Fixture, draw_weight

    fixture = Fixture(folder / "release_resnet50.npz")
    layers = {
        "channels": (512,) * 4 + (1024,) * 6 + (2048,) * 3,
        "levels": ((0, 1, 2, 3), (4, 5, 6, 7, 8, 9), (10, 11, 12)),
        "grids": ((50, 50), (25, 25), (13, 13)),
    }
    text = (fixture.text.name, fixture.text.attribute, fixture.text.background)
    network = Straightforward(**layers, text=text).eval()
    network.load_state_dict(
        {
            key: torch.from_numpy(np.asarray(draw_weight(key, tuple(value.shape), 0)))
            for key, value in network.state_dict().items()
        }
    )
    with torch.no_grad():
        query, support = network(
            fixture.query, fixture.support, fixture.query_mask, fixture.support_mask, fixture.class_ids
        )
    assert fixture.row("eval/logits_query400", query).error < 1e-5
    assert fixture.row("eval/logits_support400", support).error < 1e-5


def test_shots_vote_the_same_in_both_networks(networks):
    inputs = make_inputs(SMALL)
    for shots in (1, 5):
        a, b = (networks[n].forward(inputs, shots) for n in ("straightforward", "released"))
        assert (a == b).float().mean() > 0.999  # a probability within rounding of one half may fall either way
        assert a.shape == (2, 64, 64)


def test_multiply_adds_of_correlation_are_what_the_formula_says(networks):
    inputs = make_inputs(SMALL)
    positions, channels = (64, 16, 4), ((40, 2), (80, 3), (112, 3), (192, 4), (320, 1))
    once = (
        sum(
            2 * n * p**2 * c
            for p, groups in zip(positions, (channels[:1], channels[1:3], channels[3:]))
            for c, n in groups
        )
        // 2
        * SMALL.batch
    )
    counted = {
        n: measure.parts(networks[n], measure.operation(networks[n], "forward1", inputs), "cpu")
        for n in ("straightforward", "released", "extended")
    }
    assert counted["straightforward"]["correlation"]["multiply_adds"] == 2 * once
    assert counted["released"]["correlation"]["multiply_adds"] == once
    finest, middle = (
        n * sum(k * c for c, k in groups) * SMALL.batch
        for n, groups in ((positions[0] ** 2, channels[:1]), (positions[1] ** 2, channels[1:3]))
    )
    pooled = once - finest + finest // 16 - middle + middle // 4
    assert counted["extended"]["correlation"]["multiply_adds"] == pooled, "4 x 4 and 2 x 2 positions"
    assert counted["extended"]["4D encoder"]["multiply_adds"] < counted["released"]["4D encoder"]["multiply_adds"]


def test_parts_exclude_what_is_inside_them_and_leave_no_trace():
    class Work:
        def inner(self):
            return torch.ones(10, 20) @ torch.ones(20, 30)

        def outer(self):
            return (torch.ones(2, 3) @ torch.ones(3, 4)).sum() + self.inner().sum()

    work = Work()
    meter = measure.PartMeter([(work, "inner", "HA"), (work, "outer", "HT"), (work, "absent", "HC")], "cpu", count=True)
    seen = meter.run(lambda: work.outer())
    assert {k: v["multiply_adds"] for k, v in seen.items()} == {"HA": 6000, "HT": 24, "rest": 0}
    assert not vars(work)


def test_rounds_run_everything_in_turn_and_ratios_are_paired(monkeypatch):
    now, order = [0.0], []
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])

    def takes(name, values):
        def run():
            order.append(name)
            now[0] += values[order.count(name) - 1]

        return run

    seconds = measure.paired_seconds({"slow": takes("slow", [4, 40, 6]), "fast": takes("fast", [2, 10, 2])}, 3, "cpu")
    assert order == ["slow", "fast", "fast", "slow", "slow", "fast"]
    assert seconds["slow"]["wall"] == [4, 40, 6]
    assert measure.median_ratio(seconds["slow"]["wall"], seconds["fast"]["wall"]) == 3  # of 2, 4 and 3


def test_peak_memory_sees_an_operation_that_allocates():
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux: /proc/self/clear_refs")
    # A process of its own, as in use: here, memory that earlier tests gave back would be taken again unseen.
    code = (
        "import json, sys, torch; from tlg_lib.bench import measure\n"
        "measure.operation = lambda *a: lambda: torch.ones(64 << 18).sum()  # 64 MiB, let go at once\n"
        "print(json.dumps(measure._measure_memory(json.loads(sys.argv[1]))))"
    )
    request = json.dumps({"case": SMALL.to_dict(), "network": "extended", "operation": "forward1"})
    done = subprocess.run([sys.executable, "-c", code, request], capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout.splitlines()[-1])
    assert 55 < seen["peak"] - seen["before"] < 90


def test_fit_finds_the_coefficients_of_a_known_cost():
    sizes = np.array([128, 224, 320, 400, 512])
    found = fit(sizes, 3 + 2 * (sizes / 100) ** 2 + 0.5 * (sizes / 100) ** 4)
    assert [found[k] for k in ("constant", "area", "factor")] == pytest.approx([3, 2, 0.5])
    assert found["worst"] < 1e-9
    points = [{"size": int(s), "forward": 1.0 * s, "step": 2.0 * s, "peak": 3.0 * s} for s in sizes]
    result = {
        "network": "extended",
        "backbone": "resnet50",
        "batch": 1,
        "device": "cpu",
        "points": points,
        "fits": {k: fit(sizes, [p[k] for p in points]) for k in ("forward", "step", "peak")},
    }
    left, right = scaling_figure(result).axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("seconds", "MiB")


def test_notebook_profile_ranks_cells(tmp_path):
    def cell(seconds, text):
        return {"cell_type": "code", "source": [text], "metadata": {"papermill": {"duration": seconds}}}

    for name, cells in (("00_start", [cell(1.0, "a()"), cell(5.0, "b()")]), ("01_data", [cell(3.0, "c()")])):
        total = sum(c["metadata"]["papermill"]["duration"] for c in cells)
        document = {"cells": cells, "metadata": {"papermill": {"duration": total}}, "nbformat": 4, "nbformat_minor": 5}
        (tmp_path / f"{name}.ipynb").write_text(json.dumps(document))
    result, text = notebook_profile(tmp_path, slowest=2)
    assert result["total"] == 9 and [c["begins"] for c in result["cells"]] == ["b()", "c()"]
    assert "67%" in text
    with pytest.raises(TLGError, match="no executed notebooks"):
        notebook_profile(tmp_path / "empty")


def test_command_line_writes_json_and_table(tmp_path, capsys):
    arguments = [
        "bench",
        "network",
        "--backbone",
        "efficientnet_lite0",
        "--size",
        "64",
        "--batch",
        "1",
        "--repeats",
        "1",
        "--operation",
        "forward1",
        "--no-memory",
        "--device",
        "cpu",
        "--out",
        str(tmp_path),
    ]
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 0
    (case,) = json.loads((tmp_path / "network.json").read_text())["cases"]
    assert case["ratio"]["forward1"]["released"]["wall"] > 0
    assert case["difference"]["float64"]["output"] < 1e-7
    assert "Roofline" in (tmp_path / "network.md").read_text() and "Roofline" in capsys.readouterr().out


def test_unknown_names_are_refused_in_one_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "network", "--network", "fast"])
    assert stopped.value.code == 2
    assert "choose from straightforward, released, corrected, extended" in capsys.readouterr().err
