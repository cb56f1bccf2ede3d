"""The command line as a whole: version, extras that are not installed, figures for other programs."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tlg_lib import __version__, cli
from tlg_lib.commands import options
from tlg_lib.machine.extras import EXTRAS

BLOCK = """
import sys
class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, NotInstalled())
{code}
"""


def without(blocked, code):
    text = BLOCK.format(blocked=set(blocked), code=code)
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=300)


def test_the_core_runs_without_any_extra():
    """Data, masks, training, scoring, prediction and the report import nothing that is an extra."""
    modules = "train evaluate predict experiment data.mini.make data.voc masks.generate runs.study runs.records"
    code = "import importlib\n" + "\n".join(f"importlib.import_module('tlg_lib.{m}')" for m in modules.split())
    extras = {module for extra in EXTRAS.values() for module in extra.modules}
    done = without({*extras, "torchmetrics"}, code + "\nfrom tlg_lib import cli")
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("extra, command", [("notebooks", ["run", "smoke"]), ("slurm", ["sweep", "seeds", "--slurm"])])
def test_a_missing_extra_is_one_line_that_names_it(extra, command):
    done = without(EXTRAS[extra].modules, f"from tlg_lib import cli; cli.main({command})")
    assert done.returncode == 3 and done.stderr.strip().splitlines()[-1].endswith(f"pip install 'tlg-lib[{extra}]'")
    assert "Traceback" not in done.stderr


def test_a_backend_that_matplotlib_does_not_have_is_one_line(tiny_voc, tmp_path):
    call = [sys.executable, "-m", "tlg_lib.cli", "data", "sheet", str(tiny_voc), "--out", str(tmp_path / "s.png")]
    done = subprocess.run(call, capture_output=True, text=True, env={**os.environ, "MPLBACKEND": "nonsense"})
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: MPLBACKEND names no backend")
    assert "Traceback" not in done.stderr


def test_help_loads_no_torch():
    code = "import tlg_lib.cli, sys\nassert not {'torch', 'numpy', 'pydantic', 'matplotlib'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("group", [[], ["data"], ["masks"], ["bench"]])
def test_every_command_is_told_in_a_whole_sentence_at_80_columns(group):
    done = subprocess.run(
        [sys.executable, "-m", "tlg_lib.cli", *group, "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    listed = done.stdout[done.stdout.index("Commands:") :].splitlines()[1:]
    assert listed and all(len(line) <= 80 and line.endswith(".") for line in listed)
    assert not [line for line in listed if line.endswith("...")]


def test_version_is_printed(capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(["--version"])
    assert exit.value.code == 0 and capsys.readouterr().out == f"tlg {__version__}\n"


def test_verify_gives_its_figures_to_other_programs(tiny_voc, capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(["data", "verify", str(tiny_voc), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert exit.value.code == 0 and report["images"] == 80 and len(report["classes"]) == 20


def test_a_generated_folder_is_verified_as_mini(tiny_voc, tmp_path, capsys):
    folder = shutil.copytree(tiny_voc, tmp_path / "made")
    for settings, dataset in (("{}", "pascal"), ('{"test_seed": 2}', "mini")):
        (folder / "generator.json").write_text(settings)
        with pytest.raises(SystemExit):
            cli.main(["data", "verify", str(folder), "--json"])
        assert json.loads(capsys.readouterr().out)["dataset"] == dataset


@pytest.mark.parametrize("command", ["grid", "converge", "choose", "ladder", "curve"])
@pytest.mark.parametrize("given", ["--folds 0,x", "--seeds 1.5", "--seeds -1", "--fold 0,,1", "--seed ²"])
def test_folds_and_seeds_are_whole_numbers_everywhere(command, given, capsys, tmp_path):
    with pytest.raises(SystemExit) as exit:
        cli.main([command, "smoke", "--out", str(tmp_path / "out"), *given.split()])
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert exit.value.code == 2 and 'expected a whole number, several as "0,1", or "all"' in said
    assert not (tmp_path / "out").exists()


def test_folds_and_seeds_by_a_word_or_numbers():
    assert options.cells("all", "all") == ((0, 1, 2, 3), (0,)) and options.cells("3, 0,3", "7") == ((3, 0), (7,))


def test_masks_verify_gives_its_figures_to_other_programs(tiny_voc, capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(["masks", "verify", "--data", str(tiny_voc), "--dataset", "pascal", "--json"])
    report = json.loads(capsys.readouterr().out)
    present, wanted = report["coverage"]["val/fold0"]
    assert (
        exit.value.code == 0 and present == wanted > 0 and report["missing"] == [] and 0 < report["miou"]["all"] <= 100
    )


def test_progress_leaves_stdout_to_results(capsys):
    from tlg_lib.machine.progress import track

    assert list(track(range(20), label="work", unit="steps")) == list(range(20))
    streams = capsys.readouterr()
    assert streams.out == "" and "work: 20/20 steps" in streams.err


def test_notebooks_are_copied_and_changed_copies_kept(tmp_path, capsys):
    for _ in range(2):
        with pytest.raises(SystemExit) as exit:
            cli.main(["notebooks", str(tmp_path / "mine")])
        assert exit.value.code == 0
    changed = tmp_path / "mine" / "00_start_here.ipynb"
    changed.write_text("{}")
    with pytest.raises(SystemExit):
        cli.main(["notebooks", str(tmp_path / "mine")])
    assert changed.read_text() == "{}" and f"kept as it is: {changed}" in capsys.readouterr().out
