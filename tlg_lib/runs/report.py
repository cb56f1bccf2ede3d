"""report.html: one self-contained page from results.json and the figures of a run, readable on a phone.

The words stand in report_template.html, which escapes everything that comes from data, settings or file names;
pictures are data URIs; there is no script.
"""

from __future__ import annotations

import base64
import io
import math
import re
from pathlib import Path

import jinja2

from ..look.figures import METHODS, method_colour, method_name
from ..machine.paths import atomic
from . import paper
from .records import FUSION, MASK, PROTOTYPE
from .results import load_results

WIDEST = 1600  # pixels of a picture; its place on the page is 960, and half as much again on fine screens

# Section -> (heading, one sentence, figures in order). Figure names are those that the notebooks give.
PICTURES = {
    "task": (
        "The task in one picture",
        "One image of a new class is the support; the other is to be segmented. Each "
        "has a pseudo mask in place of a drawn one; “Who was told what” says where from.",
        ("07-task", "00-task"),
    ),
    "network": (
        "The network",
        "Drawn from the model itself: what stands on an arrow is the shape of a tensor, channels and then positions.",
        ("network",),
    ),
    "examples": (
        "What the network does",
        "Every class below was held out of training. Truth is used for scoring only.",
        ("07-examples", "07-failures"),
    ),
    "training": (
        "Training",
        "The score on the held-out classes is watched, not used: the last epoch counts.",
        ("06-curves", "07-best-epoch"),
    ),
    "classes": ("Class by class", "Each class is scored on the fold that never trained on it.", ("07-classes",)),
    "controls": (
        "What the score comes from",
        "Controls: a support image of the wrong class, no mask for the query, "
        "another threshold, and how closely the prediction copies the mask; then the difference to every other row, "
        "what becomes of bad and of good masks, and the causes of failures.",
        ("07-controls", "07-threshold", "07-agreement", "07-intervals", "07-mask-quality", "07-curve", "07-causes"),
    ),
}


# The sections in order; those of PICTURES stand only where there is one of their pictures.
HEADINGS = {
    "task": "", "network": "", "examples": "",
    "scores": "Scores, fold by fold",
    "training": "", "classes": "", "controls": "",
    "supervision": "Who was told what",
    "paper": "Beside the paper",
    "environment": "How this was made",
}  # fmt: skip


def write_report(folder: str | Path) -> Path:
    """Write <folder>/report.html from its results.json and figures/. Returns the path.

    Raises TLGError when results.json is missing or of another version.
    """
    folder = Path(folder)
    results = load_results(folder / "results.json")
    figures = {path.stem: _figure(path) for path in sorted((folder / "figures").glob("*.png")) if _is_picture(path)}
    figures |= _drawing(folder / "figures" / "network.svg")
    present = {name: [n for n in names if n in figures] for name, (_, _, names) in PICTURES.items()}
    present["task"] = present["task"][:1]  # of the fully trained network where there is one, else of notebook 00's
    headings = {name: heading or PICTURES[name][0] for name, heading in HEADINGS.items()}
    sections = {name: heading for name, heading in headings.items() if present.get(name, True)}
    shown = {name for _, _, names in PICTURES.values() for name in names} | {"07-folds", "07-shots", "10-paper"}
    if rest := [name for name in figures if name not in shown]:
        sections["more"] = "More pictures from the notebooks"
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    pages = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    pages.filters |= {"score": _score, "spread": _spread}
    page = pages.get_template("report_template.html").render(
        r=results, figures=figures, pictures=PICTURES, present=present, sections=sections, rest=rest, paper=paper,
        verdict=verdict(results), chips=_chips(results), table=lambda shots: _table(results, shots),
        learned_from=_learned_from(results), reasons=paper.not_comparable(results),
    )  # fmt: skip
    path = folder / "report.html"
    with atomic(path, "w") as file:
        file.write(page)
    return path


def _score(value) -> str:
    return "–" if value is None or (isinstance(value, float) and math.isnan(value)) else f"{value:.1f}"


def _spread(half_width: float | None) -> str:
    return "" if half_width is None else f" ± {half_width:.1f}"


def find_row(
    results: dict, key: str, shots: int = 1, epoch: str = "last", threshold_from: str = "fixed"
) -> dict | None:
    """The entry of ``results["rows"]`` with these properties; rows without training have one epoch only."""
    for row in results["rows"]:
        if (row["key"], row["shots"], row["threshold_from"]) == (key, shots, threshold_from) and row["epoch"] in (
            epoch,
            "no training",
        ):
            return row
    return None


def leading_row(results: dict, key: str, shots: int = 1) -> dict | None:
    """The last epoch's entry at the threshold that base classes chose, at 0.5 where none was chosen.

    A network that was trained briefly marks little at 0.5, whatever it knows.
    """
    return find_row(results, key, shots, threshold_from="base classes") or find_row(results, key, shots)


