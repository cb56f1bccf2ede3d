"""Downloads that go on where they stopped, and of which nothing half-written is ever taken for whole.

Bytes go to ``<name>.part`` with a note beside it of what the server said (address, ETag, length). Only a file
of the right length and checksum is renamed to its name. Where no checksum is published, the SHA-256 of the
first whole download is recorded beside the file (``<name>.sha256``) and later checks use that.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from ..errors import TLGError
from .locks import folder_lock
from .paths import atomic, read_json, write_json
from .progress import track

BLOCK = 1 << 20  # bytes
SPARE = 64 << 20  # bytes that a download leaves free on the disk
OFFLINE = "connect to the network, or fetch the file elsewhere and name it with --from"


def download(
    url: str,
    path: str | Path,
    *,
    sha256: str = "",
    md5: str = "",
    progress: bool = True,
    attempts: int = 4,
    timeout: float = 30.0,
    pause: float = 1.0,
) -> Path:
    """Fetch ``url`` to ``path`` and return it; a whole file with the right checksum is not fetched again.

    A broken connection is taken up again by Range, if the server still has the same file (ETag or time of
    change, and length); after ``attempts`` connections in a row that brought nothing it gives up. timeout and
    pause (doubled each time) are in seconds. Raises TLGError: code 7 when the server cannot be reached or
    keeps breaking off (the part stays for the next try), 5 without space, 4 while another process downloads
    to the same folder, 3 for a missing page or a wrong checksum.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TLGError(f"cannot make {path.parent} ({error.strerror}): choose a writable folder", code=5) from None
    with folder_lock(path.parent):
        if path.is_file() and _is_right(path, sha256, md5, progress):
            return path
        _fetch(url, path, sha256 or md5, progress, attempts, timeout, pause)
        part = _part(path)
        try:
            found = check_sum(part, sha256, md5, progress)
        except TLGError:
            part.unlink()
            _note(path).unlink(missing_ok=True)
            raise
        with atomic(f"{path}.sha256", "w") as file:
            file.write(f"{found}  {path.name}\n")
        part.replace(path)
        _note(path).unlink(missing_ok=True)
    return path


def sha256_of(path: str | Path, progress: bool = False) -> str:
    """SHA-256 of a file in hexadecimal digits."""
    return _hash(path, hashlib.sha256(), progress)


def check_sum(path: str | Path, sha256: str = "", md5: str = "", progress: bool = False) -> str:
    """Compare a file with a checksum; returns its SHA-256. Raises TLGError (code 3) when it differs."""
    path = Path(path)
    found = sha256_of(path, progress)
    if sha256 and found != sha256.lower():
        raise TLGError(
            f"{path}: SHA-256 {found[:12]}..., expected {sha256[:12].lower()}...: the file is not the "
            "expected one; delete it and download again",
            code=3,
        )
    if md5 and not sha256:
        other = _hash(path, hashlib.md5(usedforsecurity=False), progress)
        if other != md5.lower():
            raise TLGError(
                f"{path}: MD5 {other}, expected {md5.lower()}: the file is not the expected one; delete "
                "it and download again",
                code=3,
            )
    return found


def _hash(path: str | Path, digest, progress: bool) -> str:
    blocks = -(-Path(path).stat().st_size // BLOCK)
    with open(path, "rb") as file:
        for block in track(
            _blocks(file), total=blocks, label=f"checking {Path(path).name}", unit="MiB", show=progress and blocks > 256
        ):
            digest.update(block)
    return digest.hexdigest()


def _blocks(source) -> Iterator[bytes]:
    while block := source.read(BLOCK):
        yield block


def _is_right(path: Path, sha256: str, md5: str, progress: bool) -> bool:
    """Whether the file on disk is the wanted one: by the known checksum, else by the recorded one."""
    if not sha256 and not md5:
        try:
            sha256 = Path(f"{path}.sha256").read_text(encoding="ascii").split()[0]
        except (OSError, ValueError, IndexError):
            return False
    try:
        check_sum(path, sha256, md5, progress)
        return True
    except TLGError:
        return False


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".part.json")


