"""Photographs on disk: a file or a folder of them segmented into masks, overlays and a summary (`tlg predict`)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ..data.images import frames_note, image_size, read_image, tint
from ..data.photographs import (
    KINDS,
    MAKER,
    coco_annotations,
    coco_shape,
    folders_note,
    images_at,
    output_path,
    output_stems,
    passed_over,
    refuse_overwriting,
    write_picture,
)
from ..errors import TLGError
from ..machine.paths import user_path, write_json
from ..machine.progress import track
from ..machine.terminal import plain
from ..masks.drawn import drawn_mask
from ..predict import FewShotPredictor

OVERLAY = (0, 114, 178)  # RGB
SUPPORT = (0, 158, 115)
TILE, COLUMNS, MOST = (240, 180), 5, 100  # pixels; of the sheet; queries on it at most


def predict_files(
    query: str | Path | list[str | Path],
    support: list[str | Path],
    class_name: str,
    out: str | Path,
    progress: bool = True,
    support_masks: list[str | Path] | None = None,
    coco: str = "",
    **options,
) -> dict:
    """Segment photographs or folders of them; write masks, overlays and summary.json into ``out``.

    query: a file or folder, or several; support: files or folders; support_masks: drawn masks, one for each support
    image in their order (masks/drawn.py), or one folder of PNGs with the supports' names; coco: "rle" or "polygons"
    writes predictions.json too; options: of FewShotPredictor. Masks are 8-bit PNG, 255 = the class, at the query's
    own size. Several queries get sheet.png too: the supports and the first MOST overlays in small.
    Of several queries one that cannot be read or written is reported in the summary ("error"), the others are done;
    a single query raises TLGError. Nothing that was not written by this function is written over. Returns the summary.
    """
    if coco not in ("", "rle", "polygons"):
        raise TLGError(f"--coco {coco}: choose rle or polygons")
    asked = [query] if isinstance(query, str | Path) else query
    queries = list(dict.fromkeys(path for item in asked for path in images_at(item)))
    supports = [path for item in support for path in images_at(item)]
    if not supports:
        raise TLGError("no support image: give at least one with --support")
    drawn = _drawn(support_masks or [], supports)
    if not drawn and not class_name.strip():
        raise TLGError("say what to look for: a class name (--class) or a mask of each support (--support-mask)")
    out = user_path(out)
    stems = output_stems(queries, out)
    summaries = [out / "summary.json"] + [out / "predictions.json"] * bool(coco)
    targets = [output_path(stem, kind) for stem in stems for kind in KINDS]
    sheet = [out / "sheet.png"] if len(queries) > 1 else []
    inputs = [*queries, *supports, *(Path(mask) for mask in drawn)]
    refuse_overwriting(out, [user_path(item) for item in asked], inputs, targets + sheet, summaries)
    for path in queries if len(queries) == 1 else []:
        image_size(path)  # raises, as the next line, naming what is wrong before the models are loaded
    shown, masks = _opened(supports, drawn)
    if drawn and not options.get("checkpoint"):
        options["checkpoint"] = "photo"
    predictor = FewShotPredictor(class_name, **options)
    prepared = predictor.support(shown, masks or None)
    label = f"segmenting '{class_name}'" if class_name else "segmenting"
    files = track(list(zip(queries, stems)), label=label, unit="images", show=progress and len(queries) > 1)
    results, shapes = _predict_all(predictor, prepared, files, len(queries) == 1, coco)
    if coco:
        write_json(summaries[1], coco_annotations(shapes, class_name))
    summary = _summary(predictor, class_name, results, _notes(asked, supports + queries))
    summary["support"] = [
        {"file": str(path), "drawn": bool(drawn), "mask_share": _share(mask == 1)}
        for path, (_, _, mask) in zip(supports, prepared, strict=True)
    ]
    summary["passed_over"] = [str(path) for item in asked for path in passed_over(item)]
    if sheet:
        marked = (tint(image, mask == 1, SUPPORT) for image, (_, _, mask) in zip(shown, prepared))
        write_picture(sheet[0], _sheet(supports, marked, results))
        summary["sheet"] = str(sheet[0])
    write_json(summaries[0], summary)
    return summary


def _notes(asked: list, pictures: list[Path]) -> list[str]:
    """What must be said of the files: folders not looked into, frames not read."""
    return [note for item in asked for note in folders_note(item)] + frames_note(dict.fromkeys(pictures))


def _sheet(supports: list[Path], marked: Iterable[np.ndarray], results: list[dict]) -> np.ndarray:
    """The marked supports and the first overlays in small, each with its file's name below. uint8 [h, w, 3]."""
    from matplotlib import get_data_path

    font = ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), 13)
    done = [entry for entry in results if "overlay" in entry][:MOST]
    names = [f"support {path.name}" for path in supports] + [Path(entry["query"]).name for entry in done]
    pictures = chain(marked, (read_image(entry["overlay"]) for entry in done))  # one at a time in memory
    (width, height), rows = TILE, -(-len(names) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * width, rows * (height + 22)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (name, picture) in enumerate(zip(names, pictures)):
        x, y = number % COLUMNS * width, number // COLUMNS * (height + 22)
        small = ImageOps.contain(Image.fromarray(picture), (width - 6, height - 6))
        sheet.paste(small, (x + (width - small.width) // 2, y + (height - small.height) // 2))
        draw.text((x + 4, y + height), plain(name, line=True)[:32], "black", font)
    return np.asarray(sheet)


def _drawn(masks: list, supports: list[Path]) -> list[str]:
    """One drawn mask for each support; a folder gives <name of the support>.png. Raises TLGError when they differ."""
    if len(masks) == 1 and user_path(masks[0]).is_dir():
        folder = user_path(masks[0])
        masks = [folder / f"{path.stem}.png" for path in supports]
        lacking = [path for path in masks if not path.is_file()]
        if lacking:
            raise TLGError(
                f"no mask {lacking[0]}: a folder of masks needs one PNG with the name of each support", code=3
            )
    if masks and len(masks) != len(supports):
        raise TLGError(
            f"{len(supports)} support images and {len(masks)} masks: give one mask for each, in their order, every one "
            "after its own --support-mask, or one folder"
        )
    return [str(mask) for mask in masks]


def _opened(supports: list[Path], drawn: list[str]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The support images [H, W, 3] and their masks {0, 1} [H, W], none where none is drawn."""
    shown = [read_image(path) for path in supports]
    return shown, [drawn_mask(*pair, f"the mask of support image {k + 1}") for k, pair in enumerate(zip(shown, drawn))]


def _summary(predictor: FewShotPredictor, class_name: str, results: list[dict], notes: list[str]) -> dict:
    clip = predictor.clip
    return {
        "made_by": MAKER,
        "class": class_name,
        "method": predictor.method,
        "notes": [*predictor.notes, *notes],
        "threshold": predictor.threshold,
        "clip": f"{clip.name} ({clip.weights})" if clip else "",
        "backbone": predictor.backbone.name,
        "backbone_weights": predictor.backbone.weights,
        "device": str(predictor.device),
        "queries": results,
    }


def _predict_all(predictor: FewShotPredictor, prepared: list, files, alone: bool, coco: str) -> tuple[list, list]:
    """Entries of the summary and, for COCO's form, (entry, shape) of each query; alone: what fails raises."""
    results, shapes = [], []
    for path, stem in files:
        try:
            entry, mask = _predict_file(predictor, prepared, path, stem)
            results.append(entry)
            shapes += [(entry, coco_shape(mask, coco))] if coco else []
        except TLGError as error:
            if alone or (error.code == 5 and "no space" in str(error)):
                raise
            results.append({"query": str(path), "error": str(error)})
    return results, shapes


def _predict_file(predictor: FewShotPredictor, prepared: list, path: Path, stem: Path) -> tuple[dict, np.ndarray]:
    image = read_image(path)
    found = predictor.segment(image, prepared)
    mask_path, overlay_path = (output_path(stem, kind) for kind in KINDS)
    write_picture(mask_path, found.mask.astype(np.uint8) * 255)
    write_picture(overlay_path, tint(image, found.mask, OVERLAY))
    return {
        "query": str(path),
        "mask": str(mask_path),
        "overlay": str(overlay_path),
        "height": image.shape[0],
        "width": image.shape[1],
        "share": _share(found.mask),
        "mask_share": _share(found.query_mask == 1),
        "confidence": round(float(found.probability[found.mask].mean()), 4) if found.mask.any() else 0.0,
    }, found.mask


def _share(mask: np.ndarray) -> float:
    """Share of the pixels inside, 0..1."""
    return round(float(np.mean(mask)), 4)
