"""Every notebook: parameters, headings, cell length, no absolute path, no stored output; nbval really compares."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tlg_lib.errors import TLGError
from tlg_lib.machine.safe_yaml import read_yaml
from tlg_lib.runs.notebook import PARAMETERS, assigned_names, read_settings, refuse_unknown_parameters
from tlg_lib.runs.notebook import setup as begin  # pytest 8.0 calls what a test module names `setup`
from tlg_lib.runs.notebooks import declared_parameters, find_notebooks, read_preset

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
BOOKS = sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))
CHECKED = "# NBVAL_CHECK_OUTPUT"
ABSOLUTE = re.compile(r"""(?<![\w.])/(?:home|root|work|tmp|Users|mnt|opt|usr)/|[A-Z]:\\\\""")


@pytest.fixture(params=BOOKS, ids=lambda path: path.stem)
def book(request):
    return nbformat.read(request.param, as_version=4)


def code_cells(book):
    return [cell for cell in book.cells if cell.cell_type == "code"]


BUILT = [p for p in BOOKS if p.stem[:2] in ("03", "04", "05", "06")]
FIGURE = re.compile(r"\brun\.show\(|\bshown_with\(")
ASKED = re.compile(r"\?|\*\*(?:predict|guess|find)\b", re.I)
SCORE = re.compile(r"\b\d+(?:\.\d+)?\s*(?:mIoU|points?\b|IoU\b|%)")


def code_of(path):
    """All code of a notebook as one text."""
    return "\n".join(cell.source for cell in code_cells(nbformat.read(path, as_version=4)))


def numbered(number):
    return next(FOLDER.glob(f"{number}_*.ipynb"))


def prose(book):
    return [cell.source for cell in book.cells if cell.cell_type == "markdown"]


@pytest.mark.parametrize("path", BUILT, ids=lambda path: path.stem)
def test_modules_are_trained_in_view_and_then_held_against_the_librarys(path):
    code = [c.source for c in code_cells(nbformat.read(path, as_version=4))]
    loops = [i for i, source in enumerate(code) if "loss.backward()" in source and "optimizer.step()" in source]
    assert loops, "no optimizer step in view"
    for beat in ("zero_grad", "loss ="):
        assert any(beat in code[i] for i in loops), beat
    later = "\n".join(code[loops[0] + 1 :])
    assert "assert torch.allclose" in later or "assert all(torch.allclose" in later


def test_every_figure_is_followed_by_a_sentence(book):
    """A figure's cell ends with rendered text, or a cell with text comes next."""
    cells = book.cells
    for cell, after in zip(cells, [*cells[1:], None]):
        if cell.cell_type == "code" and re.search(r"run\.show(_network)?\(", cell.source):
            told = "Markdown(" in cell.source[cell.source.index("run.show") :]
            follows = after is not None and (after.cell_type == "markdown" or "Markdown(" in after.source)
            assert told or follows, cell.source


def test_every_figure_follows_a_question(book):
    """Between a figure and the one before it something is asked, so that the reader guesses first."""
    told = ""
    for cell in book.cells:
        if cell.cell_type == "markdown":
            told += cell.source
        elif FIGURE.search(cell.source):
            assert ASKED.search(told), cell.source
            told = ""


def test_one_network_grows_on_one_card_with_the_drawing_of_the_part_that_is_new():
    from tlg_lib.look.diagram import PARTS
    from tlg_lib.runs.trials import ROWS

    added, lit = [], {}
    for path in BOOKS:
        code = code_of(path)
        added += re.findall(r"card\.add\(\"([^\"]+)\"", code)
        if drawn := re.findall(r"run\.show_network\(config(?:, lit=\"(\w+)\")?\)", code):
            lit[path.stem[:2]] = drawn
    assert added == list(ROWS)
    lessons = {n: lit.pop(n) for n in ("00", "03", "04", "05", "06")}
    assert lessons.pop("00") == [""] and [part for parts in lessons.values() for part in parts] == list(PARTS)[1:]


@pytest.mark.parametrize("number", ["03", "04", "05", "07", "11"])
def test_what_is_claimed_of_a_part_is_a_verdict_that_can_go_either_way(number):
    assert re.search(r"\bverdict\(|\bbelieved\(", code_of(numbered(number)))


