"""Work for several threads or processes, with progress; worker processes end with the one that started them."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType
from typing import Any, TypeVar

from ..errors import TLGError
from .progress import track

In = TypeVar("In")
Out = TypeVar("Out")


class WorkerKilled(TLGError):
    """A worker process is gone without an answer."""


class _Worker(SpawnProcess):
    """A process that does not run the caller's script a second time, as multiprocessing would have it.

    A script that opens the data without ``if __name__ == "__main__"`` would meet its own lock there and wait for
    ever. What such a worker calls must stand in a module.
    """

    _one_at_a_time = threading.Lock()

    def start(self) -> None:
        with self._one_at_a_time:
            script = sys.modules["__main__"]
            sys.modules["__main__"] = ModuleType("__main__")
            try:
                super().start()
            finally:
                sys.modules["__main__"] = script


class _Apart(SpawnContext):
    Process = _Worker


APART = _Apart()  # "spawn": a child shares no locks with this process, which may hold torch's threads and a GPU


def one_per_core() -> int:
    """Processes for work that fills a core each: as many as there are cores, 8 at most."""
    return min(8, os.cpu_count() or 1)


def run_jobs(
    jobs: list[tuple[str, Callable, tuple]], workers: int, start: Callable | None = None, about: tuple = ()
) -> Iterator[tuple[int, Any]]:
    """Run (label, function, arguments) in worker processes; yield (position, result) as they finish.

    start: called once in every worker, with ``about``. Functions that the caller's script defines itself are found
    only by running it again: such a script needs the usual ``if __name__ == "__main__"``. The first failure cancels
    what has not begun and is raised, a TLGError with the job's label in front. Raises WorkerKilled when a worker is
    gone.
    """
    own = any(getattr(function, "__module__", "") == "__main__" for _, function, _ in jobs)
    with _processes(workers, start, about, get_context("spawn") if own else APART) as pool:
        futures = {pool.submit(function, *arguments): i for i, (_, function, arguments) in enumerate(jobs)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise WorkerKilled(
                "a worker process was killed, most likely for want of memory: take fewer (--workers), a "
                "smaller batch or image_size; the same command goes on with what is finished",
                code=1,
            ) from None
        except TLGError as error:
            label = jobs[futures[future]][0]
            raise TLGError(f"{label}: {error}" if label else str(error), code=error.code) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _processes(
    workers: int, start: Callable | None = None, about: tuple = (), context: SpawnContext = APART
) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(max(1, workers), context, _begin, (os.getpid(), start, about))


def _begin(parent: int, start: Callable | None, about: tuple) -> None:
    end_with(parent)
    if start:
        start(*about)


def end_with(parent: int, code: int = 1) -> None:
    """End this process once ``parent`` is gone: after kill -9 of that one it would wait for work for ever."""

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(code)

    threading.Thread(target=watch, daemon=True).start()


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
    pool = _processes(workers) if processes else ThreadPoolExecutor(workers)
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
