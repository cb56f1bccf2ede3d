"""Sweeps: specs, local runs that are killed and go on, results, cost, and SLURM through stand-in commands."""

import csv
import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import scipy.stats

from tlg_lib.config import make_config
from tlg_lib.errors import TLGError
from tlg_lib.machine.locks import folder_lock, is_locked
from tlg_lib.runs import board, jobs
from tlg_lib.runs import spec as s
from tlg_lib.runs.cell import open_cell
from tlg_lib.runs.tables import collect, compare, gather_sweeps, summarise, write_results

from light_cell import make_notebook, work, write_scores

GRID = {"fold": [0, 1, 2, 3], "seed": [0, 1]}
SPEC = {
    "name": "small",
    "preset": "smoke",
    "settings": {"a": {"variant": "corrected"}, "b": {"variant": "hsnet"}},
    "grid": GRID,
    "compare": [["a", "b"]],
}


# --- specs -----------------------------------------------------------------------------------------------------


def test_a_grid_is_every_combination_and_settings_are_rows():
    spec = s.spec_from_dict(SPEC)
    got = {(c.setting, c.config.variant, c.config.fold, c.config.seed) for c in spec.cells}
    assert got == {
        (n, v, f, x) for (n, v), f, x in itertools.product([("a", "corrected"), ("b", "hsnet")], range(4), range(2))
    }
    assert len({c.name for c in spec.cells}) == 16


def test_list_form_and_names_without_settings():
    cells = [{"fold": 1}, {"fold": 2, "lr": 0.015}, {"setting": "x", "batch": 3}]
    spec = s.spec_from_dict({"preset": "smoke", "cells": cells})
    usual = make_config("smoke")
    assert [c.config for c in spec.cells] == [
        usual.replace(fold=1),
        usual.replace(fold=2, lr=0.015),
        usual.replace(batch=3),
    ]
    assert [c.setting for c in spec.cells] == ["smoke", "lr=0.015", "x"]


def test_a_cells_folder_follows_its_settings_only():
    one = s.spec_from_dict(SPEC)
    more = s.spec_from_dict({**SPEC, "grid": {**GRID, "seed": [0, 1, 2]}})
    assert {c.name for c in one.cells} < {c.name for c in more.cells}, "adding cells keeps the folders of the others"
    changed = s.spec_from_dict({**SPEC, "set": {"lr": 0.1}})
    assert not {c.name for c in one.cells} & {c.name for c in changed.cells}, "other settings are other cells"


