"""Progress of long work: a bar on a terminal, about ten plain lines elsewhere, nothing when told to be quiet.

It goes to stderr, so that stdout holds results alone; in a notebook, where stderr is shown as an error, to stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from .terminal import plain

T = TypeVar("T")


def track(
    items: Iterable[T], total: int | None = None, label: str = "", unit: str = "it", show: bool = True, start: int = 0
) -> Iterator[T]:
    """Yield ``items``, telling how far they are. ``start`` counts work done by an earlier, resumed run."""
    if total is None:
        total = len(items) + start if hasattr(items, "__len__") else None
    if not show:
        yield from items
        return
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, initial=start, desc=plain(label, line=True), unit=unit, leave=False)
        return
    stream = sys.stdout if type(sys.stdout).__module__.startswith("ipykernel") else sys.stderr
    began, next_share = time.perf_counter(), 0.1
    for done, item in enumerate(items, start + 1):
        yield item
        if total and done / total >= next_share - 1e-9:
            seconds = time.perf_counter() - began
            print(f"{plain(label, line=True)}: {done}/{total} {unit}, {seconds:.0f} s", file=stream, flush=True)
            next_share = (int(10 * done / total) + 1) / 10
