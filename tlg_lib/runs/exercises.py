"""Every exercise's solution, run: ``python -m tlg_lib.runs.exercises`` (``make exercises``).

A solution that shows code holds it in a fenced ``python`` block. Each notebook is executed, without its optional
figures on disk being kept, and then its solutions one after the other in the same kernel, each in its own cell;
what they assert must hold.
"""

from __future__ import annotations

import re
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


def run_exercises(path: Path, timeout: int = 1800) -> list[str]:
    """Execute a notebook and then the code of its solutions. Returns one line per exercise.

    Raises TLGError naming the exercise whose solution fails, or the notebook itself.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    book = nbformat.read(path, as_version=4)
    found = solutions(book)
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    with tempfile.TemporaryDirectory() as out:
        # a level down: notebook 10 looks at the runs beside its own
        place = f"# Parameters\nout = {str(Path(out) / 'run')!r}\n"
        book.cells = [cells[0], nbformat.v4.new_code_cell(place), *cells[1:]]
        known = len(book.cells)
        named = [(number, code) for number, blocks in found.items() for code in blocks]
        book.cells += [nbformat.v4.new_code_cell(code) for _, code in named]
        client = NotebookClient(book, timeout=timeout, resources={"metadata": {"path": str(path.parent)}})
        try:
            client.execute()
        except CellExecutionError as error:
            failed = next(i for i, c in enumerate(book.cells) if any(o.output_type == "error" for o in c.outputs))
            what = "the notebook itself" if failed < known else f"exercise {named[failed - known][0]}"
            raise TLGError(f"{path.name}, {what}: {error.ename}: {error.evalue}".splitlines()[0]) from None
    return [f"{path.stem}, exercise {n}: {'runs' if blocks else 'words only'}" for n, blocks in found.items()]


def main() -> int:
    """Command line: run the exercises of all notebooks, or of those whose numbers are given ("03 04")."""
    wanted = sys.argv[1:]
    try:
        for notebook in find_notebooks():
            if not wanted or notebook.path.stem[:2] in wanted:
                print("\n".join(run_exercises(notebook.path)), flush=True)
    except TLGError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
