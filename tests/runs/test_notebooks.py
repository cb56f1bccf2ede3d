"""`tlg run`: papermill over small notebooks made here; resume, failure, refusal, interruption."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import pytest

from tlg_lib.errors import TLGError
from tlg_lib.machine.locks import folder_lock
from tlg_lib.runs.notebooks import (
    LOCK_NAME,
    declared_parameters,
    find_notebooks,
    merge_parameters,
    read_preset,
    run_notebooks,
)

KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def write_notebook(path, *cells, parameters='preset = "mini"\nout = ""\nword = "none"'):
    """A notebook with a parameters cell, a heading and these code cells."""
    v4 = nbformat.v4
    first = v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    book = v4.new_notebook(
        cells=[first, v4.new_markdown_cell("## The work"), *map(v4.new_code_cell, cells)],
        metadata={"kernelspec": KERNEL},
    )
    nbformat.write(book, path)
    return path


LOG = 'from pathlib import Path\nwith open(Path(out) / "log.txt", "a") as f:\n    print("{0}", word, file=f)'


@pytest.fixture(autouse=True)
def library(monkeypatch):
    """The library's own digest held still, so that editing a module while tests run changes nothing."""
    state = {"digest": "one"}
    monkeypatch.setattr("tlg_lib.runs.notebooks.code_digest", lambda **_: state["digest"])
    return state


@pytest.fixture
def books(tmp_path):
    folder = tmp_path / "books"
    folder.mkdir()
    write_notebook(folder / "01_second.ipynb", LOG.format("second"))
    write_notebook(folder / "00_first.ipynb", LOG.format("first"))
    return folder


def run(books, out, **kwargs):
    return run_notebooks("mini", out=out, notebooks=find_notebooks(books), check=False, **kwargs)


def log(out):
    return (out / "log.txt").read_text().split("\n")[:-1]


def test_order_parameters_skip_and_rerun_when_changed(books, tmp_path, capsys, library):
    out = tmp_path / "run"
    run(books, out, settings={"word": "hello"})
    assert log(out) == ["first hello", "second hello"]
    run(books, out, settings={"word": "hello"})
    assert log(out) == ["first hello", "second hello"]  # nothing ran again
    assert capsys.readouterr().out.count("done before, skipped") == 2
    write_notebook(books / "01_second.ipynb", LOG.format("changed"))
    run(books, out, settings={"word": "hello"})
    assert log(out)[2:] == ["changed hello"]  # only the notebook whose source changed
    library["digest"] = "two"
    run(books, out, settings={"word": "hello"})
    assert log(out)[3:] == ["first hello", "changed hello"]  # a changed library makes every copy stale
    executed = nbformat.read(out / "00_first.ipynb", as_version=4)
    assert executed.metadata["tlg"]["parameters"]["word"] == "hello"


TRANSPORT = """import json, ipykernel
with open(Path(out) / "log.txt", "a") as f:
    print(json.loads(ipykernel.get_connection_info())["transport"], file=f)"""


@pytest.mark.skipif(os.name != "posix", reason="sockets as files need a POSIX system")
@pytest.mark.parametrize("length, transport", [(30, "ipc"), (120, "tcp")])
def test_kernels_take_no_port_that_another_process_may_take(tmp_path, monkeypatch, length, transport):
    """Between the search for a free port and its use another process may have it; a long path must run too."""
    with tempfile.TemporaryDirectory() as short:
        place = Path(short) / ("x" * max(1, length - len(short) - 1))
        place.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(place))
        books = tmp_path / "books"
        books.mkdir()
        write_notebook(books / "00_first.ipynb", LOG.format("first"), TRANSPORT)
        run(books, tmp_path / "run")
        assert log(tmp_path / "run") == ["first none", transport]
        assert not list(place.iterdir()), "the sockets' folder goes with the kernel"


def test_failing_cell_names_the_cell_keeps_the_copy_and_goes_on_after_the_remedy(books, tmp_path):
    out = tmp_path / "run"
    write_notebook(books / "01_second.ipynb", "x = 1", "raise ValueError('first line\\nthe last line')", "y = 2")
    with pytest.raises(TLGError) as caught:
        run(books, out)
    message = str(caught.value)
    assert caught.value.code == 1
    assert "01_second.ipynb" in message and "The work" in message and "ValueError: the last line" in message
    executed = nbformat.read(out / "01_second.ipynb", as_version=4)
    kinds = [o.output_type for c in executed.cells if c.cell_type == "code" for o in c.outputs]
    assert "error" in kinds and "tlg" not in executed.metadata
    write_notebook(books / "01_second.ipynb", LOG.format("mended"))
    run(books, out)
    assert log(out) == ["first none", "mended none"]


def test_two_runs_in_one_folder_refuse_each_other(books, tmp_path):
    out = tmp_path / "run"
    with folder_lock(out, name=LOCK_NAME), pytest.raises(TLGError, match="in use") as caught:
        run(books, out)
    assert caught.value.code == 4


