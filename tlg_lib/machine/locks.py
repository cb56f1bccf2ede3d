"""One run per folder: a lock that the operating system drops when its owner dies, however it dies."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import sys
import time
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from pathlib import Path

from ..errors import TLGError
from .paths import disk_error
from .terminal import plain

LOCK_NAME = ".lock"
GLANCE = 0.25  # seconds to try at least: ``is_locked`` of another process holds the lock for an instant


@contextmanager
def folder_lock(folder: str | Path, name: str = LOCK_NAME, wait: float | bool = 0.0):
    """Hold ``folder`` (created if absent) for this run; a second run in it is refused.

    The lock is ``flock`` on ``folder/name``: it belongs to the open file, so the kernel frees it when the
    process ends, also after kill -9 or a power cut, and a file left behind locks nothing. The file's text
    only tells others who holds it. A link, a pipe or somebody's own file of that name is refused, not touched.
    On Windows, where a locked file cannot be read, the lock is filelock's on a file beside it.
    ``wait``: seconds to wait for another owner before giving up; True waits
    for as long as it takes.

    Raises TLGError, code 4: held by another run (process, machine, start and command are named);
    code 5: the folder cannot be written, or its file system has no locks.
    """
    folder = Path(folder)
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(path, error) from None
    with _open_lock(path, os.O_RDWR | os.O_CREAT) as file, ExitStack() as held:
        deadline = time.monotonic() + (float("inf") if wait is True else max(wait, GLANCE))
        while not _try_lock(file, path, held):
            if time.monotonic() >= deadline:
                raise TLGError(
                    f"{folder} is in use by {_owner_text(path)}: wait for it, stop it, or choose another folder", code=4
                )
            time.sleep(0.05)
        _refuse_foreign(file, path)
        try:
            _write_owner(file, path)
            yield path
        finally:
            # The file stays: removing it would let a waiting process lock a name that no longer exists.
            file.seek(0)
            file.truncate()


def _open_lock(path: Path, flags: int):
    """The lock file, opened without following a link or waiting for a pipe's other end."""
    try:
        safe = (getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"))  # Windows has none of them
        descriptor = os.open(path, flags | sum(safe), 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise _foreign(path) from None
        raise disk_error(path, error) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _foreign(path)
    return os.fdopen(descriptor, "r" if flags == os.O_RDONLY else "r+", encoding="utf-8", errors="replace")


def _foreign(path: Path) -> TLGError:
    return TLGError(f"{path} is no lock file of ours (a link, a pipe or somebody's file): move it away", code=5)


def _refuse_foreign(file, path: Path) -> None:
    """What is not ours is never emptied: text other than an owner's note, or a file with a second name."""
    text = file.read(1 << 16).strip("\0 \n")  # zeros and half a note are what a power cut may leave
    if os.fstat(file.fileno()).st_nlink > 1 or not (text.startswith('{"pid"') or not text):
        raise _foreign(path)


def is_locked(folder: str | Path, name: str = LOCK_NAME) -> bool:
    """Whether a living process holds the lock of ``folder``; creates nothing, holds it for an instant."""
    path = Path(folder) / name
    try:
        if path.is_symlink() or not path.is_file():
            return False
        with _open_lock(path, os.O_RDONLY) as file, ExitStack() as held:
            return not _try_lock(file, path, held)
    except (OSError, TLGError):
        return False


def owner(folder: str | Path, name: str = LOCK_NAME) -> dict:
    """What the holder wrote: pid, begun (seconds, of the process), host, started (UTC), command; empty when free."""
    path = Path(folder) / name
    try:
        if path.is_symlink() or not path.is_file():
            return {}
        with _open_lock(path, os.O_RDONLY) as file:
            return _note(file.read(1 << 16))
    except (OSError, TLGError):
        return {}


def _note(text: str) -> dict:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def living_owner(folder: str | Path, name: str = LOCK_NAME) -> int:
    """The process that holds the lock of ``folder``, which may be sent a signal.

    Raises TLGError, code 4, when the note names no process of this machine, or one that began at another time:
    a number is given to another process as soon as its owner is gone.
    """
    import psutil

    who = owner(folder, name)
    pid, begun = who.get("pid"), who.get("begun")
    if who.get("host") != socket.gethostname():
        raise TLGError(f"{folder} is in use on {who.get('host', 'another machine')}: stop it there", code=4)
    plain = type(pid) is int and pid > 1 and pid != os.getpid() and isinstance(begun, (int, float))
    try:
        same = plain and abs(psutil.Process(pid).create_time() - begun) < 2
    except (psutil.Error, OverflowError):
        same = False
    if not same:
        raise TLGError(f"{Path(folder) / name} does not name the process that holds it: look for it by hand", code=4)
    return pid


def _try_lock(file, path: Path, held: ExitStack) -> bool:
    """Whether the lock is now ours, until ``file`` and ``held`` are closed."""
    try:
        import fcntl
    except ImportError:
        return _try_beside(path, held)
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            return False
        raise _no_locks(path, error) from None


def _try_beside(path: Path, held: ExitStack) -> bool:
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(f"{path.name}.held"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return False
    except (OSError, NotImplementedError) as error:
        raise _no_locks(path, error) from None
    held.callback(lock.release)
    return True


def _no_locks(path: Path, error: Exception) -> TLGError:
    reason = getattr(error, "strerror", None) or type(error).__name__
    return TLGError(f"cannot lock {path} ({reason}): the file system has no locks, set TLG_HOME to another disk", 5)


def _write_owner(file, path: Path) -> None:
    import psutil

    text = json.dumps(
        {
            "pid": os.getpid(),
            "begun": psutil.Process().create_time(),
            "host": socket.gethostname(),
            "command": plain(" ".join(sys.argv)[:200], line=True),
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
    text = f"process {who.get('pid')} on {who.get('host')} since {who.get('started')} ({who.get('command')})"
    return plain(text[:400], line=True)
