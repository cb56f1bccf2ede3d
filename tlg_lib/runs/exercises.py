"""Every exercise's solution, run: ``python -m tlg_lib.runs.exercises`` (``make exercises``).

A solution that shows code holds it in a fenced ``python`` block. Each notebook is executed, without its optional
figures on disk being kept, and then its solutions one after the other in the same kernel, each in its own cell;
what they assert must hold. ``make test`` does the same at smoke size through nbval, on the copies of ``write_books``.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

from ..errors import TLGError
from .notebooks import find_notebooks

EXERCISE = re.compile(r"(?ms)^\*\*(\d+)\.\*\*(.*?)</details>")
CODE = re.compile(r"(?ms)^```python\n(.*?)^```")


def solutions(book) -> dict[int, list[str]]:
    """Exercise number -> the code blocks of its solution, of an nbformat notebook."""
    text = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    text = text[text.index("## Exercises") :] if "## Exercises" in text else ""
    return {int(number): CODE.findall(body) for number, body in EXERCISE.findall(text)}


def with_solutions(book) -> list[int]:
    """Append the code of its solutions to an nbformat notebook, a cell each; returns their exercises' numbers."""
    from nbformat.v4 import new_code_cell

    found = [(number, code) for number, blocks in solutions(book).items() for code in blocks]
    # nbval compares nothing in a cell that was never executed
    known = sum(cell.cell_type == "code" for cell in book.cells)
    book.cells += [new_code_cell(code, execution_count=known + i) for i, (_, code) in enumerate(found, 1)]
    return [number for number, _ in found]


def write_books(folder: Path) -> list[Path]:
    """Copies of all notebooks in ``folder``, the code of their solutions at the end."""
    import nbformat

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for notebook in find_notebooks():
        book = nbformat.read(notebook.path, as_version=4)
        with_solutions(book)
        written.append(folder / notebook.path.name)
        nbformat.write(book, written[-1])
    return written


def run_exercises(path: Path, run: str = "", timeout: int = 1800) -> list[str]:
    """Execute a notebook and then the code of its solutions. Returns one line per exercise.

    run: a finished run's folder, on a copy of which the notebook works, so that its networks are not trained again.
    Raises TLGError naming the exercise whose solution fails, or the notebook itself.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    book = nbformat.read(path, as_version=4)
    found, known = solutions(book), len(book.cells)
    numbers = with_solutions(book)
    with tempfile.TemporaryDirectory() as out:
        # a level down: notebook 10 looks at the runs beside its own
        place = f"# Parameters\nout = {str(Path(out) / 'run')!r}\n"
        if run:
            shutil.copytree(run, Path(out) / "run")
        given = next(i for i, cell in enumerate(book.cells) if cell.cell_type == "code") + 1
        book.cells.insert(given, nbformat.v4.new_code_cell(place))
        client = NotebookClient(book, timeout=timeout, resources={"metadata": {"path": str(path.parent)}})
        try:
            client.execute()
        except CellExecutionError as error:
            ended = (i for i, c in enumerate(book.cells) if any(o.output_type == "error" for o in c.get("outputs", ())))
            solution = next(ended) - known - 1
            what = "the notebook itself" if solution < 0 else f"exercise {numbers[solution]}"
            raise TLGError(f"{path.name}, {what}: {error.ename}: {error.evalue}".splitlines()[0]) from None
    return [f"{path.stem}, exercise {n}: {'runs' if blocks else 'words only'}" for n, blocks in found.items()]


def main() -> int:
    """Command line: run the exercises of all notebooks, or of those whose numbers are given ("03 04").

    ``--write FOLDER`` only writes the notebooks with their solutions there; ``--run FOLDER`` begins with that run.
    """
    wanted, run = sys.argv[1:], ""
    try:
        if wanted[:1] == ["--run"] and len(wanted) > 1:
            run, wanted = wanted[1], wanted[2:]
        if wanted[:1] == ["--write"] and len(wanted) == 2:
            print(f"{len(write_books(Path(wanted[1])))} notebooks with their solutions in {wanted[1]}")
            return 0
        for notebook in find_notebooks():
            if not wanted or notebook.path.stem[:2] in wanted:
                print("\n".join(run_exercises(notebook.path, run)), flush=True)
    except TLGError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
