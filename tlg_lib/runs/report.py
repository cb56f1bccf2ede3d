"""report.html: one self-contained page from results.json and the figures of a run, readable on a phone.

Everything that comes from data, settings or file names is escaped; pictures are data URIs; there is no script.
"""

from __future__ import annotations

import base64
import html
import math
from pathlib import Path
from string import Template

from ..look.figures import method_colour, method_name
from ..machine.paths import atomic
from . import paper
from .records import FUSION, MASK, PROTOTYPE
from .results import load_results

# Section -> (heading, one sentence, figures in order). Figure names are those that the notebooks give.
PICTURES = {
    "task": (
        "The task in one picture",
        "One image of a new class is the support; the other is to be segmented. Each "
        "has a pseudo mask in place of a drawn one; “Who was told what” says where from.",
        ("07-task", "00-task"),
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
        "another threshold, and how closely the prediction copies the mask.",
        ("07-controls", "07-threshold", "07-agreement"),
    ),
}


def write_report(folder: str | Path) -> Path:
    """Write <folder>/report.html from its results.json and figures/. Returns the path.

    Raises TLGError when results.json is missing or of another version.
    """
    folder = Path(folder)
    results = load_results(folder / "results.json")
    figures = {path.stem: path for path in sorted((folder / "figures").glob("*.png"))}
    sections = [(name, *_pictures(name, figures)) for name in ("task", "examples")]
    sections.append(("scores", "Scores, fold by fold", _scores(results, figures)))
    sections += [(name, *_pictures(name, figures)) for name in ("training", "classes", "controls")]
    sections.append(("supervision", "Who was told what", _supervision(results)))
    sections.append(("paper", "Beside the paper", _paper(results, figures)))
    sections.append(("environment", "How this was made", _environment(results)))
    shown = {name for _, _, names in PICTURES.values() for name in names} | {"07-folds", "07-shots", "10-paper"}
    rest = [name for name in figures if name not in shown]
    if rest:
        pictures = "".join(_figure(figures[name], lazy=True) for name in rest)
        sections.append(
            (
                "more",
                "More pictures from the notebooks",
                f"<details><summary>{len(rest)} pictures</summary>{pictures}</details>",
            )
        )
    sections = [section for section in sections if section[2]]
    body = "".join(
        f'<section id="{name}"><h2>{_e(heading)}</h2>{content}</section>' for name, heading, content in sections
    )
    template = Template(Path(__file__).with_name("report_template.html").read_text(encoding="utf-8"))
    page = template.substitute(
        title=_e(f"TLG on {results['preset']}: few-shot segmentation without masks"),
        warning=_warning(results),
        verdict=verdict(results),
        chips="".join(f"<li>{_e(chip)}</li>" for chip in _chips(results)),
        navigation="".join(f'<a href="#{name}">{_e(heading)}</a>' for name, heading, _ in sections),
        body=body,
    )
    path = folder / "report.html"
    with atomic(path, "w") as file:
        file.write(page)
    return path


def _e(value) -> str:
    return html.escape(str(value), quote=True)


def _score(value) -> str:
    return "–" if value is None or (isinstance(value, float) and math.isnan(value)) else f"{value:.1f}"


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


def verdict(results: dict) -> str:
    """One sentence, escaped: the main score and what it must be compared with."""
    main = find_row(results, results["main_row"])
    if main is None or main["miou"] is None:
        folds = ", ".join(f"fold {f}: {score:.1f}" for f, score in (main["folds"] if main else {}).items())
        return _e(
            f"{method_name(results['main_row'])}, mIoU on classes it never saw (1-shot): {folds or 'not scored'}. "
            "A mean over folds needs all four, so no mean is given."
        )
    spread = f" ± {main['half_width_95']:.1f}" if main["half_width_95"] is not None else ""
    against = []
    for key, words in (
        (MASK, "its pseudo mask alone"),
        (PROTOTYPE, "a prototype without training"),
        (FUSION, "the best training-free fusion"),
        ("hsnet-pixel", "the plain 4D encoder"),
    ):
        row = find_row(results, key)
        if row is not None and row["miou"] is not None and key != results["main_row"]:
            against.append(f"{row['miou']:.1f} for {words}")
    return _e(
        f"{method_name(results['main_row'])}: {main['miou']:.1f}{spread} mIoU on classes it never saw (1-shot, "
        f"mean of the four folds, {results['episodes']} episodes each)"
        + (f", against {', '.join(against)}." if against else ".")
    )


