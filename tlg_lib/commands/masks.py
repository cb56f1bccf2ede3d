"""`tlg masks`: make pseudo masks with CLIP, check masks from anywhere, score every stage, draw a sheet."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options as o

app = typer.Typer(no_args_is_help=True, help="Make, check, score and draw pseudo masks.")

DataSet = Annotated[
    str, typer.Option(help="mini, pascal or coco: class names and folds; told from the folder when not given")
]
Masks = Annotated[str, typer.Option(help="folder of the masks; by default PseudoMasks in the dataset's folder")]
Clip = Annotated[str, typer.Option(help="mini, or an open_clip name as ViT-B-16-quickgelu/openai")]
ClipWeights = Annotated[str, typer.Option(help="a weights file in place of the download")]
PromptFile = Annotated[str, typer.Option("--prompts", help="YAML file with your own words for some classes")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="a recipe setting, as refine=grabcut or scales=1.0,2.0; repeatable")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda")]
Fold = Annotated[int | None, typer.Option(help="only the rows of this fold's classes")]
Split = Annotated[str, typer.Option(help="only the rows of this list: trn or val")]


@app.command("make")
def make(
    data: o.Data = None,
    dataset: DataSet = "",
    masks: Masks = "",
    clip: Clip = "mini",
    clip_weights: ClipWeights = "",
    prompts: PromptFile = "",
    settings: Settings = None,
    device: Device = "auto",
    workers: Annotated[int, typer.Option(help="processes; 0 = one; with several GPUs give their number")] = 0,
    batch: Annotated[int, typer.Option(help="images of one size computed together")] = 16,
    overwrite: Annotated[bool, typer.Option(help="make every mask again")] = False,
) -> None:
    """Write masks of every row of the split lists. Masks that exist and match stay."""
    from ..masks.generate import generate_masks
    from ..masks.prompts import load_prompts

    folder, tower, recipe, device = _opened(data, dataset, masks, clip, clip_weights, settings, device)
    words = load_prompts(folder.dataset, prompts)
    result = generate_masks(
        folder, tower, prompts=words, recipe=recipe, device=device, workers=workers, batch=batch, overwrite=overwrite
    )
    print(
        f"{result['folder']}: masks of {result['made']} images made by {tower.name} ({tower.weights}), "
        f"{result['kept']} kept"
    )


@app.command("verify")
def verify(data: o.Data = None, dataset: DataSet = "", masks: Masks = "", json: o.Json = False) -> None:
    """Say which masks are missing or wrong.

    Coverage, sizes, values, mIoU where there is truth; non-zero exit on faults.
    """
    from ..errors import TLGError
    from ..masks.verify import verify_masks

    found = verify_masks(_folder(data, dataset, masks))
    if json:
        o.print_json(found.to_dict())
    else:
        _print_report(found)
    if not found.usable:
        first = next(iter(found.faults), "") or "{}, class number {}".format(*(found.missing or found.empty)[0])
        if not found.missing and not found.faults:
            raise TLGError(
                f"all {found.checked} masks in {found.folder} show nothing of their class (first: {first}): write the "
                "class number where the object is (255 means unsure), or make them with `tlg masks make`",
                code=3,
            )
        raise TLGError(
            f"{len(found.missing)} masks missing and {len(found.faults)} faulty in {found.folder} (first: "
            f"{first}): make them with `tlg masks make`",
            code=3,
        )


def _print_report(found) -> None:
    for (split, fold), (present, wanted) in found.coverage.items():
        print(f"{split} fold {fold}: {present} of {wanted} masks")
    for line in found.faults[:20]:
        print(f"fault: {line}")
    if len(found.faults) > 20:
        print(f"and {len(found.faults) - 20} more faults")
    print(
        f"without a mask: {len(found.missing)}; masks that show nothing: {len(found.empty)}; "
        f"unsure pixels: {100 * found.unsure:.1f}%"
    )
    if found.usable:  # a mean over faulty or empty masks would be taken for theirs
        _print_scores({"masks": found.miou})


@app.command("score")
def score(
    data: o.Data = None,
    dataset: DataSet = "",
    clip: Clip = "mini",
    clip_weights: ClipWeights = "",
    prompts: PromptFile = "",
    settings: Settings = None,
    device: Device = "auto",
    fold: Fold = None,
    split: Split = "val",
    limit: Annotated[int, typer.Option(help="at most so many rows, spread evenly; 0 = all")] = 0,
) -> None:
    """mIoU of every stage against the truth. CAM, affinity, argmax and each refiner, without writing masks."""
    from ..masks.generate import MaskMaker
    from ..masks.prompts import load_prompts
    from ..masks.verify import score_stages

    folder, tower, recipe, device = _opened(data, dataset, "", clip, clip_weights, settings, device)
    maker = MaskMaker(tower, load_prompts(folder.dataset, prompts), recipe, device)
    rows = _rows(folder, split, fold, limit)
    print(f"{len(rows)} rows of {folder.root}, {tower.name} ({tower.weights}), {recipe}")
    _print_scores(score_stages(folder, maker, rows))


@app.command("sheet")
def sheet(
    data: o.Data = None,
    dataset: DataSet = "",
    masks: Masks = "",
    fold: Fold = None,
    split: Split = "val",
    limit: Annotated[int, typer.Option(help="number of rows, spread evenly")] = 24,
    out: Annotated[str, typer.Option(help="PNG to write")] = "masks.png",
) -> None:
    """Draw photograph, truth and pseudo mask side by side. A contact sheet, in colour."""
    from ..look.figures import refuse_overwriting, save_figure
    from ..look.sheets import mask_sheet

    folder = _folder(data, dataset, masks)
    rows = _rows(folder, split, fold, limit)
    missing = folder.missing_masks(rows)
    if missing:
        folder.pseudo_mask(*missing[0])  # raises, naming the file and the remedy
    refuse_overwriting(out)
    path = save_figure(mask_sheet(folder, rows), out, f"Photographs, truth and pseudo masks of {len(rows)} rows")
    print(f"sheet of {len(rows)} rows: {path}")


def _folder(data, dataset: str, masks: str):
    """The dataset's folder; `mini` is generated when it is asked for and absent."""
    from ..config import make_config
    from ..data.folder import SegmentationFolder
    from ..machine.paths import user_path
    from ..protocol import data_root

    if not dataset:
        dataset = "mini" if not data or (user_path(data) / "generator.json").is_file() else "pascal"
    root = data_root(make_config("mini", dataset=dataset, data=data or ""))
    if dataset == "mini" and not data:
        from ..data.mini.make import ensure_mini

        ensure_mini(root)
    return SegmentationFolder(root, dataset, user_path(masks) if masks else "")


