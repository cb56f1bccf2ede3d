"""The command line: a thin mount of tlg_lib/commands, and the one place where errors become exit codes."""

from __future__ import annotations

import importlib
import sys
from typing import Annotated

import typer

from . import __version__
from .errors import TLGError

# Top-level modules that come with an extra; the core is installed without them.
EXTRAS = {
    **dict.fromkeys(("papermill", "nbclient", "nbformat", "nbconvert", "ipykernel", "jupyterlab"), "notebooks"),
    **dict.fromkeys(("ipywidgets", "anywidget", "traitlets", "IPython", "latex2mathml"), "notebooks"),
    "ot": "bench",
    "pycocotools": "coco",
    "submitit": "slurm",
}

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


for _module in COMMANDS:
    try:
        _loaded = importlib.import_module(f"tlg_lib.commands.{_module}")
    except ModuleNotFoundError as _error:
        if _error.name != f"tlg_lib.commands.{_module}":
            raise
        continue
    _name = NAMES.get(_module, _module)
    if hasattr(_loaded, "app"):
        app.add_typer(_loaded.app, name=_name)
    else:
        app.command(_name)(_loaded.command)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; bad input becomes one line on stderr and a non-zero exit."""
    try:
        code = app(arguments, standalone_mode=False)
        if code == 130:  # typer turns Ctrl-C into this code
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except TLGError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.code)
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in EXTRAS:
            raise
        print(f"error: this needs {module}: pip install 'tlg-lib[{EXTRAS[module]}]'", file=sys.stderr)
        sys.exit(3)
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on from here", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        # typer carries its own copy of click in recent versions, so usage errors are told by their method.
        if not hasattr(error, "format_message"):
            raise
        print(f"error: {' '.join(error.format_message().split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