def _warning(results: dict) -> str:
    lines = []
    if results["smoke"]:
        lines.append("smoke: figures mean nothing. A handful of images and steps, to see that everything runs.")
    if results["backbone_weights"] == "random":
        lines.append("The backbone has random weights: scores say nothing about the method.")
    return "".join(f'<p class="warn">{_e(line)}</p>' for line in lines)


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
    ]


def _figure(path: Path, lazy: bool = False) -> str:
    """An <img> with the PNG inside and the description stored in it as alternative text and caption."""
    from PIL import Image

    with Image.open(path) as picture:
        alt, (width, height) = picture.info.get("Description", path.stem), picture.size
    data = base64.b64encode(path.read_bytes()).decode()
    loading = ' loading="lazy"' if lazy else ""
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{_e(alt)}" width="{width}" height="{height}"{loading}>'
        f"<figcaption>{_e(alt)}</figcaption></figure>"
    )


def _pictures(name: str, figures: dict[str, Path]) -> tuple[str, str]:
    heading, sentence, names = PICTURES[name]
    present = [n for n in names if n in figures]
    if name == "task":
        present = present[:1]  # of the fully trained network where there is one, else of notebook 00's
    found = "".join(_figure(figures[n]) for n in present)
    return heading, f"<p>{_e(sentence)}</p>{found}" if found else ""


def _scores(results: dict, figures: dict[str, Path]) -> str:
    parts = [
        "<p>mIoU in percent: intersections and unions are summed per class over all episodes of a fold, divided, "
        "and averaged over its classes. A mean stands only where all four folds were run.</p>"
    ]
    for shots in results["shots"]:
        parts.append(f"<h3>{shots}-shot</h3>" + _table(results, shots))
        parts += [_figure(figures["07-folds"])] if shots == 1 and "07-folds" in figures else []
    parts += [_figure(figures["07-shots"])] if "07-shots" in figures else []
    return "".join(parts)


def _table(results: dict, shots: int) -> str:
    from ..look.figures import METHODS

    keys = [key for key in METHODS if find_row(results, key, shots)]
    keys += sorted({r["key"] for r in results["rows"] if r["shots"] == shots} - set(METHODS))
    folds = results["folds"]
    head = "".join(f"<th scope=col>fold {f}</th>" for f in folds)
    lines = [
        f"<thead><tr><th scope=col>method</th>{head}<th scope=col>mean</th><th scope=col>best epoch</th>"
        "<th scope=col>chosen threshold</th><th scope=col>FB-IoU</th><th scope=col>agrees with mask</th></tr></thead>"
    ]
    for key in keys:
        row = find_row(results, key, shots)
        if row is None:
            continue
        best = find_row(results, key, shots, epoch="best by test classes") if row["epoch"] == "last" else None
        chosen = find_row(results, key, shots, threshold_from="base classes")
        spread = f" ± {row['half_width_95']:.1f}" if row["half_width_95"] is not None else ""
        cells = "".join(f"<td>{_score(row['folds'].get(str(f)))}</td>" for f in folds)
        swatch = f'<span class="swatch" style="background:{method_colour(key)}"></span>'
        kind = ' class="main"' if key == results["main_row"] else ""
        agreement = row["agreement_with_mask"] if key != MASK else None
        lines.append(
            f"<tr{kind}><td>{swatch}{_e(method_name(key))}</td>{cells}<td class=mean>{_score(row['miou'])}{spread}</td>"
            f"<td>{_score(best['miou'] if best else None)}</td><td>{_score(chosen['miou'] if chosen else None)}</td>"
            f"<td>{_score(row['fb_iou'])}</td><td>{_score(agreement)}</td></tr>"
        )
    return (
        f'<div class="scroll"><table>{"".join(lines)}</table></div><p class="note">Last epoch at probability '
        f"{results['threshold']}. “best epoch” is chosen on the test classes, as is usual in this field, and is too "
        "good by the difference; “chosen threshold” is chosen on base classes. The best training-free fusion is "
        "the best of three on each fold; the one against the base background has seen images of base classes, and "
        "trains nothing either. “agrees with mask”: IoU of prediction and pseudo mask, 100 is a copy.</p>"
    )


