"""How a sweep stands, as tables in the terminal."""

from __future__ import annotations

import time
from pathlib import Path

from ..machine.terminal import console, plain, shown
from .jobs import STATES, Worker, last_lines, states
from .spec import Cell, Spec


class Table:
    """A live table on a terminal: what runs with its last line, how much is done, what failed."""

    def __init__(self):
        from rich.live import Live

        self.live = Live(refresh_per_second=4, transient=False, console=console())
        self.drawn = 0.0

    def __enter__(self):
        self.live.__enter__()
        return self

    def __exit__(self, *error):
        return self.live.__exit__(*error)

    def event(self, folder: Path, cell: Cell, state: str, detail: str) -> None:
        self.drawn = 0.0

    def show(self, spec: Spec, folder: Path, running: list[Worker]) -> None:
        if time.monotonic() - self.drawn > 1:
            self.drawn = time.monotonic()
            self.live.update(status_table(spec, folder, {w.cell.name: w for w in running}))


def status_table(spec: Spec, folder: Path, running: dict[str, Worker] | None = None, every: bool = False):
    """A rich table of the sweep: running and failed cells (or every one), counts in the title."""
    import rich.table

    found = states(spec, folder)
    count = {state: sum(s["state"] == state for s in found.values()) for state in STATES}
    title = f"{spec.name}: " + ", ".join(f"{n} {state}" for state, n in count.items() if n)
    table = rich.table.Table(title=shown(title), title_justify="left")
    for column in ("cell", "state", "time", "last line"):
        table.add_column(column, no_wrap=column != "last line")
    for name, status in found.items():
        state = status["state"]
        if not every and state not in ("running", "failed", "interrupted"):
            continue
        worker = (running or {}).get(name)
        seconds = time.monotonic() - worker.began if worker else status.get("seconds")
        error = status.get("error") if state in ("failed", "interrupted") else ""
        line = error or " ".join(last_lines(folder / name, 1))
        took = f"{seconds:.0f} s" if isinstance(seconds, (int, float)) else ""
        table.add_row(shown(name), state, took, shown(str(line)[:120]))
    return table


def failures(spec: Spec, folder: Path) -> list[str]:
    """Text lines: each failed cell, its error and the end of its log."""
    lines = []
    for name, status in states(spec, folder).items():
        if status["state"] == "failed":
            lines.append(plain(f"failed: {name}: {status.get('error', '')}", line=True))
            lines += [f"    {line}" for line in last_lines(folder / name)]
            lines.append(f"    log: {folder / name / 'log.txt'}")
    return lines
