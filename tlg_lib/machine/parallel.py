"""The same function over many files at once, in order, with progress."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from itertools import islice
from multiprocessing import get_context
from typing import TypeVar

from .progress import track

In = TypeVar("In")
Out = TypeVar("Out")


def parallel_map(
    function: Callable[[In], Out],
    items: list[In],
    label: str,
    *,
    unit: str = "files",
    processes: bool = False,
    show: bool = True,
) -> Iterator[Out]:
    """Yield ``function(item)`` in the order of ``items``; the first exception ends the work.

    Threads by default: Pillow decodes outside Python's lock. processes=True for work in pure Python; the
    function and its items must then be importable and picklable. Few items run in the caller's own thread, as
    starting workers (seconds for processes) would cost more than it brings.
    """
    workers = min(os.cpu_count() or 1, 16)
    if workers == 1 or len(items) < (512 if processes else 32):
        yield from track((function(item) for item in items), total=len(items), label=label, unit=unit, show=show)
        return
    # A spawned child shares no locks with this process, which may hold torch's threads.
    pool = ProcessPoolExecutor(workers, get_context("spawn")) if processes else ThreadPoolExecutor(workers)
    with pool:
        try:
            yield from track(
                _ahead(pool, function, items, 4 * workers), total=len(items), label=label, unit=unit, show=show
            )
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _ahead(pool: Executor, function: Callable[[In], Out], items: Iterable[In], depth: int) -> Iterator[Out]:
    """Results in order with at most ``depth`` tasks waiting, so that memory does not grow with the list."""
    remaining = iter(items)
    waiting = [pool.submit(function, item) for item in islice(remaining, depth)]
    while waiting:
        result = waiting.pop(0).result()
        waiting.extend(pool.submit(function, item) for item in islice(remaining, 1))
        yield result
