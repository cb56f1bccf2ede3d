"""The command line: a thin mount of tlg_lib/commands, and the one place where errors become exit codes."""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import redirect_stdout
from typing import Annotated

import typer
from typer.core import TyperCommand

from . import __version__
from .errors import TLGError
from .machine.extras import extra_of, installing
from .machine.terminal import Guarded, Plain, plain

app = typer.Typer(
    name="tlg",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: half a second less to wait for, and whole when piped
    help="Learn, run and extend TLG: weakly-supervised few-shot segmentation from image-level labels.",
)

# Each module in tlg_lib/commands defines `app` (a typer.Typer, mounted under its name) or `command`
# (a function, mounted as one command). They import torch inside their functions: `tlg --help` stays quick.
COMMANDS = (
    "run",
    "train",
    "evaluate",
    "predict",
    "data",
    "masks",
    "sweep",
    "ladder",
    "choose",
    "curve",
    "grid",
    "converge",
    "bench",
    "doctor",
    "notebooks",
    "convert_release",
)
NAMES = {"evaluate": "eval", "convert_release": "convert-release"}


def _version(asked: bool) -> None:
    if asked:
        print(f"tlg {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print it")] = False,
) -> None:
    pass


class _Command(TyperCommand):
    """A command whose output is text: file names and logs cannot steer the terminal."""

    def invoke(self, ctx):
        with redirect_stdout(Plain(sys.stdout)):
            try:
                return super().invoke(ctx)
            except EOFError:  # typer would take it for the end of a dialogue
                raise TLGError("a file ends before its content does: look for it with `tlg data verify`", 3) from None


for _module in COMMANDS:
    try:
        _loaded = importlib.import_module(f"tlg_lib.commands.{_module}")
    except ModuleNotFoundError as _error:
        if _error.name != f"tlg_lib.commands.{_module}":
            raise
        continue
    _name = NAMES.get(_module, _module)
    if hasattr(_loaded, "app"):
        for _registered in _loaded.app.registered_commands:
            _registered.cls = _Command
        app.add_typer(_loaded.app, name=_name)
    else:
        app.command(_name, cls=_Command)(_loaded.command)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; bad input becomes one line on stderr and a non-zero exit."""
    with redirect_stdout(Guarded(sys.stdout)):
        code, line = _run(arguments)
        try:
            sys.stdout.flush()
        except TLGError as error:
            code, line = code or error.code, line or f"error: {error}"
            _give_up_output()
    if line:
        print(plain(line, line=True), file=sys.stderr)
    sys.exit(code)


def _run(arguments: list[str] | None) -> tuple[int, str]:
    """The command's exit code and last line, empty when all went well."""
    try:
        code = app(arguments, standalone_mode=False)
        if code == 130:  # typer turns Ctrl-C into this code
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0, ""
    except TLGError as error:
        return error.code, f"error: {error}"
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        extra = extra_of(module)
        if extra is None:
            raise
        return 3, f"error: this needs {module}: {installing(extra)}"
    except KeyboardInterrupt:
        return 130, "interrupted: run the same command again to go on from here"
    except OSError as error:  # of the machine, not of the input: a folder that went away, a limit of the system
        name = f"{error.filename}: " if error.filename else ""
        return 5, f"error: {name}{error.strerror or error}: look at the path and the disk, then run again"
    except (MemoryError, RecursionError) as error:
        return 1, f"error: {type(error).__name__}: the input or the batch is larger than this machine can hold"
    except ValueError as error:
        if not str(error).startswith("Key backend"):  # matplotlib reads it as it is loaded
            raise
        return 2, "error: MPLBACKEND names no backend of matplotlib: unset it, pictures are drawn without a screen"
    except Exception as error:
        # typer carries its own copy of click in recent versions, so usage errors are told by their method.
        if not hasattr(error, "format_message"):
            raise
        text = error.format_message()  # empty where the help was just shown, for want of arguments
        return 2, f"error: {text}" if text else ""


def _give_up_output() -> None:
    """What is left in the buffer of standard output goes nowhere: Python would complain once more at its end."""
    try:
        if sys.__stdout__ is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())
    except (OSError, ValueError):
        pass


if __name__ == "__main__":
    main()
