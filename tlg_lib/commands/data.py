"""`tlg data`: make, list, check and look at datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as o

app = typer.Typer(no_args_is_help=True, help="Make, list, check and look at datasets.")

From = Annotated[list[Path] | None, typer.Option("--from", help="folder or archive already on disk; repeatable")]
Out = Annotated[Path | None, typer.Option(help="folder of the dataset; by default below data/")]
Folder = Annotated[Path, typer.Argument(help="dataset folder in VOC layout")]
Dataset = Annotated[str, typer.Option(help='class names and folds: mini, pascal or coco; "" asks the folder')]


@app.command()
def mini(
    out: Out = None,
    locked: Annotated[bool, typer.Option("--locked", help="the locked drawing of the test pictures")] = False,
) -> None:
    """Generate the mini benchmark (offline, about a minute).

    Files that are there are checked, damaged ones made again.
    """
    from ..data.mini.make import ensure_mini, verify_mini

    root = ensure_mini(out, locked=locked)
    damaged = verify_mini(root)
    for name in damaged:
        (root / name).unlink(missing_ok=True)
    made = ensure_mini(root, locked=locked)
    print(f"{made}" + (f": {len(damaged)} damaged files were made again" if damaged else ""))
    if locked:
        print(
            "The same training pictures, other test pictures: for final figures alone, once. A choice made after "
            f"looking at their scores makes them worthless. Use it with `tlg run mini --data {made}`"
        )


@app.command()
def voc(
    sources: From = None,
    out: Out = None,
    sbd: Annotated[bool, typer.Option(help="add SBD: 10,582 training images instead of 1,464")] = True,
    lists: Annotated[str, typer.Option(help="split lists: rule (class area), or hsnet (published)")] = "rule",
    lists_from: Annotated[Path | None, typer.Option(help="folder with HSNet's trn/ and val/")] = None,
) -> None:
    """Pascal-5i from PASCAL VOC 2012 and SBD. From folders or archives on disk, else by download."""
    from ..data.voc import STANDARD, make_voc

    _known_lists(lists)
    target = _target(out, "voc")
    done = make_voc(target, sources or [], sbd=sbd)
    print(f"{target}: {done['images']:,} images, {done['own_masks']:,} with a mask of VOC, {done['from_sbd']:,} of SBD")
    for name, count in done["lists"].items():
        expected = STANDARD.get(name) if sbd else None
        beside = "" if expected in (None, count) else f" (the complete merge has {expected:,})"
        print(f"  {name}: {count:,}{beside}")
    if done["missing"]:
        print(
            f"  {done['missing']:,} images of VOC's lists are not there, as "
            f"{', '.join(done['missing_examples'])}: a "
            "subset? If not, name the whole download with --from"
        )
    if done.get("left_out"):
        print(
            f"  {done['left_out']:,} images have names that a list cannot hold and are left out "
            f"({', '.join(done['left_out_examples'])}): rename them"
        )
    _lists(target, "pascal", lists, lists_from)


@app.command()
def coco(
    sources: From = None,
    out: Out = None,
    crowd: Annotated[str, typer.Option(help="crowd regions: ignore (255) or class")] = "ignore",
) -> None:
    """COCO-20i from COCO 2014. From folders or archives on disk, else by download (20 GB)."""
    from ..data.coco import STANDARD, make_coco

    target = _target(out, "coco")
    done = make_coco(target, sources or [], crowd=crowd)
    print(f"{target}: {done['images']:,} images, crowd regions: {crowd}")
    for name, count in done["lists"].items():
        beside = "" if STANDARD[name] == count else f" (all of COCO 2014: {STANDARD[name]:,})"
        print(f"  {name}: {count:,}{beside}")
    if done["missing"]:
        print(f"  {done['missing']:,} annotated images are not on disk: a subset?")
    print("HSNet publishes its COCO lists as pickles, which are not opened here: the lists are built by rule.")
    _lists(target, "coco", "rule", None)


@app.command()
def splits(
    folder: Folder,
    dataset: Dataset = "",
    lists: Annotated[str, typer.Option(help="rule (class area), or hsnet (published)")] = "rule",
    lists_from: Annotated[Path | None, typer.Option(help="folder with HSNet's trn/ and val/")] = None,
    min_area: Annotated[int, typer.Option(help="smallest class area in pixels; 0: 2,048, less for small images")] = 0,
    force: Annotated[bool, typer.Option(help="replace lists that are there")] = False,
) -> None:
    """Write split lists by rule or HSNet's, and say how the two differ."""
    from ..errors import TLGError

    _known_lists(lists)
    if min_area < 0:
        raise TLGError(f"--min-area {min_area}: give a number of pixels, or 0 for the rule")
    if (folder / "splits").exists() and not force:
        raise TLGError(
            f"{folder / 'splits'} is there already: look at it with `tlg data verify {folder}`, or replace "
            f"it "
            "with --force"
        )
    _lists(folder, _dataset(folder, dataset), lists, lists_from, min_area)


