"""The one exception that users see: a single line that names what is wrong and the remedy."""


class TLGError(Exception):
    """Bad input or a missing resource. ``str(error)`` is one line fit for a terminal.

    The command line prints ``error: <line>`` and exits with ``code`` (table in docs/exit_codes.md):
    2 bad input, 3 data or weights missing or broken, 4 locked by another run, 5 no space or not writable,
    6 training diverged, 7 offline, 8 a batch ended with failed parts; 1 something that was started from here failed.
    """

    def __init__(self, message: str, code: int = 2):
        super().__init__(" ".join(str(message).split()))
        self.code = code
