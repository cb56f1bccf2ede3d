"""Solutions of exercises: they run behind their notebook, and a false one is told by its number."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tlg_lib.errors import TLGError
from tlg_lib.runs.exercises import run_exercises, solutions, with_solutions, write_books
from tlg_lib.runs.notebooks import find_notebooks

EXERCISES = """## Exercises
**1.** What is `seen` doubled?
<details><summary>Solution</summary>

```python
assert 2 * seen == {doubled}
```
</details>

**2.** In words.
<details><summary>Solution</summary>By thinking.</details>

## Way on
"""


def lesson(doubled, first="seen = 21"):
    cells = [new_code_cell("out = ''"), new_code_cell(first)]
    return new_notebook(cells=[*cells, new_markdown_cell(EXERCISES.replace("{doubled}", str(doubled)))])


def saved(path, book):
    nbformat.write(book, path)
    return path


def test_every_notebook_gets_its_three_solutions_as_cells_at_the_end(tmp_path):
    written = write_books(tmp_path / "deep" / "books")
    assert [path.name for path in written] == [notebook.path.name for notebook in find_notebooks()]
    for path, notebook in zip(written, find_notebooks()):
        before, after = (nbformat.read(p, as_version=4).cells for p in (notebook.path, path))
        assert after[: len(before)] == before
        added = after[len(before) :]
        assert len(added) >= 3 and all(cell.cell_type == "code" for cell in added)
        told = solutions(nbformat.read(notebook.path, as_version=4))
        assert [cell.source for cell in added] == [code for blocks in told.values() for code in blocks]


def test_solutions_keep_the_numbers_of_their_exercises():
    book = lesson(42)
    assert with_solutions(book) == [1]
    assert book.cells[-1].source.strip() == "assert 2 * seen == 42" and book.cells[-1].execution_count == 3


def test_a_finished_run_is_begun_with_and_left_as_it_is(tmp_path):
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "network").write_text("21")
    first = "from pathlib import Path\nseen = int(Path(out, 'network').read_text())\nPath(out, 'more').touch()"
    lines = run_exercises(saved(tmp_path / "book.ipynb", lesson(42, first)), str(tmp_path / "done"))
    assert lines[0] == "book, exercise 1: runs"
    assert [path.name for path in (tmp_path / "done").iterdir()] == ["network"]


def test_a_right_solution_runs_and_a_wrong_one_is_named(tmp_path):
    assert run_exercises(saved(tmp_path / "right.ipynb", lesson(42))) == [
        "right, exercise 1: runs",
        "right, exercise 2: words only",
    ]
    with pytest.raises(TLGError, match="wrong.ipynb, exercise 1: AssertionError"):
        run_exercises(saved(tmp_path / "wrong.ipynb", lesson(43)))
    with pytest.raises(TLGError, match="broken.ipynb, the notebook itself: ZeroDivisionError"):
        run_exercises(saved(tmp_path / "broken.ipynb", lesson(42, "seen = 1 / 0")))
