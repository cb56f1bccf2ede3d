"""The parts of a dataset: found in folders and archives, downloaded, and brought into the layout."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..errors import TLGError
from ..machine.archives import is_archive, unpacked
from ..machine.downloads import check_sum, download
from ..machine.paths import atomic, user_path
from .listing import RESOURCE_FOLDERS, some


@dataclass(frozen=True)
class Source:
    """One official archive: address, published MD5 where there is one, size in bytes (0: unknown)."""

    name: str
    url: str
    md5: str = ""
    size: int = 0


def folders_of(
    sources: list[Path],
    stack: ExitStack,
    beside: Path,
    wanted: Callable[[str], bool],
    known: tuple[Source, ...],
    progress: bool,
) -> list[Path]:
    """Folders in which to look for a dataset's parts: the given ones, and the given archives unpacked.

    An archive may also lie inside a given folder. One with the name of a ``known`` source is first compared
    with its checksum. Unpacked folders live until ``stack`` closes.
    """
    checksums = {source.name: source.md5 for source in known}
    found = []
    for source in sources:
        source = user_path(source)
        if source.is_dir():
            found.append(source)
            archives = sorted(source / name for name in checksums if (source / name).is_file())
        elif source.is_file():
            if not is_archive(source):
                raise TLGError(
                    f"{source} is neither a folder nor a tar or zip archive: name the downloaded file", code=3
                )
            archives = [source]
        else:
            raise TLGError(f"no file or folder {source}: check the name given with --from", code=3)
        for archive in archives:
            check_sum(archive, md5=checksums.get(archive.name, ""), progress=progress)
            use = partial(wanted_member, wanted=wanted)
            found.append(stack.enter_context(unpacked(archive, beside, use, progress)))
    return found


def wanted_member(name: str, wanted: Callable[[str], bool]) -> bool:
    """Whether an archive's member is used: hidden files and what a Mac adds beside the real folders are not."""
    parts = name.split("/")
    return not parts[-1].startswith(".") and not set(parts) & set(RESOURCE_FOLDERS) and wanted(name)


def fetch(sources: list[Source], folder: Path, progress: bool) -> list[Path]:
    """Download official archives into ``folder`` (resumed, checked), if there is room for all of them.

    Twice the stated sizes are asked for: the archives, and what comes out of them. Raises TLGError as
    ``download``.
    """
    missing = sum(source.size for source in sources if not (folder / source.name).is_file())
    here = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    free = shutil.disk_usage(here).free
    if 2 * missing > free:
        raise TLGError(
            f"downloading and unpacking {', '.join(s.name for s in sources)} needs {2 * missing / 1e9:.0f} "
            f"GB "
            f"and {here} has {free / 1e9:.1f} GB free: make room, or set TLG_HOME to another disk",
            code=5,
        )
    return [download(source.url, folder / source.name, md5=source.md5, progress=progress) for source in sources]


def search(folders: list[Path], fits: Callable[[Path], bool], depth: int = 3) -> Path | None:
    """The first folder that ``fits`` among the given ones and those up to ``depth`` levels below them."""
    level = list(folders)
    for _ in range(depth + 1):
        for folder in level:
            if fits(folder):
                return folder
        level = [child for folder in level for child in sorted(_folders_in(folder))]
    return None


def _folders_in(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:  # image folders hold thousands of files: ask for the kind only
            folders = [Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
            return [folder for folder in folders if folder.name not in RESOURCE_FOLDERS]
    except OSError:
        return []


BEGUN = ".begun"


def claim(target: Path) -> None:
    """Mark an empty folder as one that is being made here; what was begun here goes on.

    Raises TLGError (code 2) for a folder of somebody's: its images, masks and lists would be replaced by others of the
    same names.
    """
    if (target / BEGUN).is_file() or (target / "dataset.json").is_file():
        return
    found = sorted(path.name for path in target.iterdir() if not path.name.startswith("."))
    if found:
        raise TLGError(
            f"{target} holds files that were not made by `tlg data` ({some(found)}): name a new or empty folder with "
            "--out"
        )
    with atomic(target / BEGUN, "w") as file:
        file.write("begun by tlg data; the same command goes on\n")


def place(source: Path, target: Path, move: bool = False) -> None:
    """Bring one file into the dataset: moved if told so (we unpacked it), else hard-linked, else copied.

    A link costs no space, and the user's own download stays where it is. An existing target of the same size
    is kept.
    """
    if target.is_file() and target.stat().st_size == source.stat().st_size:
        return
    try:
        target.unlink(missing_ok=True)
        if move:
            os.replace(source, target)
        else:
            os.link(source.resolve(), target)
    except OSError:
        with open(source, "rb") as file, atomic(target) as copy:
            shutil.copyfileobj(file, copy, 1 << 20)