def verdict(results: dict) -> str:
    """One sentence: the main score and what it must be compared with."""
    main = leading_row(results, results["main_row"])
    but = f" But {'; '.join(main['remarks'])}." if main and main.get("remarks") else ""
    if main is None or main["miou"] is None:
        folds = ", ".join(f"fold {f}: {score:.1f}" for f, score in (main["folds"] if main else {}).items())
        return (
            f"{method_name(results['main_row'])}, mIoU on classes it never saw (1-shot): {folds or 'not scored'}. "
            f"A mean over folds needs all four, so no mean is given.{but}"
        )
    against = []
    for key, words in (
        (MASK, "its pseudo mask alone"),
        (PROTOTYPE, "a prototype without training"),
        (FUSION, "the best training-free fusion"),
        ("rival-pixel", "the fully supervised 4D encoder with drawn supports"),
        ("hsnet-pixel", "the plain 4D encoder"),
    ):
        row = leading_row(results, key)
        if row is not None and row["miou"] is not None and key != results["main_row"]:
            against.append(f"{row['miou']:.1f} for {words}")
    return (
        f"{method_name(results['main_row'])}: {main['miou']:.1f}{_spread(main['half_width_95'])} mIoU on classes it "
        f"never saw (1-shot, mean of the four folds, {results['episodes']} episodes each{_cut(main)})"
        + (f", against {', '.join(against)}." if against else ".")
        + but
    )


def _cut(row: dict) -> str:
    chosen = row["threshold_from"] == "base classes"
    return ", each row cut where base classes chose, a vote with the mask where it is even" if chosen else ""


def _chips(results: dict) -> list[str]:
    return [
        f"preset {results['preset']}",
        results["device"],
        f"{results['backbone']} ({results['backbone_weights']})",
        "x".join(map(str, results["image_size"])) + " px",
        f"{results['steps']} steps, batch {results['batch']}",
        "seeds " + ", ".join(map(str, results["seeds"])),
        f"supervision {results['supervision']}",
        f"pseudo masks by CLIP {results['masks_by']}" if results["masks_by"] else "surrogate masks, made elsewhere",
        f"commit {results['commit']}",
        *(["locked test pictures: final figures, looked at once"] if results.get("locked") else ()),
    ]


def _drawing(path: Path) -> dict[str, dict]:
    """The network's drawing as a picture, in which no script runs; {} where no notebook has left it."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    size = re.search(r'viewBox="0 0 (\d{1,5}) (\d{1,5})"', text)
    if size is None:
        return {}
    alt = "The network as boxes and arrows with the shapes of its tensors."
    data = base64.b64encode(text.encode()).decode()
    return {"network": {"data": data, "alt": alt, "width": int(size[1]), "height": int(size[2]), "kind": "svg+xml"}}


def _is_picture(path: Path) -> bool:
    """Whether the file is a whole picture; a broken one is left out, and the terminal says so."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            picture.load()
        return True
    except Exception as error:  # Pillow raises many kinds for broken pictures
        print(f"left out of the report: {path} is no whole picture ({type(error).__name__})")
        return False


def _figure(path: Path) -> dict:
    """A picture as WebP in text, at most WIDEST wide: a tenth of its PNG. Its description becomes its caption."""
    from PIL import Image

    with Image.open(path) as picture:
        alt = picture.info.get("Description", path.stem)
        picture = picture.convert("RGB")
        picture.thumbnail((WIDEST, 4 * WIDEST), Image.Resampling.LANCZOS)
        packed = io.BytesIO()
        picture.save(packed, "WEBP", quality=85)
    data = base64.b64encode(packed.getvalue()).decode()
    return {"data": data, "alt": alt, "width": picture.width, "height": picture.height, "kind": "webp"}


def _table(results: dict, shots: int) -> list[dict]:
    """Lines of the scores' table, methods in METHODS' order and then others by name."""
    keys = {key: leading_row(results, key, shots) for key in METHODS}
    keys |= {r["key"]: leading_row(results, r["key"], shots) for r in sorted(results["rows"], key=lambda r: r["key"])}
    lines = []
    for key, row in keys.items():
        if row is None:
            continue
        trained = row["epoch"] == "last"
        best = find_row(results, key, shots, "best by test classes", row["threshold_from"]) if trained else None
        fixed = find_row(results, key, shots)
        entries = {"last": row, "best": best, "fixed": fixed}
        scores = {name: entries[name]["miou"] if entries[name] else None for name in ("best", "fixed")}
        agreement = fixed["agreement_with_mask"] if fixed and key != MASK else None
        about = {"row": row, "name": method_name(key), "colour": method_colour(key), "agreement": agreement}
        about["marks"] = {name: bool(e and e.get("remarks")) for name, e in entries.items()}
        about["remarks"] = list(dict.fromkeys(r for e in entries.values() if e for r in e.get("remarks", ())))
        lines.append({**about, **scores})
    return lines


def _learned_from(results: dict) -> list[tuple[str, str, str]]:
    """(part, what it learned from, which masks it saw)."""
    real = results["dataset"] != "mini" and results["clip"] != "mini"
    backbone = {"imagenet": "ImageNet class labels"}.get(
        results["backbone_weights"], f"{results['backbone_weights']} weights"
    )
    masks = ("class names of each image (image-level labels)", "no drawn masks")
    if not results["masks_by"]:
        masks = ("not recorded: surrogate masks that were made elsewhere", "not known")
    return [
        ("backbone", backbone, "none seen"),
        ("CLIP", "image-text pairs (OpenAI)" if real else "image-level captions of generated pictures", "none seen"),
        ("pseudo masks", *masks),
        ("training targets, rows “pixel”", "ground-truth masks of base classes", "drawn masks of base classes"),
        ("training targets, rows “image”", "pseudo masks", masks[1]),
        ("novel classes", "class name of query and support", "drawn masks for scoring only"),
    ]
