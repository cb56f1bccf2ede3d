"""`tlg notebooks`: a copy of the notebooks to work in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    folder: Annotated[Path, typer.Argument(help="folder for the copies; made if it is not there")] = Path("notebooks"),
) -> None:
    """Copy the notebooks, their parameters and photographs. Copies that you changed stay as they are."""
    import filecmp
    import shutil

    from ..errors import TLGError
    from ..machine.paths import disk_error, notebooks_home, user_path

    source, kept, folder = notebooks_home(), [], user_path(folder)
    if folder.resolve() == source.resolve():
        raise TLGError(f"{folder} holds the notebooks themselves: name another folder")
    files = [path for kind in ("*.ipynb", "params/*.yaml", "photos/*.*") for path in sorted(source.glob(kind))]
    for path in files:
        target = folder / path.relative_to(source)
        try:
            if target.exists():
                kept += [] if filecmp.cmp(path, target, shallow=False) else [target]
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        except OSError as error:
            raise disk_error(target, error) from None
    for path in kept:
        print(f"kept as it is: {path}")
    print(f"{len(files) - len(kept)} files in {folder}: `jupyter lab {folder}`, and begin with 00_start_here")
