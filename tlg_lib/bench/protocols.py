"""What the full protocols cost on one GPU, eight, and an array of jobs, from measured times (tlg bench protocols)."""

from __future__ import annotations

import heapq
import json
from pathlib import Path

from ..config import make_config
from ..errors import TLGError
from ..runs.cost import StepTime, cell_seconds, words
from .device import cell
from .table import markdown

FOLDS, SHOTS = 4, 5
PRESETS = {"pascal": "Pascal-5i", "coco": "COCO-20i"}
VARIANTS = ("extended", "corrected", "released")


def read_device(path: Path) -> dict:
    """What ``tlg bench device`` wrote. Raises TLGError (code 3) for another file, or where nothing was measured."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        found["plan"]["batch"], found["about"], found["cells"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise TLGError(f"{path} is no result of `tlg bench device`: run that first, or name its file", code=3) from None
    return found


def step_time(result: dict, variant: str, precision: str, batch: int) -> StepTime | None:
    """Of ``batch`` episodes, from the device's cells at its own batch; compiled where that is faster and was reached.

    A step waits for the loader where workers read less than it consumes: two images an episode.
    """
    cells, own = result["cells"], result["plan"]["batch"]
    least = lambda what: min(  # noqa: E731
        (
            found["seconds"]
            for extra in ((), ("compiled",))
            if "seconds" in (found := cells.get(cell(variant, precision, what, *extra), {}))
        ),
        default=None,
    )
    step, forward = least("step"), least("forward1")
    if step is None or forward is None:
        return None
    rates = [v["images_per_second"] for k, v in cells.items() if k.startswith("loader/") and "images_per_second" in v]
    images = 2 * own / max(rates, default=float("inf"))
    return StepTime(max(step, images) * batch / own, max(forward, images) / own)


def fold_seconds(result: dict, preset: str, variant: str, precision: str) -> float | None:
    """Training one fold and scoring it: every epoch's curve, 1 and 5 shots, the wrong support, last and best epoch."""
    config = make_config(preset, variant=variant, shots=SHOTS)
    times = step_time(result, variant, precision, config.batch)
    return None if times is None else cell_seconds(config, times)


def makespan(seconds: list[float], slots: int) -> float:
    """Until the last job ends, the longest first, each on the slot that is free soonest."""
    busy = [0.0] * slots
    for job in sorted(seconds, reverse=True):
        heapq.heappush(busy, heapq.heappop(busy) + job)
    return max(busy)


def protocols(result: dict, precision: str = "bf16") -> list[dict]:
    """A row for each preset and variant with all four folds, and one for all variants of the preset together."""
    rows = []
    for preset, name in PRESETS.items():
        found = {v: fold_seconds(result, preset, v, precision) for v in VARIANTS}
        jobs = {v: [s] * FOLDS for v, s in found.items() if s is not None}
        together = {", ".join(jobs): [s for own in jobs.values() for s in own]} if len(jobs) > 1 else {}
        for label, own in (jobs | together).items():
            rows.append(
                {
                    "protocol": name,
                    "networks": label,
                    "jobs": len(own),
                    "longest": max(own),
                    **{f"gpus_{n}": makespan(own, n) for n in (1, 8)},
                    "gpu_hours": sum(own) / 3600,
                }
            )
    return rows


def protocols_table(result: dict, precision: str = "bf16") -> str:
    rows = [
        [
            f"{r['protocol']}, {r['networks']}",
            r["jobs"],
            words(r["gpus_1"]),
            words(r["gpus_8"]),
            words(r["longest"]),
            f"{r['gpu_hours']:.0f}",
        ]
        for r in protocols(result, precision)
    ]
    if not rows:
        raise TLGError(
            f"no training step and forward pass in {precision} were measured: run `tlg bench device`", code=3
        )
    header = [f"four folds, {SHOTS} shots, {precision}", "jobs", "one GPU", "eight GPUs", "SLURM array, a GPU a job"]
    return markdown([*header, "GPU hours"], rows)
