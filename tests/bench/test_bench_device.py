"""`tlg bench device`: what fails or is too slow costs its own cells, and the page says so."""

import json
import sys
import textwrap

import pytest
import torch

from tlg_lib.bench import device, gpu_page, loader
from tlg_lib.cli import main
from tlg_lib.errors import TLGError

SMALL = device.Plan(
    "cpu",
    "efficientnet_lite0",
    size=64,
    batch=2,
    networks=("extended", "released"),
    precisions=("fp32", "bf16"),
    operations=("step", "forward1"),
    compiled=(),
    pictures=2,
    row=0.0,
)


def cells_of(part, plan=SMALL, arguments=()):
    said = []
    device.work(part, plan, list(arguments), said.append)
    return {s["cell"]: s for s in said if "cell" in s}


@pytest.fixture(autouse=True)
def as_it_was():
    yield
    device.set_precision("bf16")  # PyTorch's own start


def test_a_cell_that_fails_is_its_error_and_the_others_stand(monkeypatch):
    real = device.operation

    def broken(network, what, inputs):
        if network.name == "released" and what == "step":
            raise RuntimeError("CUDA out of memory.\n Tried to allocate")
        return real(network, what, inputs)

    monkeypatch.setattr(device, "operation", broken)
    found = cells_of("networks")
    assert len(found) == 8
    assert found["released/bf16/step"]["error"] == "RuntimeError: CUDA out of memory. Tried to allocate"
    assert all(v["seconds"] > 0 for k, v in found.items() if not k.startswith("released") or not k.endswith("step"))
    text = gpu_page.page({"plan": SMALL.__dict__, "about": {}, "cells": found, "ended_early": {}, "seconds": 1.0})
    assert "- released/fp32/step: RuntimeError: CUDA out of memory" in text and "error" in text


def test_a_network_that_cannot_be_built_costs_its_own_cells(monkeypatch):
    real = device.build
    monkeypatch.setattr(device, "build", lambda case, names: {} if names == ("released",) else real(case, names))
    found = cells_of("networks")
    assert {k.split("/")[0] for k, v in found.items() if "error" in v} == {"released"} and len(found) == 8


def test_parity_is_zero_on_the_same_device_and_seen_where_it_is_not(monkeypatch):
    found = cells_of("parity")
    assert found["parity/extended fp32"] == {
        **found["parity/extended fp32"],
        "output": 0,
        "gradient": 0,
        "within": True,
    }
    assert 0 < found["parity/extended bf16"]["output"] < 0.05
    real = device.make_inputs
    seeds = iter(range(99))
    monkeypatch.setattr(device, "make_inputs", lambda case: real(case, seed=next(seeds)))
    assert not device.parity(SMALL, "extended", "fp32")["within"], "other inputs are no parity"


def test_profile_names_what_takes_longest():
    a = torch.ones(600, 600)
    found = device.profiled(lambda: [a @ a for _ in range(5)], "cpu")
    assert found["top"][0]["name"] == "aten::mm" and found["top"][0]["calls"] == 5 and found["matrix_share"] > 0.5
    assert found["waits"] == {}
    assert device.profiled(lambda: a.sum().item(), "cpu")["waits"] == {"aten::_local_scalar_dense": 1}


def part(tmp_path, body):
    script = tmp_path / "part.py"
    script.write_text("import json, os, sys, time\n" + textwrap.dedent(body))
    kept = []
    return device.run_part([sys.executable, str(script)], 6.0, str(tmp_path), kept.append), kept


def test_a_part_that_dies_or_hangs_leaves_what_it_said(tmp_path):
    why, kept = part(
        tmp_path,
        """
        print("a library's own words")
        print(json.dumps({"cell": "a", "seconds": 1.0}), flush=True)
        print(json.dumps({"begun": "b"}), flush=True)
        sys.stderr.write("CUDA error: an illegal memory access")
        os._exit(3)
        """,
    )
    assert kept == [{"cell": "a", "seconds": 1.0}] and why == "at b: CUDA error: an illegal memory access"
    why, kept = part(tmp_path, "print(json.dumps({'cell': 'a'}), flush=True); time.sleep(60)")
    assert kept == [{"cell": "a"}] and why.startswith("not finished within its 6 s")
    assert part(tmp_path, "print('{}')") == ("", [])


def test_one_command_writes_json_and_the_pages_table(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"# Before\n{gpu_page.BEGIN}\nthe last table\n{gpu_page.END}\nafter\n")
    given = ["--device", "cpu", "--size", "64", "--batch", "2", "--backbone", "efficientnet_lite0", "--brief"]
    # parts take shares of the limit; a slow machine needs them
    given += ["--network", "extended", "--operation", "forward1", "--no-compile", "--limit", "3000"]
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "device", *given, "--page", str(page), "--out", str(tmp_path)])
    assert stopped.value.code == 0
    result = json.loads((tmp_path / "device.json").read_text())
    assert result["ended_early"] == {} and not [k for k, v in result["cells"].items() if "error" in v]
    assert set(k.split("/")[0] for k in result["cells"]) == {"extended", "loader", "profile", "parity"}
    text = page.read_text()
    assert text.startswith("# Before") and text.endswith("after\n") and "the last table" not in text
    assert "| forward1, extended" in text and "Profile of extended step" in text


def test_a_page_without_marks_is_refused_before_any_work(tmp_path):
    (tmp_path / "page.md").write_text("# Nothing")
    with pytest.raises(TLGError, match="marks"):
        gpu_page.write_between(tmp_path / "page.md", "x")


def test_generated_pictures_are_as_heavy_as_photographs_and_rates_are_of_reading(tmp_path):
    data = loader.make_pictures(tmp_path / "pictures", per_class=2)
    sizes = [path.stat().st_size for path in data.images.files.values()]
    assert len(sizes) == 40 and 80_000 < sum(sizes) / 40 < 120_000
    assert 5 < loader.rate(data, 64, 4, 0, "cpu", 0.3)["images_per_second"] < 3000
