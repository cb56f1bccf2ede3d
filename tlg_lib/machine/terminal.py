"""What may reach a reader: text as it reads, never the control characters that a file name or a log may hold."""

from __future__ import annotations

import os
import re
import sys

from ..errors import TLGError

# C0 and C1 controls but tab and newline, and the characters that turn the direction of what follows.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_BREAKS = re.compile("[\t\n\r\x0b\x0c\x85\u2028\u2029]+")
PIPED = 200  # columns of a table that nobody looks at on a terminal


def plain(text: str, line: bool = False) -> str:
    """``text`` with control characters written out (``\\x1b``); with ``line`` its line breaks become spaces."""
    text = _BREAKS.sub(" ", str(text)) if line else str(text)
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def signed(difference: float, digits: int = 1) -> str:
    """A difference of scores as text, with its sign; what rounds to zero is +0.0, never -0.0."""
    return f"{round(difference, digits) + 0.0:+.{digits}f}"


class Guarded:
    """A text stream over ``under``: what it cannot spell is escaped, and what it cannot take is one TLGError."""

    def __init__(self, under):
        self.under = under
        if hasattr(under, "reconfigure"):
            under.reconfigure(errors="backslashreplace")  # a terminal that knows only ASCII gets escapes

    def write(self, text: str) -> int:
        return self._do(self.under.write, text)

    def flush(self) -> None:
        self._do(self.under.flush)

    def _do(self, function, *arguments):
        try:
            return function(*arguments)
        except OSError as error:
            reason = "its reader is gone" if isinstance(error, BrokenPipeError) else error.strerror
            raise TLGError(
                f"cannot write the output ({reason}): send it elsewhere; the same command goes on", code=5
            ) from None

    def __getattr__(self, name):
        return getattr(self.under, name)


class Plain(Guarded):
    """A stream that passes on what is written to it as ``plain`` gives it."""

    def write(self, text: str) -> int:
        self.under.write(plain(text))
        return len(text)


def bare():
    """Standard output without Plain, for who moves the cursor: what is shown must have gone through ``plain``."""
    return sys.stdout.under if isinstance(sys.stdout, Plain) else sys.stdout


def console(**options):
    """A rich console on standard output, below Plain: what is shown on it must have gone through ``shown``."""
    from rich.console import Console

    stream = bare()
    if not stream.isatty() and "COLUMNS" not in os.environ:
        options.setdefault("width", PIPED)  # rows stay whole in files and pipes
    return Console(file=stream, **options)


def shown(text) -> str:
    """Somebody's text for a rich console: as one line, neither markup nor control characters."""
    from rich.markup import escape

    return escape(plain(text, line=True))