def _fetch(url: str, path: Path, checksum: str, progress: bool, attempts: int, timeout: float, pause: float) -> None:
    """Connect until the part is whole by the length that the server states."""
    useless = 0
    while True:
        before = _part(path).stat().st_size if _part(path).is_file() else 0
        try:
            if _receive(url, path, checksum, progress, timeout):
                return
            reason = "the connection broke off"
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500 and error.code not in (408, 425, 429):
                raise TLGError(
                    f"{url}: the server answers {error.code} {error.reason}: the file may have moved; "
                    "fetch it by hand and name it with --from",
                    code=3,
                ) from None
            reason = f"the server answers {error.code}"
        except (OSError, http.client.HTTPException) as error:  # errors of this disk became TLGError before
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        except ValueError as error:
            raise TLGError(f"{url} is not an address that can be fetched ({error})") from None
        now = _part(path).stat().st_size if _part(path).is_file() else 0
        useless = 0 if now > before else useless + 1
        if useless >= attempts:
            kept = f"; {now / 1e6:.1f} MB are kept, the same command goes on from there" if now else ""
            raise TLGError(f"cannot download {url} ({reason}): {OFFLINE}{kept}", code=7)
        time.sleep(pause * 2**useless)


def _receive(url: str, path: Path, checksum: str, progress: bool, timeout: float) -> bool:
    """One connection: append what comes to the part. True when the part has the stated length."""
    part, note = _part(path), _read_note(_note(path), url)
    offset = part.stat().st_size if part.is_file() and note else 0
    if offset and offset == note["total"]:
        return True
    request = urllib.request.Request(url, headers={"User-Agent": "tlg-lib", "Accept-Encoding": "identity"})
    if offset:
        request.add_header("Range", f"bytes={offset}-")
        request.add_header("If-Range", note["validator"])
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        error.close()
        _note(path).unlink(missing_ok=True)  # the part is longer than the file: start over
        return False
    with response:
        _refuse_encoding(response.headers.get("Content-Encoding", ""), url)
        if response.status == 206:
            start, total = _content_range(response.headers.get("Content-Range", ""))
            other = _validator(response.headers) not in ("", note["validator"])  # a server may overlook If-Range
            if start != offset or total != note["total"] or other:
                _note(path).unlink(missing_ok=True)  # another file by now: start over with the next connection
                return False
        else:
            offset = 0
            total = _length(response.headers.get("Content-Length"))
            if not total and not checksum:
                raise TLGError(
                    f"{url}: the server states no length and no checksum is known, so a broken download "
                    "could not be told from a whole one: fetch it by hand and name it with --from",
                    code=3,
                )
        _check_space(path, total - offset)
        validator = _validator(response.headers)
        if response.status != 206:
            part.unlink(missing_ok=True)  # before the note, so that no note speaks of another file's bytes
            if validator and total:
                write_json(_note(path), {"url": url, "validator": validator, "total": total})
            else:
                _note(path).unlink(missing_ok=True)
        _append(response, part, offset, total, progress, path.name)
    return part.stat().st_size == total if total else True


def _refuse_encoding(encoding: str, url: str) -> None:
    """Length and ranges would be those of the packed bytes, which were not asked for."""
    if encoding.strip().lower() not in ("", "identity"):
        raise TLGError(
            f"{url}: the server packs the file ({encoding[:40]!r}), which was not asked for: fetch it by hand and "
            "name it with --from",
            code=3,
        )


def _append(response, part: Path, offset: int, total: int, progress: bool, name: str) -> None:
    try:
        with open(part, "r+b" if offset else "wb") as file:
            file.seek(offset)
            file.truncate()
            blocks = -(-total // BLOCK)
            for block in track(
                _blocks(response),
                total=blocks or None,
                start=offset // BLOCK,
                label=name,
                unit="MiB",
                show=progress and (blocks > 8 or not total),
            ):
                if total and file.tell() + len(block) > total:
                    raise http.client.HTTPException("more bytes than stated")
                file.write(block)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise TLGError(
                f"no space left to download {part}: free {max(0, total - offset) / 1e6:.0f} MB, or set "
                "TLG_HOME to another disk; what came is kept and the same command goes on",
                code=5,
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR):
            raise TLGError(f"cannot write {part} ({error.strerror}): choose a writable folder", code=5) from None
        raise


def _check_space(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if needed + SPARE > free:
        raise TLGError(
            f"{path.name} needs {needed / 1e6:.0f} MB and {path.parent} has {free / 1e6:.0f} MB free: make "
            "room, or set TLG_HOME to another disk",
            code=5,
        )


def _read_note(path: Path, url: str) -> dict:
    try:
        note = read_json(path)
        if note["url"] == url and isinstance(note["validator"], str) and isinstance(note["total"], int):
            return note
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {}


def _validator(headers) -> str:
    """What proves that a later answer is of the same file; a weak ETag proves nothing for Range."""
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")


def _length(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0


def _content_range(text: str) -> tuple[int, int]:
    """Start and total of "bytes 10-99/100"; (-1, -1) when it says something else."""
    try:
        start = text.removeprefix("bytes").strip().split("-")[0]
        return int(start), int(text.rsplit("/", 1)[1])
    except (ValueError, IndexError):
        return -1, -1
