"""Unpacking of tar and zip archives that others made: plain files only, never outside the target folder."""

from __future__ import annotations

import errno
import lzma
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ..errors import TLGError
from .progress import track

SPARE = 64 << 20  # bytes that unpacking leaves free on the disk
GROWTH, GRACE = (
    40,
    1 << 30,
)  # an archive may unpack to GRACE bytes and GROWTH times its own size: datasets stay far below
HEADER_BYTES = 1 << 20  # of one tar header: names and remarks
MEMBERS = 5_000_000  # of one archive


class _Member(tarfile.TarInfo):
    """A tar member whose header extensions, which tarfile reads into memory whole, are bounded."""

    def _proc_member(self, file):
        extended = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
        extended += (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
        if self.type in extended and self.size > HEADER_BYTES:
            raise TLGError(f"{file.name}: refused, a header of {self.size:,} bytes: get the archive again", code=3)
        return super()._proc_member(file)


def is_archive(path: str | Path) -> bool:
    """Whether the file is a tar (plain, gz, bz2, xz) or a zip by its content."""
    path = Path(path)
    if not path.is_file() or zipfile.is_zipfile(path):
        return path.is_file()
    try:
        tarfile.open(path, tarinfo=_Member).close()
        return True
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError):
        return False


@contextmanager
def unpacked(
    archive: str | Path, beside: str | Path, wanted: Callable[[str], bool] = lambda name: True, progress: bool = True
) -> Iterator[Path]:
    """Unpack into a temporary folder below ``beside``, yield it, and remove it at the end.

    The caller moves what it needs out of the folder, so files of an archive that turns out to be broken or
    hostile never reach a place where they would be taken for whole. wanted: which members (by path) to write;
    all members are checked. Raises TLGError: code 3 when the archive is broken, encrypted or incomplete, or
    holds a path that leaves the folder, a link or a device; code 5 without space.
    """
    archive, beside = Path(archive), Path(beside)
    try:
        beside.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{archive.name}.", suffix=".part", dir=beside))
    except OSError as error:
        raise TLGError(f"cannot write {beside} ({error.strerror}): choose a writable folder", code=5) from None
    try:
        _unpack(archive, folder, wanted, progress)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unpack(archive: Path, folder: Path, wanted: Callable[[str], bool], progress: bool) -> None:
    if not archive.is_file():
        raise TLGError(f"no archive {archive}: check the name", code=3)
    try:
        if zipfile.is_zipfile(archive):
            _unzip(archive, folder, wanted, progress)
        else:
            _untar(archive, folder, wanted, progress)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise TLGError(
                f"no space left to unpack {archive.name} in {folder.parent}: make room, or set TLG_HOME to "
                "another disk",
                code=5,
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise TLGError(f"cannot unpack {archive} ({error.strerror}): check the permissions", code=5) from None
        raise _broken(archive, error) from None
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        EOFError,
        zlib.error,
        lzma.LZMAError,
        RuntimeError,
        NotImplementedError,
        ValueError,
        UnicodeError,
    ) as error:
        raise _broken(archive, error) from None


def _broken(archive: Path, error: Exception) -> TLGError:
    return TLGError(
        f"{archive}: broken or incomplete archive ({str(error) or type(error).__name__}): download it again", code=3
    )


def _unzip(archive: Path, folder: Path, wanted: Callable[[str], bool], progress: bool) -> None:
    with zipfile.ZipFile(archive) as file:
        members = []
        _check_growth(archive, sum(member.file_size for member in file.infolist()), len(file.infolist()))
        for member in file.infolist():
            name = safe_name(member.filename, archive)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused(archive, member.filename, "is a link or a device")
            if not member.is_dir() and wanted(name):
                members.append((name, member))
        _check_space(archive, folder, sum(member.file_size for _, member in members))
        for name, member in track(members, label=f"unpacking {archive.name}", unit="files", show=progress):
            with file.open(member) as source:  # reading to the end checks the member's CRC
                _write(source, folder / name, member.file_size)


def _untar(archive: Path, folder: Path, wanted: Callable[[str], bool], progress: bool) -> None:
    with tarfile.open(archive, tarinfo=_Member) as file:
        total = 0
        for count, member in enumerate(track(file, label=f"unpacking {archive.name}", unit="files", show=progress), 1):
            name = safe_name(member.name, archive)
            total += member.size
            _check_growth(archive, total, count)
            if member.issparse():
                raise _refused(archive, member.name, "is a file with holes")
            if not (member.isfile() or member.isdir()):
                raise _refused(archive, member.name, "is a link or a device")
            if member.isdir() or not wanted(name):
                continue
            _check_space(archive, folder, member.size)
            _write(file.extractfile(member), folder / name, member.size)
        # A tar cut between two members reads as a shorter tar; only its closing block of zeros tells.
        file.fileobj.seek(file.offset)
        if file.fileobj.read(512) != bytes(512):
            raise EOFError("it ends before its closing block")


def safe_name(name: str, archive: Path) -> str:
    """A member's path with / between parts, or TLGError when it would leave the folder it is unpacked in."""
    plain = name.replace("\\", "/")
    parts = PurePosixPath(plain).parts
    if plain.startswith("/") or re.match(r"[A-Za-z]:", plain) or ".." in parts or "\0" in plain:
        raise _refused(archive, name, "leads out of the folder")
    return "/".join(parts)


def _refused(archive: Path, name: str, why: str) -> TLGError:
    return TLGError(
        f"{archive}: refused, the entry {name[:80]!r} {why}: get the archive from its official place", code=3
    )


def _check_growth(archive: Path, total: int, count: int) -> None:
    """Refuse what a small file cannot honestly hold: gigabytes of zeros, or millions of empty members."""
    size = archive.stat().st_size
    if total > GRACE + GROWTH * size or count > MEMBERS:
        raise TLGError(
            f"{archive}: refused, {size / 1e6:.0f} MB would unpack to {total / 1e6:.0f} MB in {count} files or more: "
            "get the archive from its official place",
            code=3,
        )


def _check_space(archive: Path, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed + SPARE > free:
        raise TLGError(
            f"unpacking {archive.name} needs {needed / 1e6:.0f} MB and {folder.parent} has {free / 1e6:.0f} "
            "MB free: make room, or set TLG_HOME to another disk",
            code=5,
        )


def _write(source: BinaryIO, path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    if path.stat().st_size != size:
        raise EOFError(f"{path.name} is shorter than stated")
