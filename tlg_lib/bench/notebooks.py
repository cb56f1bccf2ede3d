"""Where the time of a `tlg run` went, notebook by notebook and cell by cell."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import TLGError
from .table import markdown


def notebook_profile(folder: str | Path, slowest: int = 12) -> tuple[dict, str]:
    """Seconds per notebook and of the slowest cells of a `tlg run` folder, from papermill's own clock.

    Returns (plain values, table). Raises TLGError when no executed notebook is there.
    """
    folder, books, cells = Path(folder), {}, []
    for path in sorted(folder.glob("*.ipynb")):
        document = json.loads(path.read_text(encoding="utf-8"))
        books[path.stem] = document["metadata"].get("papermill", {}).get("duration") or 0.0
        for number, cell in enumerate(document["cells"]):
            took = cell["metadata"].get("papermill", {}).get("duration") or 0.0
            first = next((line.strip() for line in cell["source"] if line.strip()), "")
            cells.append({"notebook": path.stem, "cell": number, "seconds": took, "begins": first[:60]})
    if not books:
        raise TLGError(
            f"no executed notebooks in {folder}: run `tlg run mini` first, or name the folder with --out", code=3
        )
    cells.sort(key=lambda cell: -cell["seconds"])
    total = sum(books.values())
    first = markdown(
        ["notebook", "seconds", "share"],
        [[k, f"{v:.1f}", f"{100 * v / max(total, 1e-9):.0f}%"] for k, v in [*books.items(), ("sum", total)]],
    )
    second = markdown(
        ["slowest cells", "cell", "seconds", "begins with"],
        [[c["notebook"], c["cell"], f"{c['seconds']:.1f}", c["begins"]] for c in cells[:slowest]],
    )
    return {"notebooks": books, "cells": cells[:slowest], "total": total}, f"{first}\n\n{second}"