@pytest.mark.parametrize("number", ["00", "01", "02", "03", "04", "08"])
def test_what_shows_one_episode_shows_the_same_one(number):
    """The third of the test list goes with the reader; other pictures are chosen by rank or drawn by lot."""
    code = code_of(numbered(number))
    third = r"test_episodes\(config, 3\)\[2\]|episode_number = 2\b|\(experiment, config, None, episodes\[2\]\)"
    assert re.search(third, code)
    assert not re.search(r"\bepisodes\[(?!2\]|:|i\])", code)


def test_prose_states_no_score_that_the_run_does_not_render(book):
    for text in prose(book):
        body = re.sub(r"(?s)```.*?```|\$[^$]*\$|`[^`]*`", "", text)
        assert not SCORE.search(body), SCORE.search(body)


def test_length_is_a_lessons(book):
    assert 900 <= sum(len(text.split()) for text in prose(book)) <= 2000


def test_rendered_sentences_read_the_figures(book):
    code = [c.source for c in code_cells(book)]
    figures = sum(len(re.findall(r"run\.show\(", source)) for source in code)
    assert sum("Markdown(" in source for source in code) >= figures - 1


def can_go_either_way(tree):
    """Asserts what might be false, or prints a verdict of two; ``0 <= x <= 100`` holds of any score."""
    asserted = [node.test for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    bounds = [test for test in asserted if isinstance(test, ast.Compare) and len(test.ops) > 1]
    return not bounds and bool(asserted or [node for node in ast.walk(tree) if isinstance(node, ast.IfExp)])


def test_solutions_hold_code_that_compiles_and_checks_something(book):
    from tlg_lib.runs.exercises import solutions

    found = solutions(book)
    assert sorted(found) == [1, 2, 3]
    for number, blocks in found.items():
        assert blocks, number
        for block in blocks:
            assert can_go_either_way(ast.parse(block)), (number, block)


def test_all_are_there_in_order():
    assert [p.stem[:2] for p in BOOKS] == [f"{i:02d}" for i in range(len(BOOKS))]
    assert [n.path for n in find_notebooks()] == BOOKS


def test_opening_says_what_how_long_and_what_it_needs(book):
    first = book.cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    for words in ("**You will learn**", "**Time**", "**Needs**", "CPU", "GPU"):
        assert words in first.source, words


def test_closing_has_three_exercises_with_hidden_solutions_and_the_way_on(book):
    text = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    for heading in ("## What you saw", "## Exercises", "## Way on"):
        assert heading in text, heading
    exercises = text[text.index("## Exercises") : text.index("## Way on")]
    assert exercises.count("<details>") == exercises.count("</details>") >= 3
    for solution in re.findall(r"<details>(.*?)</details>", exercises, re.S):
        assert len(re.sub(r"<summary>.*?</summary>", "", solution).strip()) > 60


def test_one_parameters_cell_of_flat_literals_before_all_other_code(book):
    tagged = [c for c in code_cells(book) if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1 and tagged[0] is code_cells(book)[0]
    for node in ast.parse(tagged[0].source).body:
        assert isinstance(node, ast.Assign) and isinstance(ast.literal_eval(node.value), (str, int, float, bool))
    for line in tagged[0].source.splitlines():  # papermill cannot read a line whose comment holds quotes or "="
        assert not re.search(r"""#.*["'=]""", line), line
    names = assigned_names(tagged[0].source)
    assert "preset" in names and "out" in names
    assert "setup(" in code_cells(book)[1].source


def test_shared_parameters_have_the_librarys_defaults():
    for path in BOOKS:
        for name, value in declared_parameters(path).items():
            if name in PARAMETERS:
                assert value == PARAMETERS[name], (path.name, name)


def test_cells_are_small_and_numbered(book):
    for number, cell in enumerate(code_cells(book), 1):
        form = "parameters" in cell.metadata.get("tags", [])  # one line a parameter, nothing to be read as code
        assert len(cell.source.splitlines()) <= 15 + form, cell.source
        assert max(map(len, cell.source.splitlines())) <= 120, cell.source
        assert cell.execution_count == number


def test_no_absolute_paths_and_no_network(book):
    for cell in book.cells:
        assert not ABSOLUTE.search(cell.source), ABSOLUTE.search(cell.source)
        if cell.cell_type == "code":
            assert not re.search(r"https?://(?!www\.w3\.org)[\w.]", cell.source), cell.source


def test_outputs_are_kept_only_where_they_are_compared_and_are_small(book):
    checked = [c for c in code_cells(book) if CHECKED in c.source]
    for cell in code_cells(book):
        if cell in checked:
            assert cell.outputs, f"marked to be compared, but nothing to compare with: {cell.source}"
            assert len(str(cell.outputs)) < 4000
        else:
            assert not cell.outputs, cell.source


def test_kernelspec_and_size(book):
    assert book.metadata.kernelspec.name == "python3"
    assert len(nbformat.writes(book)) < 100_000


def test_at_least_a_few_cells_are_compared():
    assert sum(CHECKED in c.source for p in BOOKS for c in code_cells(nbformat.read(p, as_version=4))) >= 5


def test_links_lead_somewhere(book):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", "\n".join(prose(book))):
        if not target.startswith("http"):
            assert (FOLDER / target).exists(), target


def test_params_files_name_known_parameters_and_presets():
    known = {name for n in find_notebooks() for name in n.parameters}
    files = sorted((FOLDER / "params").glob("*.yaml"))
    assert {"smoke", "mini", "pascal-lite", "pascal-resnet50", "pascal-vgg16", "coco-resnet50", "coco-vgg16"} <= {
        p.stem for p in files
    }
    for path in files:
        values = read_yaml(path)
        assert set(values) <= known, path
        assert read_preset(path.stem) == values
        begin(**values, quiet=True)


def small_book(path, source, output):
    v4 = nbformat.v4
    cell = v4.new_code_cell(source, execution_count=1, outputs=[v4.new_output("stream", name="stdout", text=output)])
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(v4.new_notebook(cells=[cell], metadata={"kernelspec": spec}), path)


@pytest.mark.parametrize(
    "source, output, right",
    [
        (f"{CHECKED}\nprint(1 + 1)", "2\n", True),
        (f"{CHECKED}\nprint(1 + 1)", "3\n", False),
        ("assert 1 == 2", "", False),
    ],
)
def test_nbval_passes_a_right_notebook_and_fails_a_wrong_one(tmp_path, source, output, right):
    small_book(tmp_path / "book.ipynb", source, output)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--nbval-lax",
            "-p",
            "no:cacheprovider",
            "-o",
            "addopts=",
            str(tmp_path / "book.ipynb"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert (done.returncode == 0) == right, done.stdout[-2000:]
    assert ("1 passed" if right else "1 failed") in done.stdout


def test_setup_refuses_bad_values_in_one_line(monkeypatch):
    monkeypatch.delenv("TLG_SMOKE", raising=False)
    for bad, words in (
        ({"preset": "minni"}, "unknown preset"),
        ({"fold": 7}, "fold=7"),
        ({"fold": "0,x"}, "whole number"),
        ({"shots": 0}, "shots"),
        ({"variant": "best"}, "unknown variant"),
        ({"seed": -1}, "seed"),
        ({"supervision": "box"}, "unknown supervision"),
        ({"settings": "stpes=3"}, "did you mean 'steps'"),
        ({"settings": "steps"}, "name=value"),
        ({"settings": "fold=1"}, "parameter of its own"),
        ({"backbone": "vgg"}, "backbone"),
    ):
        with pytest.raises(TLGError, match=re.escape(words)):
            begin(**bad, quiet=True)


def test_smoke_in_the_environment_shrinks_mini_and_says_so(monkeypatch, capsys):
    monkeypatch.setenv("TLG_SMOKE", "1")
    run = begin()
    assert run.config.preset == "smoke" and run.config.steps < 10 and run.note in capsys.readouterr().out
    monkeypatch.delenv("TLG_SMOKE")
    assert begin(quiet=True).config.preset == "mini" and begin(quiet=True).note == ""


def test_settings_string():
    assert read_settings(" steps=3;batch = 4 ; ") == {"steps": "3", "batch": "4"}
    assert read_settings("") == {}


def test_unknown_name_injected_by_papermill_is_refused_inside_the_notebook(monkeypatch):
    history = ["", 'preset = "mini"\nfold = 0', "# Parameters\nfodl = 1\n", "setup()"]
    monkeypatch.setattr("tlg_lib.runs.notebook.globals_of_kernel", lambda: {"In": history})
    with pytest.raises(TLGError, match="unknown parameter 'fodl': did you mean 'fold'"):
        refuse_unknown_parameters()
    history[2] = "# Parameters\nfold = 1\n"
    refuse_unknown_parameters()
