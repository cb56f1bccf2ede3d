"""`tlg predict`: segment a named class in your own photographs."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    query: Annotated[str, typer.Option(help="photograph, or a folder of them, to segment")],
    support: Annotated[
        list[str], typer.Option(help="photograph that shows the class; repeatable, or several after one --support")
    ],
    class_name: Annotated[str, typer.Option("--class", help='what to segment, as "coffee mug"; synonyms after commas')],
    more_support: Annotated[
        list[str] | None, typer.Argument(help="further support photographs", metavar="[SUPPORT]...")
    ] = None,
    out: Annotated[str, typer.Option(help="folder for masks, overlays and summary.json")] = "predictions",
    checkpoint: Annotated[
        str,
        typer.Option(
            help="trained network (file or run folder); by default the latest "
            "corrected one in runs/mini; none = training-free"
        ),
    ] = "",
    clip: Annotated[
        str, typer.Option(help="mini, or an open_clip name as ViT-B-16-quickgelu/openai; by default the checkpoint's")
    ] = "",
    clip_weights: Annotated[str, typer.Option(help="a CLIP weights file in place of the download")] = "",
    prompts: Annotated[str, typer.Option(help="YAML file with your own words")] = "",
    threshold: Annotated[float | None, typer.Option(help="probability from which a pixel is foreground")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
) -> None:
    """Write a mask PNG and an overlay PNG per query, at its own size, and a summary."""
    from pathlib import Path

    from ..errors import TLGError
    from ..predict import predict_files

    summary = predict_files(
        query,
        [*support, *(more_support or [])],
        class_name,
        out,
        checkpoint=checkpoint,
        clip=clip,
        clip_weights=clip_weights,
        prompts_file=prompts,
        threshold=threshold,
        device=device,
    )
    print(f"method: {summary['method']}")
    print(f"masks from: {summary['clip']}; features from: {summary['backbone']} ({summary['backbone_weights']})")
    for note in summary["notes"]:
        print(f"note: {note}")
    failed = [entry for entry in summary["queries"] if "error" in entry]
    for entry in summary["queries"]:
        print(
            f"skipped: {entry['error']}"
            if "error" in entry
            else f"{entry['overlay']}: {100 * entry['share']:.1f}% of the image"
        )
    print(f"summary: {Path(out) / 'summary.json'}")
    if failed:
        raise TLGError(
            f"{len(failed)} of {len(summary['queries'])} images could not be read (first: "
            f"{failed[0]['query']}): the others are done",
            code=3,
        )
