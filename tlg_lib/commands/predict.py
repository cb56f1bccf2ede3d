"""`tlg predict`: segment an object in your own photographs, by its name or by masks that you draw."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    query: Annotated[list[str], typer.Option(help="photograph, or a folder of them, to segment; repeatable")],
    support: Annotated[
        list[str], typer.Option(help="photograph that shows the class; repeatable, or several after one --support")
    ],
    class_name: Annotated[
        str,
        typer.Option("--class", help='what to segment, as "coffee mug"; synonyms after commas; not needed with masks'),
    ] = "",
    more_support: Annotated[
        list[str] | None, typer.Argument(help="further support photographs", metavar="[SUPPORT]...")
    ] = None,
    support_mask: Annotated[
        list[str] | None,
        typer.Option(
            help='the object in a support: a PNG, a box "x0,y0,x1,y1" or points "x,y x,y -x,y" (minus: outside); one '
            "for each support in their order, or one folder of PNGs with the supports' names"
        ),
    ] = None,
    out: Annotated[str, typer.Option(help="folder for masks, overlays and summary.json")] = "predictions",
    checkpoint: Annotated[
        str,
        typer.Option(
            help="trained network (file or run folder); photo = the library's own for photographs, by default with "
            "--support-mask; otherwise the latest extended one in runs/mini; none = training-free"
        ),
    ] = "",
    clip: Annotated[
        str, typer.Option(help="mini, or an open_clip name as ViT-B-16-quickgelu/openai; by default the checkpoint's")
    ] = "",
    clip_weights: Annotated[str, typer.Option(help="a CLIP weights file in place of the download")] = "",
    prompts: Annotated[str, typer.Option(help="YAML file with your own words")] = "",
    threshold: Annotated[float | None, typer.Option(help="probability from which a pixel is foreground")] = None,
    coco: Annotated[str, typer.Option(help="write predictions.json in COCO's form too: rle or polygons")] = "",
    json: Annotated[bool, typer.Option("--json", help="print the summary as JSON and nothing else")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
) -> None:
    """Segment an object in your own photographs. Writes a mask and an overlay PNG per query, a sheet and a summary."""
    from ..errors import TLGError
    from ..runs.photographs import predict_files

    summary = predict_files(
        query,
        [*support, *(more_support or [])],
        class_name,
        out,
        support_masks=support_mask,
        coco=coco,
        checkpoint=checkpoint,
        clip=clip,
        clip_weights=clip_weights,
        prompts_file=prompts,
        threshold=threshold,
        device=device,
    )
    if json:
        from json import dumps

        print(dumps(summary, indent=2, sort_keys=True))
    else:
        print("\n".join(_lines(summary, out)))
    failed = [entry for entry in summary["queries"] if "error" in entry]
    if failed:
        raise TLGError(
            f"{len(failed)} of {len(summary['queries'])} images could not be read or written (first: "
            f"{failed[0]['query']}): the others are done",
            code=3,
        )


def _lines(summary: dict, out: str) -> list[str]:
    """The summary as text."""
    from pathlib import Path

    lines = [f"method: {summary['method']}"]
    masks = f"masks from: {summary['clip']}" if summary["clip"] else "masks of the supports: drawn"
    lines.append(f"{masks}; features from: {summary['backbone']} ({summary['backbone_weights']})")
    shares = ((entry["file"], 100 * entry["mask_share"]) for entry in summary["support"])
    lines += [f"support {file}: the object is {share:.1f}% of the image" for file, share in shares]
    lines += [f"note: {note}" for note in summary["notes"]]
    for entry in summary["queries"]:
        found = f"{entry.get('overlay')}: {100 * entry.get('share', 0):.1f}% of the image"
        lines.append(f"skipped: {entry['error']}" if "error" in entry else found)
    other = [Path(name).name for name in summary["passed_over"]]
    if other:
        heic = any(name.lower().endswith((".heic", ".heif")) for name in other)
        listed = ", ".join(other[:5]) + (", ..." if len(other) > 5 else "")
        lines.append(
            f"note: {len(other)} file{'s' if len(other) > 1 else ''} of other kinds passed over ({listed})"
            + (": convert HEIC to JPEG" if heic else "")
        )
    lines += [f"all in one picture: {summary['sheet']}"] if "sheet" in summary else []
    return [*lines, f"summary: {Path(out) / 'summary.json'}"]
