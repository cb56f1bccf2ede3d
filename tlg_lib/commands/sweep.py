"""`tlg sweep`: a grid of runs on this machine or a SLURM cluster, resumable, with an aggregated table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as o


def command(
    spec: Annotated[str, typer.Argument(help="a YAML file, or paper-table-1, paper-table-2, seeds")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="list the cells and what they will cost; run nothing")
    ] = False,
    workers: Annotated[int, typer.Option(min=0, max=256, help="cells at a time (0: one per GPU, or per core)")] = 0,
    retry: Annotated[bool, typer.Option("--retry", help="run failed cells again")] = False,
    status: Annotated[bool, typer.Option("--status", help="show every cell and write the tables; run nothing")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="stop the sweep where it runs; it can go on later")] = False,
    slurm: Annotated[bool, typer.Option("--slurm", help="submit to SLURM (options: the spec's slurm entry)")] = False,
    out: Annotated[Path | None, typer.Option(help="folder of the sweep (default runs/sweeps/NAME)")] = None,
    notebook: Annotated[str, typer.Option(help="an .ipynb to run in place of the library's for every cell")] = "",
    settings: o.Set = None,
) -> None:
    """Run what is left of a sweep. The same command starts it, goes on after any interruption and runs
    cells that were added to the spec. Exit code 8: some cells failed; they are listed, --retry runs them."""
    from ..runs.spec import load_spec, sweep_folder

    plan = load_spec(spec, o.parse_settings(settings))
    folder = sweep_folder(plan, out or "")
    if stop:
        from ..runs import jobs, slurm

        cancelled = slurm.cancel(plan, folder)
        print(f"cancelled {cancelled} jobs" if cancelled else jobs.stop(folder))
    elif dry_run:
        _dry_run(plan, folder, workers)
    else:
        _work(plan, folder, spec, status, slurm, {"retry": retry, "notebook": notebook}, workers)
        _tell(plan, folder, spec)


def _work(plan, folder: Path, spec: str, status: bool, cluster: bool, how: dict, workers: int) -> None:
    """Show every cell, hand what is left to SLURM, or run it here."""
    import sys

    from ..machine.terminal import console
    from ..runs import board, jobs, slurm

    if status:
        jobs.recheck(plan, folder)
        slurm.refresh(plan, folder)
        console().print(board.status_table(plan, folder, every=True))
    elif cluster:
        count = slurm.submit(plan, folder, **how)
        print(f"submitted {count} cells; `tlg sweep {spec} --status` shows them" if count else "nothing to submit")
    else:
        shown = board.Table() if sys.stdout.isatty() else jobs.Lines()
        jobs.run_local(plan, folder, workers=workers, board=shown, **how)


def _tell(plan, folder: Path, spec: str) -> None:
    """Write the tables of what is done and list what failed (TLGError with code 8)."""
    from ..errors import TLGError
    from ..machine.terminal import console
    from ..runs.board import failures
    from ..runs.jobs import states
    from ..runs.spec import FAILED_CODE
    from ..runs.tables import collect, summarise, summary_table, write_results

    if files := write_results(plan, folder):
        console().print(summary_table(summarise(collect(plan, folder))))
        print("\n".join(f"wrote {path}" for path in files))
    if failed := failures(plan, folder):
        print("\n".join(failed))
        count = sum(state["state"] == "failed" for state in states(plan, folder).values())
        raise TLGError(
            f"{count} of {len(plan.cells)} cells failed (listed above): after a remedy, `tlg sweep {spec} --retry`",
            code=FAILED_CODE,
        )


def _dry_run(plan, folder, workers: int) -> None:
    """The cells that would run, with the time measured for each kind of network."""
    from rich.table import Table

    from ..machine.terminal import console, shown
    from ..runs.cost import estimate, words
    from ..runs.jobs import make_slots, states, to_run

    found, left = states(plan, folder), to_run(plan, folder, retry=True)
    seconds = estimate(plan, folder, left)
    table = Table(title=f"{shown(plan.name)}: {len(plan.cells)} cells, {len(left)} to run", title_justify="left")
    for column in ("cell", "state", "estimate"):
        table.add_column(column)
    for cell in plan.cells:
        cost = words(seconds[cell.name]) if cell.name in seconds else ""
        table.add_row(shown(cell.name), found[cell.name]["state"], cost)
    console().print(table)
    slots = make_slots(left, workers) if left else []
    total = sum(seconds.values())
    print(
        f"about {words(total)} of computing, {words(total / max(1, len(slots)))} on {len(slots)} x "
        f"{slots[0].label.split()[0] if slots else 'cpu'} (step times measured here; nothing was run)"
    )