@pytest.mark.parametrize("name, cells", [("paper-table-1", 24), ("paper-table-2", 16), ("seeds", 40)])
def test_specs_that_come_with_the_library(name, cells):
    spec = s.load_spec(name)
    assert spec.name == name and len(spec.cells) == cells and {c.config.fold for c in spec.cells} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"preset": "minni"}, "unknown preset"),
        ({"grid": {"fold": [0, 9]}}, "fold=9"),
        ({"grid": {"foldd": [0]}}, "did you mean 'fold'"),
        ({"grid": {"fold": []}}, "expected a list"),
        ({"grid": {"variant": ["hsnet"]}}, "stands in grid and in setting"),
        ({"settings": {"a": {"steps": 1}, "b": {"steps": 1}}}, "are the same run"),
        ({"compare": [["a", "zzz"]]}, "no setting 'zzz'"),
        ({"compare": ["a"]}, "expected pairs"),
        ({"grid": {"seed": list(range(3000))}}, "at most 5000"),
        ({"name": "../../etc"}, "letters, digits"),
        ({"nme": "x"}, "unknown entry 'nme'"),
        ({"slurm": {"time_min": "x"}}, "time_min"),
        ({"slurm": {"time; rm": 1}}, "cannot be set here"),
        ({"slurm": {"srun_args": ["bash -c id"]}}, "cannot be set here"),
        ({"slurm": {"setup": ["touch x"]}}, "cannot be set here"),
        ({"slurm": {"additional_parameters": {"wrap": "id"}}}, "cannot be set here"),
        ({"slurm": {"partition": "$(id)"}}, "letters, digits"),
        ({"slurm": {"partition": "a\n#SBATCH --wrap=id"}}, "letters, digits"),
        ({"slurm": {"account": "--wrap=id"}}, "letters, digits"),
        ({"slurm": {"cpus_per_task": -1}}, "whole number"),
        ({"slurm": {"nodes": True}}, "whole number"),
        ({"set": {"data": "a\nb"}}, "printable"),
        ({"settings": None, "grid": None}, "no cells"),
        ({"cells": {"fold": 1}}, "expected a list"),
        ({"cells": [3]}, "entry 0"),
    ],
)
def test_a_wrong_spec_is_one_line_that_names_the_entry(change, message):
    with pytest.raises(TLGError, match=message):
        s.spec_from_dict({**SPEC, **change})


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: &x [1]\nb: *x\n", "alias on line 2"),
        ("name: a\nname: b\n", "'name' stands twice"),
        ("a: !!python/object/apply:os.system ['touch hacked']\n", "not valid YAML"),
        ("[" * 4000, "not valid YAML"),
        ("a: [1", "not valid YAML"),
        ("", "no cells"),
        ("- 1\n", "expected names with values"),
    ],
)
def test_a_hostile_yaml_is_refused_and_runs_nothing(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(text)
    with pytest.raises(TLGError, match=message):
        s.load_spec(tmp_path / "spec.yaml")
    assert os.listdir(tmp_path) == ["spec.yaml"]


def test_settings_from_the_shell_win():
    spec = s.load_spec("seeds", {"preset": "smoke", "steps": "7"})
    assert {c.config.preset for c in spec.cells} == {"smoke"} and {c.config.steps for c in spec.cells} == {7}


# --- states and results (no processes) ---------------------------------------------------------------------------


def finish(spec, folder, seconds=0.0):
    """Every cell done, computed in this process: what an undisturbed sweep leaves."""
    jobs.prepare(spec, folder, threads=1)
    for cell in spec.cells:
        work(folder / cell.name, seconds)
        jobs.write_status(folder / cell.name, "done", seconds=2.0, **jobs.inputs_of(cell.config))


def test_states_follow_the_files_and_the_locks(tmp_path):
    spec = s.spec_from_dict(SPEC)
    jobs.prepare(spec, tmp_path, 1)
    names = [c.name for c in spec.cells]
    for name, state in zip(names, ("done", "failed", "queued", "running", "running")):
        jobs.write_status(tmp_path / name, state)
    (tmp_path / names[5] / "status.json").write_text("{not json")
    with folder_lock(tmp_path / names[4], jobs.CELL_LOCK):
        got = [v["state"] for v in jobs.states(spec, tmp_path).values()][:7]
        assert got == ["done", "failed", "queued", "interrupted", "running", "pending", "pending"]
        left = [c.name for c in jobs.to_run(spec, tmp_path, retry=False)]
        assert left == [names[3], *names[5:]]
        assert [c.name for c in jobs.to_run(spec, tmp_path, retry=True)] == [names[1], names[3], *names[5:]]


def test_summary_is_t_interval_over_seeds_of_the_mean_over_folds(tmp_path):
    spec = s.spec_from_dict({**SPEC, "grid": {"fold": [0, 1, 2, 3], "seed": [0, 1, 2]}})
    finish(spec, tmp_path)
    rows = collect(spec, tmp_path)
    values = {(r["fold"], r["seed"]): r["value"] for r in rows if r["method"] == "a" and r["metric"] == "miou"}
    assert len(values) == 12
    means = [sum(values[f, seed] for f in range(4)) / 4 for seed in range(3)]
    line = [r for r in summarise(rows) if r["method"] == "a" and r["metric"] == "miou" and r["folds"] == "0,1,2,3"]
    low, high = scipy.stats.t.interval(0.95, 2, sum(means) / 3, scipy.stats.sem(means))
    assert len(line) == 1 and line[0]["seeds"] == "0,1,2"
    assert (line[0]["mean"], line[0]["low"], line[0]["high"]) == pytest.approx((sum(means) / 3, low, high), abs=1e-4)


def test_three_folds_give_no_mean_over_folds(tmp_path):
    spec = s.spec_from_dict({**SPEC, "grid": {"fold": [0, 1, 3]}})
    finish(spec, tmp_path)
    assert {r["folds"] for r in summarise(collect(spec, tmp_path))} == {"0", "1", "3"}


def test_training_free_rows_appear_once_per_fold_and_seed(tmp_path):
    spec = s.spec_from_dict(SPEC)
    finish(spec, tmp_path)
    free = [r for r in collect(spec, tmp_path) if r["method"] == "query pseudo mask" and r["metric"] == "miou"]
    assert sorted((r["fold"], r["seed"]) for r in free) == list(itertools.product(range(4), range(2)))


def test_comparison_is_paired_and_refuses_other_episodes(tmp_path):
    spec = s.spec_from_dict({**SPEC, "grid": {"fold": [0, 1, 2, 3]}})
    finish(spec, tmp_path)
    for cell in spec.cells:  # the same outcome on both sides, b a little worse everywhere
        write_scores(open_cell(tmp_path / cell.name), seed=7 + cell.config.fold)
    table = compare(spec, tmp_path)
    assert [r["folds"] for r in table] == ["0", "1", "2", "3", "0,1,2,3"]
    assert all(r["difference"] == 0 and r["low"] == 0 and r["high"] == 0 for r in table)
    assert table[-1]["episodes"] == 160 and table[-1]["units"] < 160
    path = tmp_path / spec.cells[0].name / "episodes-1shot.json"
    episodes = json.loads(path.read_text())
    episodes[3]["support"] = ["another"]
    path.write_text(json.dumps(episodes))
    with pytest.raises(TLGError, match="different episodes"):
        compare(spec, tmp_path)


def test_a_done_cell_without_readable_scores_is_named(tmp_path):
    spec = s.spec_from_dict(SPEC)
    finish(spec, tmp_path)
    victim = tmp_path / spec.cells[5].name / "training" / "records.json"
    victim.write_text('{"records": [{"label": 1}]}')
    with pytest.raises(TLGError, match=spec.cells[5].name):
        collect(spec, tmp_path)
    victim.unlink()
    (tmp_path / spec.cells[5].name / "training-free" / "records.json").unlink(missing_ok=True)
    with pytest.raises(TLGError, match="holds no scores"):
        collect(spec, tmp_path)


def test_csv_files_are_inert_in_a_spreadsheet_and_readable(tmp_path):
    evil = '=HYPERLINK("http://x")'
    spec = s.spec_from_dict({**SPEC, "settings": {evil: {"variant": "corrected"}}, "compare": None})
    finish(spec, tmp_path)
    write_results(spec, tmp_path)
    with open(tmp_path / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(r["method"][:1] not in "=+-@" for r in rows)
    assert len(rows) == len(collect(spec, tmp_path)) and all(math.isfinite(float(r["value"])) for r in rows)
    assert (tmp_path / "scores-1shot.png").read_bytes()[:4] == b"\x89PNG"


def test_a_notebook_finds_the_main_figures_of_the_sweeps_beside_its_run(tmp_path):
    assert gather_sweeps(tmp_path).empty
    spec, folder = s.spec_from_dict(SPEC), tmp_path / "sweeps" / "one"
    jobs.prepare(spec, folder, 1)
    finish(spec, folder)
    assert gather_sweeps(tmp_path).empty, "cells are done, tables not yet written"
    write_results(spec, folder)
    table = gather_sweeps(tmp_path)
    assert set(table.method) == {*spec.settings, "query pseudo mask"} and set(table.sweep) == {"one"}
    values = [
        r["value"]
        for r in collect(spec, folder)
        if (r["metric"], r["method"], r["fold"], r["class"]) == ("miou", spec.settings[0], 0, "")
    ]
    line = table[(table.method == spec.settings[0]) & (table.folds == "0")]
    assert len(line) == 1 and line["mean"].item() == pytest.approx(sum(values) / len(values), abs=1e-3)


# --- running (real processes and kernels) ------------------------------------------------------------------------


def tlg(*arguments, **kwargs):
    return subprocess.Popen(
        [sys.executable, "-m", "tlg_lib.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **kwargs,
    )


def write_spec(path, values):
    import yaml

    path.write_text(yaml.safe_dump(values))
    return path


def kill_one_worker(parent, rng, timeout=90):
    """kill -9 one of the cells that the sweep has at work, at a random moment of it."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        time.sleep(rng.uniform(0.2, 2.5))
        workers = psutil.Process(parent.pid).children()
        with suppress(psutil.NoSuchProcess):  # it may have ended in between: take another
            if workers:
                rng.choice(workers).kill()
                return
    pytest.fail("no worker to kill")


TABLES = ("results.csv", "summary.csv", "comparisons.csv")


@pytest.mark.slow
def test_kill_9_of_workers_and_of_the_parent_leaves_the_same_tables(tmp_path):
    values = {**SPEC, "grid": {"fold": [0, 1]}}
    spec_file = write_spec(tmp_path / "spec.yaml", values)
    spec = s.load_spec(spec_file)
    finish(spec, tmp_path / "undisturbed")
    write_results(spec, tmp_path / "undisturbed")
    folder, rng = tmp_path / "disturbed", random.Random(0)
    notebook = make_notebook(tmp_path / "light.ipynb", seconds=0.6)
    command = ("sweep", spec_file, "--out", folder, "--notebook", notebook, "--workers", 2)
    first = tlg(*command)
    kill_one_worker(first, rng)
    kill_one_worker(first, rng)
    time.sleep(rng.uniform(0, 2))
    os.kill(first.pid, signal.SIGKILL)  # the parent; its workers and their kernels end by themselves
    first.communicate()
    second = tlg(*command)
    kill_one_worker(second, rng)
    output, _ = second.communicate(timeout=300)
    assert second.returncode == 0, output
    assert "killed by signal 9, starts again" in output, output
    for name in TABLES:
        assert (folder / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes(), name
    assert all(v["state"] == "done" for v in jobs.states(spec, folder).values())


@pytest.mark.slow
def test_failures_are_listed_with_their_last_lines_and_retried_by_one_command(tmp_path):
    bad = {
        "name": "bad",
        "preset": "smoke",
        "cells": [{"setting": "good", "fold": 0}, {"setting": "unlucky", "batch": 13}],
    }
    spec_file, folder = write_spec(tmp_path / "spec.yaml", bad), tmp_path / "out"
    notebook = make_notebook(tmp_path / "light.ipynb", seconds=0.05)
    command = ("sweep", spec_file, "--out", folder, "--notebook", notebook, "--workers", 2)
    process = tlg(*command)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == s.FAILED_CODE, output
    for text in ("failed: unlucky-", "batch 13 brings bad luck", "about to fail"):
        assert text in output, output
    assert "1 of 2 cells failed" in output and "--retry" in output and "Traceback" not in output.split("failed: ")[0]
    spec = s.load_spec(spec_file)
    assert (folder / spec.cells[1].name / "cell.ipynb").is_file(), "the executed copy of a failed notebook stays"
    again = tlg(*command)
    output, _ = again.communicate(timeout=120)
    assert again.returncode == s.FAILED_CODE and "running" not in output, "a failed cell waits for --retry"
    # The remedy, then one command; a cell is added at the same time.
    text = (
        Path(notebook)
        .read_text()
        .replace(
            "work(folder",
            "import light_cell; light_cell.STEPS = 3; import os\\nimport tlg_lib.runs.cell as c; work(folder",
        )
    )
    Path(notebook).write_text(text)
    fixed = {**bad, "cells": [*bad["cells"][:1], {"setting": "unlucky", "batch": 14}, {"setting": "new", "fold": 2}]}
    write_spec(spec_file, fixed)
    process = tlg(*command, "--retry")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert output.count(" running ") == 2 and "new-" in output, "only the two cells that were left ran"


@pytest.mark.slow
def test_stop_from_another_terminal_and_go_on(tmp_path):
    values = {"name": "stopped", "preset": "smoke", "grid": {"fold": [0, 1]}}
    spec_file, folder = write_spec(tmp_path / "spec.yaml", values), tmp_path / "out"
    notebook = make_notebook(tmp_path / "light.ipynb", seconds=60)
    command = ("sweep", spec_file, "--out", folder, "--notebook", notebook, "--workers", 1)
    process = tlg(*command)
    deadline = time.monotonic() + 60
    while not list(folder.glob("*/training/state.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    second = tlg(*command)
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 4 and "in use by process" in output
    stopper = tlg("sweep", spec_file, "--out", folder, "--stop")
    output, _ = stopper.communicate(timeout=60)
    assert stopper.returncode == 0 and "stopped process" in output
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "same command" in output
    spec = s.load_spec(spec_file)
    assert [v["state"] for v in jobs.states(spec, folder).values()] == ["interrupted", "pending"]
    kernels = [folder / spec.cells[0].name / "training"]
    deadline = time.monotonic() + 30
    while any(is_locked(k) for k in kernels) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(is_locked(k) for k in kernels), "no kernel goes on unseen"
    before = json.loads((kernels[0] / "state.json").read_text())["step"]
    make_notebook(notebook, seconds=0.05)
    process = tlg(*command)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and before >= 1
    log = (folder / spec.cells[0].name / "log.txt").read_text()
    assert f"step {before + 1}\n" in log and log.count("step 1\n") == 1, "it went on from its last step"


def test_a_worker_that_is_always_killed_is_given_up(tmp_path, monkeypatch, capsys):
    spec = s.spec_from_dict({"name": "x", "preset": "smoke", "cells": [{"fold": 0}]})
    monkeypatch.setattr(jobs.sys, "executable", "/bin/sh")
    script = tmp_path / "kill.sh"
    script.write_text("kill -9 $$\n")
    real = subprocess.Popen
    monkeypatch.setattr(jobs.subprocess, "Popen", lambda command, **k: real(["/bin/sh", str(script)], **k))
    found = jobs.run_local(spec, tmp_path / "out", workers=1)
    assert [v["state"] for v in found.values()] == ["failed"]
    assert "killed by signal 9 4 times" in next(iter(found.values()))["error"]
    assert capsys.readouterr().out.count("starts again") == jobs.RESTARTS


def test_slots_are_gpus_where_there_are_some(monkeypatch):
    import torch

    cells = list(s.spec_from_dict(SPEC).cells)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [x.gpu for x in jobs.make_slots(cells)] == ["0", "1", "2"]
    assert [x.gpu for x in jobs.make_slots(cells, workers=2)] == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7,6")
    assert [x.gpu for x in jobs.make_slots(cells)] == ["5", "7", "6"]
    cpu = list(s.spec_from_dict({**SPEC, "set": {"device": "cpu"}}).cells)
    assert [x.gpu for x in jobs.make_slots(cpu, workers=2)] == ["", ""]


def test_live_table_shows_running_and_failed_cells_and_escapes_markup(tmp_path):
    from rich.console import Console

    spec = s.spec_from_dict({**SPEC, "settings": {"[red]a[/red]": {"variant": "corrected"}}, "compare": None})
    jobs.prepare(spec, tmp_path, 1)
    jobs.write_status(tmp_path / spec.cells[0].name, "failed", error="[bold]broken[/bold]")
    (tmp_path / spec.cells[0].name / "log.txt").write_text("one\n\x1b[31mred\x1b[0m 10%\r 20%\n")
    console = Console(width=200, record=True, file=open(os.devnull, "w"))
    console.print(board.status_table(spec, tmp_path))
    text = console.export_text()
    assert "[bold]broken[/bold]" in text and "1 failed, 7 pending" in text
    assert jobs.last_lines(tmp_path / spec.cells[0].name) == ["one", "20%"]


# --- SLURM -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder with stand-in SLURM commands first in the PATH."""
    from slurm_standin import install

    for name, value in install(tmp_path / "cluster").items():
        monkeypatch.setenv(name, value)
    state = tmp_path / "cluster" / "state"
    yield state
    for path in state.glob("task-*.pid"):  # nothing that the stand-in started outlives the test
        with suppress(psutil.NoSuchProcess):  # most have ended, one may be ending just now
            task = psutil.Process(int(path.read_text()))
            for process in [*task.children(recursive=True), task]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()


def wait_for(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("waited in vain")


@pytest.mark.slow
def test_a_preempted_job_is_requeued_and_goes_on_from_its_checkpoint(tmp_path, cluster, monkeypatch):
    from tlg_lib.runs.slurm import submit

    spec = s.spec_from_dict(
        {
            "name": "c",
            "preset": "smoke",
            "grid": {"fold": [0, 1]},
            "slurm": {
                "time_min": 90,
                "partition": "gpu",
                "array_parallelism": 2,
                "mem_gb": 3,
                "gpus_per_node": 1,
                "cpus_per_task": 2,
            },
        }
    )
    folder = tmp_path / "sweep"
    notebook = make_notebook(tmp_path / "light.ipynb", seconds=4)
    training = folder / spec.cells[1].name / "training"
    monkeypatch.setenv("STANDIN_PREEMPT", f"1:{training / 'state.json'}")
    assert submit(spec, folder, notebook=str(notebook)) == 2
    script = (cluster / "job-1000").read_text()
    for line in (
        "--array=0-1%2",
        "--time=90",
        "--partition=gpu",
        "--mem=3GB",
        "--gpus-per-node=1",
        "--signal=USR2@120",
        "--requeue",
        "--open-mode=append",
        "--cpus-per-task=2",
    ):
        assert line in script.replace("'", ""), f"{line} not in\n{script}"
    assert submit(spec, folder, notebook=str(notebook)) == 0, "queued and running cells are not submitted again"
    wait_for(lambda: all(v["state"] == "done" for v in jobs.states(spec, folder).values()))
    assert (cluster / "preempted").exists()
    assert (cluster / "starts-1000_0").read_text() == "x" and (cluster / "starts-1000_1").read_text() == "xx"
    first, second = map(int, (training / "starts.txt").read_text().split())
    assert first == 0 < second < 20, "the second start goes on where the first was stopped"
    finish(spec, tmp_path / "undisturbed")
    assert collect(spec, folder) == collect(spec, tmp_path / "undisturbed")


@pytest.mark.slow
def test_jobs_that_left_the_queue_are_submitted_again(tmp_path, cluster, capsys):
    from tlg_lib.runs.slurm import cancel, refresh, submit

    spec = s.spec_from_dict({"name": "c", "preset": "smoke", "grid": {"fold": [0, 1]}})
    folder = tmp_path / "sweep"
    jobs.prepare(spec, folder, 1)
    jobs.write_status(folder / spec.cells[0].name, "queued", job="77_0")
    jobs.write_status(folder / spec.cells[1].name, "queued", job="77_1")
    (cluster / "queue-77_0").touch()
    refresh(spec, folder)
    assert [v["state"] for v in jobs.states(spec, folder).values()] == ["queued", "interrupted"]
    assert cancel(spec, folder) == 1 and (cluster / "cancelled-77_0").exists()
    notebook = make_notebook(tmp_path / "light.ipynb", seconds=0.05)
    assert submit(spec, folder, notebook=str(notebook)) == 2
    wait_for(lambda: all(v["state"] == "done" for v in jobs.states(spec, folder).values()))


@pytest.mark.parametrize(
    "options, code, message", [({"partition": "nosuch"}, 1, "sbatch refused the job: .*invalid partition")]
)
def test_what_sbatch_does_not_take_is_one_line(tmp_path, cluster, options, code, message):
    from tlg_lib.runs.slurm import submit

    spec = s.spec_from_dict({"name": "c", "preset": "smoke", "grid": {"fold": [0, 1]}, "slurm": options})
    with pytest.raises(TLGError, match=message) as caught:
        submit(spec, tmp_path / "sweep")
    assert caught.value.code == code
    assert {v["state"] for v in jobs.states(spec, tmp_path / "sweep").values()} == {"pending"}


def test_without_slurm_the_line_says_so(tmp_path, monkeypatch):
    from tlg_lib.runs.slurm import submit

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TLGError, match="no `sbatch` here") as caught:
        submit(s.spec_from_dict(SPEC), tmp_path / "sweep")
    assert caught.value.code == 3