def _opened(data, dataset, masks, clip, clip_weights, settings, device):
    """(folder, Clip, MaskRecipe, device name) of the options."""
    from ..machine.device import pick_device
    from ..masks.clips import load_clip
    from ..masks.generate import default_recipe, recipe_values

    folder = _folder(data, dataset, masks)
    values = recipe_values(o.parse_settings(settings))
    device = str(pick_device(device))
    tower = load_clip(clip, clip_weights, device)
    return folder, tower, default_recipe(tower, folder.dataset, **values), device


def _rows(folder, split: str, fold: int | None, limit: int):
    from ..errors import TLGError

    if split not in ("trn", "val"):
        raise TLGError(f"split={split}: choose trn or val")
    folds = range(4) if fold is None else (fold,)
    rows = [row for f in folds for row in folder.rows(split, _fold_number(f))]
    if not rows:
        raise TLGError(f"{folder.root}: list '{split}' has no rows: choose the other split or another fold", code=3)
    if limit and limit < len(rows):
        rows = [rows[i * len(rows) // limit] for i in range(limit)]
    return rows


def _fold_number(fold: int) -> int:
    from ..errors import TLGError

    if not 0 <= fold <= 3:
        raise TLGError(f"fold={fold}: must be between 0 and 3")
    return fold


def _print_scores(stages: dict[str, dict[str, float]]) -> None:
    """One line per stage: mIoU in percent by fold and over all classes."""
    for stage, miou in stages.items():
        if miou:
            parts = ", ".join(f"{name} {value:.1f}" for name, value in miou.items())
            print(f"{stage:18} mIoU: {parts}")
