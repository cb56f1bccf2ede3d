"""What a run's data are: a digest that changes with the content of any list, image, label map or mask that it uses."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from ..errors import TLGError
from ..machine.paths import cache_home, read_sealed, write_sealed
from .folder import SegmentationFolder
from .splits import Row


def data_digest(data: SegmentationFolder, rows: list[Row]) -> str:
    """16 hex digits that change with the rows and with any image, label map or pseudo mask that they name."""
    files = {}
    for image, class_id in sorted(set(rows)):
        masks = (data.label_path(image), data.pseudo_mask_path(image, class_id))
        files[image, class_id] = (data.image_path(image), *masks)
    marks = contents(data.root, [path for paths in files.values() for path in paths])
    running = hashlib.sha256()
    for (image, class_id), paths in files.items():
        running.update(f"{image}/{class_id}/{[marks[path] for path in paths]}\n".encode())
    return running.hexdigest()[:16]


def contents(root: Path, files: list[Path]) -> dict[Path, str]:
    """Digest of each file's content, "" where there is none.

    Reading all of COCO takes minutes, so digests are kept in the cache, each beside the file's size, times of
    change (of content and of inode: the second cannot be set back) and inode, and hold while these are the same.
    """
    store = cache_home() / "digests" / f"{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]}.json"
    known = _KNOWN.get(store)
    if known is None:
        try:
            known = read_sealed(store)["files"]
        except (OSError, ValueError, KeyError):
            known = {}
    found, new = {}, False
    for path in dict.fromkeys(files):
        try:
            stat = path.stat()
        except FileNotFoundError:
            found[path] = ""
            continue
        state = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        entry = known.get(str(path))
        if not entry or entry[1:] != state:
            entry = known[str(path)] = [hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest(), *state]
            new = True
        found[path] = entry[0]
    _KNOWN[store] = known
    if new:
        with suppress(TLGError):  # a cache that cannot be written is read anew the next time
            write_sealed(store, {"files": known})
    return found


_KNOWN: dict[Path, dict[str, list]] = {}  # by store, as far as this process has read them
