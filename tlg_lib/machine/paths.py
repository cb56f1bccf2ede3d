"""Where things live: data/, cache/ and runs/ below one home folder; files written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
from contextlib import contextmanager
from pathlib import Path

from ..errors import TLGError

PACKAGE = Path(__file__).resolve().parents[1]


def home() -> Path:
    """``$TLG_HOME``, else the checkout that holds this package, else the current folder."""
    if os.environ.get("TLG_HOME"):
        return user_path(os.environ["TLG_HOME"], follow=True)
    checkout = PACKAGE.parent
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()


def user_path(text: str | Path, follow: bool = False) -> Path:
    """A path as a user wrote it, with ``~`` replaced; absolute and without links where ``follow``.

    Raises TLGError where it can be no path.
    """
    try:
        if b"\0" in os.fsencode(text):
            raise ValueError("a NUL in it")
        path = Path(text).expanduser()
        return path.resolve() if follow else path
    except (RuntimeError, ValueError, OSError) as error:  # no such user, a circle of links, half a character
        reason = str(error) if isinstance(error, RuntimeError) else type(error).__name__
        raise TLGError(f"{str(text)[:200]!r} is no path that can be used ({reason}): write it out in full") from None


def data_home() -> Path:
    return home() / "data"


def cache_home() -> Path:
    return home() / "cache"


def runs_home() -> Path:
    return home() / "runs"


def notebooks_home() -> Path:
    """The folder of the notebooks: the checkout's, else those that the wheel carries."""
    for folder in (PACKAGE.parent / "notebooks", PACKAGE / "_notebooks"):
        if (folder / "params").is_dir():
            return folder
    raise TLGError(f"no notebooks beside {PACKAGE} or in it: install tlg-lib again", code=3)


@contextmanager
def atomic(path: str | Path, mode: str = "wb"):
    """Open a temporary file beside ``path``; on success flush, fsync and rename it over ``path``.

    A reader sees the old file or the new one, never half of one, also after kill -9 or a full disk.
    The file gets the rights that the umask leaves. Raises TLGError (code 5) when the disk is full or the folder
    is not writable.
    """
    path = Path(path)
    # Opened by hand, as tempfile makes files of 0600 and their owner's umask cannot be asked for safely.
    name = path.parent / f".{os.fsdecode(os.fsencode(path.name)[:64])}.{secrets.token_hex(4)}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as error:
        raise disk_error(path, error) from None
    try:
        with os.fdopen(descriptor, mode, **({} if "b" in mode else {"encoding": "utf-8", "errors": "replace"})) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except OSError as error:
        raise disk_error(path, error) from None
    finally:
        if os.path.exists(name):
            os.unlink(name)


def write_json(path: str | Path, value) -> None:
    with atomic(path, "w") as file:
        json.dump(value, file, indent=2, sort_keys=True, allow_nan=False)
        file.write("\n")


def read_json(path: str | Path):
    """The value in a JSON file. Raises OSError, or ValueError for whatever is no JSON, nested too deeply included."""
    try:
        return json.loads(Path(path).read_bytes())
    except RecursionError:
        raise ValueError("nested too deeply") from None


def write_sealed(path: str | Path, value: dict) -> None:
    """``write_json`` with a checksum over the other entries under ``sha256``; ``read_sealed`` checks it."""
    write_json(path, sealed(value))


def sealed(value: dict) -> dict:
    return {**value, "sha256": _seal(value)}


def read_sealed(path: str | Path) -> dict:
    """What ``write_sealed`` wrote. Raises OSError, or ValueError when it is damaged or was written otherwise."""
    value = read_json(path)
    if not isinstance(value, dict) or value.get("sha256") != _seal(value):
        raise ValueError("its checksum is missing or differs")
    return {name: entry for name, entry in value.items() if name != "sha256"}


def _seal(value: dict) -> str:
    """SHA-256 of what a reader of the file gets: keys as text, in order."""
    try:
        plain = json.loads(json.dumps({k: v for k, v in value.items() if k != "sha256"}))
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    except RecursionError:
        raise ValueError("nested too deeply") from None


def disk_error(path: Path, error: OSError) -> TLGError:
    """The one line for a file that cannot be written, whatever the system's reason."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return TLGError(f"no space left to write {path}: free some, or set TLG_HOME to another disk", code=5)
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        for folder in path.parents:
            if os.path.lexists(folder) and not folder.is_dir():
                return TLGError(f"{folder} is a file where a folder is needed: name another, or move it away", code=5)
    return TLGError(
        f"cannot write {path} ({error.strerror or type(error).__name__}): choose a writable folder (TLG_HOME)", code=5
    )
