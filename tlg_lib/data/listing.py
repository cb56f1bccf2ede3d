"""Which files of a folder are images or masks: one answer for every command.

An id is a file's name without its suffix, composed (Unicode NFC): macOS hands out decomposed names that look the same.
Passed over: names that begin with a dot (macOS leaves ``._a.jpg`` on foreign disks), folders, links to nowhere and
other suffixes. What is passed over is counted, so that ``tlg data verify`` can say it.
"""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import TLGError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".avif", ".tif", ".tiff", ".gif")
MASK_SUFFIXES = (".png",)
RESOURCE_FOLDERS = ("__MACOSX", "@eaDir")  # what a Mac's zip and a disk station add beside the real folders
LONGEST = 200  # bytes of an id: room for "--<class>.png" and for the name of a file that is being written


@dataclass(frozen=True)
class Listing:
    """files: id -> path, sorted by id; twice: id -> further files of that id; unfit: names that no list can hold;
    foreign: names with other suffixes; dangling: names of links to nowhere; folders: names of folders inside."""

    files: dict[str, Path] = field(default_factory=dict)
    twice: dict[str, list[Path]] = field(default_factory=dict)
    unfit: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    dangling: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)


def list_files(folder: str | Path, suffixes: tuple[str, ...], longest: int = LONGEST) -> Listing:
    """The files directly in ``folder`` that end in one of ``suffixes`` (lower case), in upper or lower case.

    An empty listing where there is no such folder.
    """
    found = Listing()
    try:
        with os.scandir(folder) as entries:
            names = sorted((entry.name, entry.is_dir(), entry.is_file()) for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return found
    except OSError as error:
        raise TLGError(f"cannot read folder {folder} ({error.strerror}): check its permissions", code=3) from None
    files: dict[str, Path] = {}
    for name, is_folder, is_file in names:
        stem, suffix = os.path.splitext(name)
        if name.startswith("."):
            continue
        if is_folder:
            found.folders.append(name)
            continue
        image = plain_id(stem)
        if suffix.lower() not in suffixes:
            found.foreign.append(name)
        elif not is_file:
            found.dangling.append(name)
        elif id_fault(image, longest):
            found.unfit.append(name)
        elif image in files:
            found.twice.setdefault(image, []).append(Path(folder, name))
        else:
            files[image] = Path(folder, name)
    found.files.update(sorted(files.items()))
    return found


def list_images(folder: str | Path) -> Listing:
    return list_files(folder, IMAGE_SUFFIXES)


def list_masks(folder: str | Path) -> Listing:
    return list_files(folder, MASK_SUFFIXES, LONGEST + len("--255"))


def plain_id(name: str) -> str:
    """The id of a name without suffix: composed, so that one spelling is one id."""
    return unicodedata.normalize("NFC", name)


def match_id(name: str, known) -> str:
    """The id that a list's ``name`` means: itself, or without the suffix of an image where that is a ``known`` id."""
    image = plain_id(name)
    stem, suffix = os.path.splitext(image)
    if image not in known and suffix.lower() in IMAGE_SUFFIXES and stem in known:
        return stem
    return image


def id_fault(image: str, longest: int = LONGEST) -> str:
    """Why a list cannot hold this id, "" where it can: it must come back from a line of UTF-8 text as it went in."""
    kinds = {unicodedata.category(c) for c in image}
    if not image or image in (".", "..") or any(c in "/\\" for c in image):
        return "is not a plain file name"
    if kinds & {"Cc", "Zl", "Zp"} or image != image.strip() or image.startswith("\ufeff"):
        return "has control characters or line ends, or white space at an end"
    if "Cs" in kinds:
        return "is not UTF-8"
    return f"is longer than {longest} bytes" if len(image.encode()) > longest else ""


def some(names, limit: int = 3) -> str:
    """The first few names, as "a, b, c, ..."; bytes that are no text and control characters are written out."""
    shown = [ascii(n)[1:-1] if id_fault(n) else n for n in list(names)[:limit]]
    return ", ".join(shown) + (", ..." if len(names) > limit else "")
