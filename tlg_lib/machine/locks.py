"""One run per folder: a lock that the operating system drops when its owner dies, however it dies."""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import time
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from ..errors import TLGError
from .paths import disk_error

LOCK_NAME = ".lock"
GLANCE = 0.25  # seconds to try at least: ``is_locked`` of another process holds the lock for an instant


@contextmanager
def folder_lock(folder: str | Path, name: str = LOCK_NAME, wait: float | bool = 0.0):
    """Hold ``folder`` (created if absent) for this run; a second run in it is refused.

    The lock is ``flock`` on ``folder/name``: it belongs to the open file, so the kernel frees it when the
    process ends, also after kill -9 or a power cut, and a file left behind locks nothing. The file's text
    only tells others who holds it. ``wait``: seconds to wait for another owner before giving up; True waits
    for as long as it takes.

    Raises TLGError, code 4: held by another run (process, machine, start and command are named);
    code 5: the folder cannot be written, or its file system has no locks.
    """
    folder = Path(folder)
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", encoding="utf-8")
    except OSError as error:
        raise disk_error(path, error) from None
    with file:
        deadline = time.monotonic() + (float("inf") if wait is True else max(wait, GLANCE))
        while not _try_lock(file, path):
            if time.monotonic() >= deadline:
                raise TLGError(
                    f"{folder} is in use by {_owner_text(path)}: wait for it, stop it, or choose another folder", code=4
                )
            time.sleep(0.05)
        try:
            _write_owner(file, path)
            yield path
        finally:
            # The file stays: removing it would let a waiting process lock a name that no longer exists.
            file.seek(0)
            file.truncate()


def is_locked(folder: str | Path, name: str = LOCK_NAME) -> bool:
    """Whether a living process holds the lock of ``folder``; creates nothing, holds it for an instant."""
    path = Path(folder) / name
    if not path.is_file():
        return False
    try:
        with open(path, encoding="utf-8") as file:
            return not _try_lock(file, path)
    except OSError:
        return False


def owner(folder: str | Path, name: str = LOCK_NAME) -> dict:
    """What the holder wrote: pid, host, started (UTC), command; empty when unknown or free."""
    try:
        value = json.loads((Path(folder) / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _try_lock(file, path: Path) -> bool:
    try:
        import fcntl
    except ImportError:
        raise TLGError("folder locks need Linux or macOS: on Windows, run inside WSL", code=5) from None
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            return False
        raise TLGError(
            f"cannot lock {path} ({error.strerror}): the file system has no locks, set TLG_HOME to another disk", code=5
        ) from None


def _write_owner(file, path: Path) -> None:
    text = json.dumps(
        {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "command": " ".join(sys.argv)[:200],
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
    )
    try:
        file.seek(0)
        file.truncate()
        file.write(text + "\n")
        file.flush()
    except OSError as error:
        raise disk_error(path, error) from None


def _owner_text(path: Path) -> str:
    who = owner(path.parent, path.name)
    if not who:
        return "another run"
    return f"process {who.get('pid')} on {who.get('host')} since {who.get('started')} ({who.get('command')})"