def test_interrupted_run_exits_130_and_resumes(books, tmp_path):
    """Ctrl-C as a terminal sends it, to the whole process group, while the second notebook works."""
    out = tmp_path / "run"
    waiting = (
        'import time\nfrom pathlib import Path\nif not (Path(out) / "go").exists():\n'
        '    (Path(out) / "waiting").touch()\n    time.sleep(600)\n'
    )
    write_notebook(books / "01_second.ipynb", waiting + LOG.format("second"))
    script = (
        # A shell that starts the tests in the background has them ignore SIGINT, and children inherit that.
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from tlg_lib.runs import notebooks as run\nfrom pathlib import Path\nrun.code_digest = lambda **_: 'one'\n"
        f"try:\n    run.run_notebooks('mini', out={str(out)!r}, notebooks=run.find_notebooks(Path({str(books)!r})),"
        " check=False)\nexcept KeyboardInterrupt:\n    raise SystemExit(130)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (out / "waiting").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    assert (out / "waiting").exists(), process.communicate()[1]
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert log(out) == ["first none"]
    (out / "go").touch()
    run(books, out)
    assert log(out) == ["first none", "second none"]  # the first was not run again


def test_names_are_refused_with_the_closest_one():
    known = {"preset": "mini", "fold": "all", "settings": "", "word": "none", "seed": 0, "strong": False}
    with pytest.raises(TLGError, match="unknown parameter 'fodl': did you mean 'fold'"):
        merge_parameters({"preset": "mini"}, {}, {"fodl": "1"}, known)
    with pytest.raises(TLGError, match="did you mean 'steps'"):
        merge_parameters({"preset": "mini"}, {}, {"stpes": "1"}, known)
    with pytest.raises(TLGError, match="unknown parameter 'wrod'"):
        merge_parameters({"preset": "mini", "wrod": 1}, {}, {}, known)
    merged = merge_parameters(
        {"preset": "mini", "settings": "lr=1e-3"}, {"fold": 2}, {"steps": "9", "word": "3"}, known
    )
    assert merged == {"preset": "mini", "fold": "2", "word": "3", "settings": "lr=1e-3; steps=9"}
    merged = merge_parameters({}, {}, {"seed": "0,1", "strong": "off", "word": "2012"}, known)
    assert merged == {"seed": "0,1", "strong": False, "word": "2012"}


@pytest.mark.parametrize(
    "name, value",
    [
        ("seed", "9" * 5000),
        ("seed", "\u00b2"),
        ("seed", b"1"),
        ("seed", {"a": 1}),
        ("seed", "1.5"),
        ("strong", "maybe"),
        ("word", "a\0b"),
        ("word", "\ud800"),
        ("word", ["a"]),
        ("preset", {}),
        ("steps", "1; lr=2"),
    ],
)
def test_a_parameter_of_another_kind_is_one_line(name, value):
    known = {"preset": "mini", "word": "none", "seed": 0, "strong": False}
    with pytest.raises(TLGError) as caught:
        merge_parameters({}, {}, {name: value}, known)
    assert name in str(caught.value) and len(str(caught.value)) < 200


def test_presets_by_file_by_name_and_unknown():
    assert read_preset("pascal-vgg16")["backbone"] == "vgg16"
    assert read_preset("smoke")["preset"] == "smoke"
    with pytest.raises(TLGError, match="unknown preset 'pascall'.*did you mean 'pascal'"):
        read_preset("pascall")


def test_parameters_cell_must_hold_literals(tmp_path):
    bad = write_notebook(tmp_path / "00_bad.ipynb", parameters="import os\nhome = os.getcwd()")
    with pytest.raises(TLGError, match="literal"):
        declared_parameters(bad)
    (tmp_path / "01_none.ipynb").write_text(
        json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    )
    with pytest.raises(TLGError, match="parameters"):
        declared_parameters(tmp_path / "01_none.ipynb")


def test_bad_input_is_one_line_and_a_code_before_any_notebook(tmp_path, capsys):
    from tlg_lib.cli import main

    for arguments in (
        ["run", "mini", "--fold", "7"],
        ["run", "mini", "--shots", "0"],
        ["run", "minni"],
        ["run", "mini", "--set", "stpes=3"],
        ["run", "pascal-lite", "--data", str(tmp_path / "none")],
        ["run", "mini", "--set", f"data={tmp_path / 'none'}"],
        ["run", "smoke", "--data", str(tmp_path / "none")],
    ):
        with pytest.raises(SystemExit) as caught:
            main([*arguments, "--out", str(tmp_path / "out")])
        error = capsys.readouterr().err
        assert caught.value.code not in (0, None), arguments
        assert error.startswith("error: ") and len(error.strip().splitlines()) == 1, error
        assert not list(tmp_path.glob("out/*.ipynb")) and not (tmp_path / "none").exists()
