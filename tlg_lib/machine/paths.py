"""Where things live: data/, cache/ and runs/ below one home folder; files written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

from ..errors import TLGError

PACKAGE = Path(__file__).resolve().parents[1]


def home() -> Path:
    """``$TLG_HOME``, else the checkout that holds this package, else the current folder."""
    if os.environ.get("TLG_HOME"):
        return Path(os.environ["TLG_HOME"]).expanduser().resolve()
    checkout = PACKAGE.parent
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()


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
    Raises TLGError (code 5) when the disk is full or the folder is not writable.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise disk_error(path, error) from None
    try:
        with os.fdopen(descriptor, mode, **({} if "b" in mode else {"encoding": "utf-8", "errors": "replace"})) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
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


def disk_error(path: Path, error: OSError) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return TLGError(f"no space left to write {path}: free some, or set TLG_HOME to another disk", code=5)
    if error.errno in (
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOTDIR,
        errno.EEXIST,
        errno.EISDIR,
        errno.ENAMETOOLONG,
    ):
        return TLGError(f"cannot write {path} ({error.strerror}): choose a writable folder (TLG_HOME)", code=5)
    return error