def _supervision(results: dict) -> str:
    real = results["dataset"] != "mini"
    clip = (
        "image-text pairs (OpenAI)"
        if real and results["clip"] != "mini"
        else "image-level captions of generated pictures"
    )
    masks = (
        ("class names of each image (image-level labels)", "no drawn masks")
        if results["masks_by"]
        else ("not recorded: surrogate masks that were made elsewhere", "not known")
    )
    used = [
        (
            "backbone",
            "ImageNet class labels"
            if results["backbone_weights"] == "imagenet"
            else f"{results['backbone_weights']} weights",
            "none seen",
        ),
        ("CLIP", clip, "none seen"),
        ("pseudo masks", *masks),
        ("training targets, rows “pixel”", "ground-truth masks of base classes", "drawn masks of base classes"),
        ("training targets, rows “image”", "pseudo masks", masks[1]),
        ("novel classes", "class name of query and support", "drawn masks for scoring only"),
    ]
    rows = "".join(
        f'<tr><td>{_e(what)}</td><td class="text">{_e(told)}</td><td class="text">{_e(masks)}</td></tr>'
        for what, told, masks in used
    )
    counted = results["parameters"]
    return (
        f'<div class="scroll"><table><thead><tr><th scope=col>part</th><th scope=col>learned from</th>'
        f"<th scope=col>masks</th></tr></thead>{rows}</table></div><p>The main row has "
        f"{counted['total']:,} parameters outside the backbone; {counted['learnable']:,} may learn, and a gradient "
        f"reaches {counted['receiving_gradient']:,}.</p>"
    )


def _paper(results: dict, figures: dict[str, Path]) -> str:
    reasons = paper.not_comparable(results)
    picture = _figure(figures["10-paper"]) if "10-paper" in figures else ""
    if reasons:
        listed = "".join(f"<li>{_e(reason)}</li>" for reason in reasons)
        return (
            f"<p><strong>This run is not comparable with the paper’s tables</strong>, and no figure above should be "
            f"put beside them:</p><ul>{listed}</ul>{picture}<p class=note>{_e(paper.SOURCE)}</p>"
        )
    listed = "".join(f"<li>{_e(caveat)}</li>" for caveat in paper.caveats(results))
    return (
        f"<p>This run follows the protocol of {_e(paper.TABLES[results['dataset']])}. Still to be kept in mind:</p>"
        f"<ul>{listed}</ul>{picture}<p class=note>{_e(paper.SOURCE)}</p>"
    )


def _environment(results: dict) -> str:
    rows = [
        ("device", results["device"]),
        ("commit", results["commit"]),
        *sorted(results["versions"].items()),
        ("training", f"{results['seconds']['training']:.0f} s, summed over all networks"),
        ("digest of the figures", results["figures_sha256"][:16]),
    ]
    cells = "".join(f'<tr><td>{_e(name)}</td><td class="text">{_e(value)}</td></tr>' for name, value in rows)
    return (
        f'<div class="scroll"><table>{cells}</table></div><p>Again, on the same machine with the same digest: '
        f"<code>tlg run {_e(results['preset'])}</code></p>"
    )
