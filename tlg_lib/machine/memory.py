"""What large tensors give back is kept for the next ones.

By default glibc fetches every large block from the system and returns it at once, and the system clears each page that
it hands out: on a virtual machine the 4D encoder at 400 pixels spent as much time on that as on arithmetic
(docs/performance.md).
"""

from __future__ import annotations

import ctypes
import os
import sys

OWN = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")  # the user's settings
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt(3)


def keep_freed_memory() -> None:
    """Have this process's allocator keep all that is freed; nothing where it is not glibc's, or the user has set it."""
    if sys.platform != "linux" or any(name in os.environ for name in OWN):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(_MMAP_MAX, 0)  # large blocks come from the heap as well
    mallopt(_TRIM_THRESHOLD, -1)  # whose end is never given back