@app.command()
def verify(folder: Folder, dataset: Dataset = "", json: o.Json = False) -> None:
    """Decode every file and say what is broken. Prints counts per class and fold, and the remedies."""
    from rich.table import Table

    from ..data.verify import REMEDIES
    from ..data.verify import verify as look
    from ..errors import TLGError
    from ..machine.terminal import console, shown

    report = look(folder, _dataset(folder, dataset))
    if json:
        o.print_json({**vars(report), "root": str(report.root)})
        if report.broken:
            raise TLGError(f"{report.broken} problems in {folder} (listed above)", code=3)
        return
    table = Table(
        title=shown(f"{report.root}: {report.images:,} images, {report.masks:,} masks, dataset {report.dataset}")
    )
    for column in ("fold", "class", "name", "images", "share of pixels", "trn rows", "val rows"):
        table.add_column(column, justify="left" if column == "name" else "right")
    for row in sorted(report.classes, key=lambda r: (r["fold"], r["class"])):
        table.add_row(
            str(row["fold"]),
            str(row["class"]),
            shown(row["name"]),
            str(row["images"]),
            f"{100 * row['share']:.2f}%",
            str(row["trn"]),
            str(row["val"]),
        )
    console().print(table)
    for split, counts in report.rows.items():
        print(f"{split}: {sum(counts):,} rows, by fold {counts}")
    for note in report.notes:
        print(f"note: {note}")
    for kind, remedy in REMEDIES.items():
        lines = report.problems.get(kind, [])
        if lines:
            print(f"\n{kind}: {len(lines)} - {remedy.format(classes=len(report.classes))}")
            print("\n".join(f"  {line}" for line in lines[:10]) + ("\n  ..." if len(lines) > 10 else ""))
    if report.broken:
        kinds = ", ".join(f"{len(lines)} {kind}" for kind, lines in report.problems.items() if lines)
        raise TLGError(f"{report.broken} problems in {folder} ({kinds})", code=3)
    print("everything is readable and fits together")


@app.command()
def weights(
    preset: Annotated[str, typer.Argument(help="whose backbone and CLIP to fetch: pascal or coco")] = "pascal",
    backbone: Annotated[str | None, typer.Option(help="in place of the preset's: resnet50 or vgg16")] = None,
    clip: Annotated[str, typer.Option(help="CLIP for pseudo masks beside it; none = do without")] = (
        "ViT-B-16-quickgelu/openai"
    ),
) -> None:
    """Fetch and verify weights ahead of a run. For a machine that will be without a network."""
    from ..backbones import load_backbone
    from ..config import make_config
    from ..masks.clips import load_clip

    config = make_config(preset, **({"backbone": backbone} if backbone else {}))
    print(f"{config.backbone}: {load_backbone(config).weights}, loaded")
    for name in dict.fromkeys((config.clip, *(() if clip == "none" else (clip,)))):
        print(f"CLIP {name}: {load_clip(name, config.clip_weights if name == config.clip else '').weights}, loaded")


@app.command()
def sheet(
    folder: Folder,
    dataset: Dataset = "",
    out: Annotated[Path, typer.Option(help="PNG to write")] = Path("sheet.png"),
    count: Annotated[int, typer.Option(help="number of images", min=1, max=1000)] = 36,
) -> None:
    """Draw images and their label maps on a contact sheet. In colour, spread evenly over the folder."""
    from ..data.folder import SegmentationFolder
    from ..errors import TLGError
    from ..look.figures import refuse_overwriting, save_figure
    from ..look.sheets import label_sheet

    data = SegmentationFolder(folder, _dataset(folder, dataset))
    names = [name for name in data.image_ids if name in data.labels.files]
    if not names:
        raise TLGError(f"{folder}: no image in JPEGImages has a label map in SegmentationClassAug", code=3)
    chosen = [names[i * len(names) // min(count, len(names))] for i in range(min(count, len(names)))]
    refuse_overwriting(out)
    save_figure(label_sheet(data, chosen), out, alt=f"{len(chosen)} images of {folder.name} with label maps in colour")
    print(f"{len(chosen)} of {len(names)} label maps: {out}")


def _target(out: Path | None, name: str) -> Path:
    from ..machine.paths import data_home

    return out or data_home() / name


def _known_lists(lists: str) -> None:
    from ..errors import TLGError

    if lists not in ("rule", "hsnet"):
        raise TLGError(f"--lists {lists}: choose rule or hsnet")


def _dataset(folder: Path, dataset: str) -> str:
    """The dataset named, else what the folder's own files say, else pascal."""
    import json

    from ..data.mini.make import is_mini

    if dataset:
        return dataset
    if is_mini(folder):
        return "mini"
    for name in ("dataset.json", "splits/about.json"):
        try:
            found = json.loads((folder / name).read_text(encoding="utf-8")).get("dataset")
            if isinstance(found, str):
                return found
        except (OSError, ValueError, AttributeError, RecursionError):
            continue
    return "pascal"


def _lists(folder: Path, dataset: str, lists: str, lists_from: Path | None, min_area: int = 0) -> None:
    """Write the chosen lists; where HSNet's are chosen, report how the rule differs from them."""
    from ..data.splits import build_splits, compare_splits, published_splits
    from ..errors import TLGError

    if lists == "rule":
        build_splits(folder, dataset, min_area)
        return
    if dataset != "pascal":
        raise TLGError(f"HSNet's readable lists are those of Pascal, not of {dataset}: use --lists rule")
    published = published_splits(folder, lists_from or "")
    print(f"HSNet's lists written to {folder / 'splits'}; beside them the rule would give:")
    for row in compare_splits(published, build_splits(folder, dataset, min_area, write=False)):
        print(
            f"  {row['split']} fold {row['fold']}: {row['both']} rows in both, {len(row['only_first'])} only "
            f"in HSNet's, "
            f"{len(row['only_second'])} only by rule{'' if row['same_order'] else ', in another order'}"
        )
