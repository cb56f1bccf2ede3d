"""Batches read ahead: worker processes decode what the next steps need while the device works on this one.

The order is that of the groups, and a group is read by one function of its episodes, so a batch is the same to the bit
whoever reads it, and training that goes on inside an epoch reads the same again. Memory is pinned for a GPU, and the
copy to it runs on a stream of its own.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from ..errors import TLGError
from .parallel import APART, WorkerKilled, end_with

FEW = 40  # groups; workers start in as long as this process takes to read so many
AHEAD = 3  # groups that each worker holds ready


class Groups(Protocol):
    """What is read together (lists of episodes), in order, each made when it is asked for: a list of them, or a
    function of the step."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class _Groups(Dataset):
    """Read by its episodes; an error travels as a value, so that it arrives as it was raised."""

    def __init__(self, read: Callable, training: bool):
        self.read, self.training = read, training

    def __getitem__(self, episodes: list):
        try:
            return self.read(episodes, self.training)
        except TLGError as error:
            return error


def read_ahead(read: Callable, groups: Groups, workers: int, device: torch.device, training: bool = False) -> Iterator:
    """``read(episodes, training)`` of each group, in order, on the device (a ``batches.Read``).

    Workers start where there are more than FEW groups. Raises TLGError of a file that cannot be read, and WorkerKilled
    when a worker is gone.
    """
    in_order = (groups[index] for index in range(len(groups)))
    if not workers or len(groups) <= FEW:
        for episodes in in_order:
            yield read(episodes, training).to(device)
        return
    loader = DataLoader(
        _Groups(read, training),
        batch_size=None,
        sampler=in_order,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=device.type == "cuda",
        prefetch_factor=AHEAD,
        multiprocessing_context=APART,
        worker_init_fn=partial(_begin, os.getpid()),
        generator=torch.Generator(),  # else workers would take a number from the one that training draws from
    )
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    with worker_deaths_in_one_line(ConnectionError, EOFError):
        for found in loader:
            if isinstance(found, TLGError):
                raise found
            yield found.to(device) if stream is None else _copied(found, device, stream)


def _as_it_is(found):
    return found


def _begin(parent: int, worker: int) -> None:
    end_with(parent)


def _copied(found, device: torch.device, stream: torch.cuda.Stream):
    """On the device by ``stream``, whose copies do not wait for the work that is queued on the present one."""
    present = torch.cuda.current_stream(device)
    with torch.cuda.stream(stream):
        found = found.to(device)
    present.wait_stream(stream)
    for tensor in found:
        if isinstance(tensor, torch.Tensor):
            tensor.record_stream(present)  # memory of ``stream`` that is not given away before ``present`` has read it
    return found


@contextmanager
def worker_deaths_in_one_line(*broken: type[Exception]):
    """Around a loop over ``read_ahead``: PyTorch tells of a lost worker by a signal, wherever the loop then is.

    broken: what a worker that dies while it hands something over also shows itself by.
    """
    try:
        yield
    except (RuntimeError, *broken) as error:
        if not isinstance(error, broken) and "DataLoader worker" not in str(error):
            raise
        # Their frames keep the other workers, whose deaths would be told at any later moment, to whoever runs then.
        for one in (error, error.__context__):
            traceback.clear_frames(one.__traceback__ if one else None)
        raise WorkerKilled(
            "a process that reads images was killed, most likely for want of memory (or of /dev/shm): take fewer with "
            "--set workers=1, or 0; the same command goes on from the last checkpoint",
            code=1,
        ) from None
