"""`tlg convert-release`: the authors' checkpoints into ours, and back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def command(
    checkpoint: Annotated[Path, typer.Argument(help="the authors' file, or with --back one of ours")],
    out: Annotated[Path | None, typer.Option(help="file to write; default: beside the source")] = None,
    dataset: Annotated[str, typer.Option(help="pascal or coco: what it was trained on")] = "pascal",
    fold: Annotated[int, typer.Option(help="the fold that it holds out, 0 to 3")] = 0,
    back: Annotated[bool, typer.Option("--back", help="ours -> the authors' names")] = False,
) -> None:
    """Convert a checkpoint between the authors' names and ours. Nothing in it is executed."""
    from ..errors import TLGError
    from ..released import convert as checkpoints_release

    if dataset not in ("pascal", "coco"):
        raise TLGError(f"dataset '{dataset}': the release was trained on pascal or coco")
    target = out or (
        checkpoint.with_name(checkpoint.stem + "-release.pt") if back else checkpoint.with_suffix(".safetensors")
    )
    written = [target] if back else [target, *(checkpoints_release.beside(target, k) for k in ("backbone", "unused"))]
    for path in written:
        if os.path.lexists(path):
            raise TLGError(f"{path} is there already and would be overwritten: name another file with --out")
    if back:
        number = checkpoints_release.convert_back(checkpoint, target)
        print(f"wrote {target}: {number} keys in the authors' names")
        return
    converted = checkpoints_release.convert_file(checkpoint, target, dataset, fold=fold)
    print(f"wrote {target}: {len(converted.weights)} keys of variant=released, {converted.config.backbone}")
    for kind, tensors in (("backbone", converted.backbone), ("unused", converted.unused)):
        if tensors:
            print(f"wrote {checkpoints_release.beside(target, kind)}: {len(tensors)} keys")
