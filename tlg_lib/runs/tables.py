"""What a sweep found: every figure in long form, means with intervals over seeds, paired comparisons, plots.

All of it follows from the cells' files alone, in a fixed order and without clocks, so an interrupted and
resumed sweep writes the same bytes as an undisturbed one.
"""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
import pandas as pd

from ..episodes import load_episodes
from ..errors import TLGError
from ..machine.paths import atomic, read_sealed
from ..machine.terminal import shown, signed
from .jobs import read_status
from .records import FOLDS, mean_interval, remarks_of, seed_means
from .spec import Spec
from .statistics import Comparison, paired_bootstrap

LONG = tuple(
    "method preset dataset backbone variant supervision query_mask steps fold seed shots control epoch threshold "
    "threshold_from metric class value remarks".split()
)
KEY = LONG[:-2]
GROUP = ("method", "shots", "control", "epoch", "threshold_from", "metric")
SUMMARY = (*GROUP, "folds", "seeds", "mean", "low", "high", "count", "remarks")
COMPARED = tuple("a b shots folds seeds miou_a miou_b difference low high p_value episodes units".split())
RECORD = ("fold", "seed", "shots", "control", "epoch", "threshold", "threshold_from")  # taken over as they are
RESAMPLES = 5000


def collect(spec: Spec, folder: Path) -> list[dict]:
    """Long-form rows (keys LONG) of all finished cells, training-free rows once per fold and seed.

    Raises TLGError, code 3, naming a finished cell whose scores are missing or unreadable.
    """
    rows: dict[tuple, dict] = {}
    for cell in spec.cells:
        path = folder / cell.name
        if read_status(path)["state"] != "done":
            continue
        config = cell.config
        for record in _records(path):
            free = record["epoch"] == "no training"
            common = {
                "method": record["label"] if free else cell.setting,
                "preset": config.preset,
                "dataset": config.dataset,
                "backbone": config.backbone,
                "variant": "" if free else config.variant,
                "supervision": "" if free else config.supervision,
                "query_mask": "" if free else config.query_mask,
                "steps": 0 if free else config.steps,
                **{k: record[k] for k in RECORD},
            }
            figures = [("miou", "", record["miou"]), ("fb_iou", "", record["fb_iou"])]
            figures += [("iou", name, value) for name, value in sorted(record["per_class"].items())]
            optional = ("agreement", "miou_one", "miou_several")
            figures += [(name, "", record[name]) for name in optional if record.get(name) is not None]
            for metric, name, value in figures:
                row = {**common, "metric": metric, "class": name, "value": round(float(value), 6)}
                rows[tuple(str(row[k]) for k in KEY)] = {**row, "remarks": record.get("remarks", "")}
    order = {method: i for i, method in enumerate(spec.settings)}
    return sorted(
        rows.values(),
        key=lambda r: (
            order.get(r["method"], len(order)),
            *((str(r[k]) if isinstance(r[k], str) else f"{r[k]:012.4f}") for k in KEY),
        ),
    )


def _records(cell: Path) -> list[dict]:
    """All score records below a cell (study.py writes records.json), in a fixed order."""
    found: list[dict] = []
    for path in sorted(cell.rglob("records.json")):
        try:
            records = read_sealed(path)["records"]
            for record in records:
                float(record["miou"]), float(record["fb_iou"]), dict(record["per_class"]), record["label"]
                [record[k] for k in RECORD]
            found += records
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TLGError(
                f"{path} is no list of scores ({type(error).__name__}: {error}): delete the folder "
                f"{cell} and run the sweep again",
                code=3,
            ) from None
    if not found:
        raise TLGError(f"{cell} is marked done and holds no scores: delete the folder and run the sweep again", code=3)
    return found


def summarise(rows: list[dict]) -> list[dict]:
    """Mean and 95% Student t interval over seeds: per fold, and over folds where a seed has all four.

    ``folds`` names what the mean is over: one fold, or "0,1,2,3"; there is no mean over fewer.
    """
    frame = pd.DataFrame([row for row in rows if row["metric"] in ("miou", "fb_iou")], columns=list(LONG))
    table = []
    for group, part in frame.groupby(list(GROUP), sort=False):
        for folds in [(f,) for f in FOLDS] + [FOLDS]:
            values = seed_means(part, "value", folds)
            if len(values):
                interval = mean_interval(values)
                low, high = ("" if math.isnan(v) else round(v, 4) for v in (interval.low, interval.high))
                texts = [",".join(map(str, numbers)) for numbers in (folds, values.index)]
                said = "; ".join(remarks_of(part[part.fold.isin(folds)]))
                line = (*group, *texts, round(interval.mean, 4), low, high, interval.count, said)
                table.append(dict(zip(SUMMARY, line)))
    return table


def compare(spec: Spec, folder: Path) -> list[dict]:
    """The spec's pairs of settings on the same episodes, per fold and, where all four are there, over folds.

    Last epoch, fixed threshold. Seeds that both settings have are pooled; episodes of one query image are
    drawn together, as a list repeats its queries.
    """
    done = [c for c in spec.cells if read_status(folder / c.name)["state"] == "done"]
    table = []
    for a, b in spec.compare:
        for shots in sorted({s for c in done if c.setting in (a, b) for s in _shots(folder / c.name)}):
            sides = [
                {
                    (c.config.fold, c.config.seed): folder / c.name
                    for c in done
                    if c.setting == name and shots in _shots(folder / c.name)
                }
                for name in (a, b)
            ]
            both = sorted(set(sides[0]) & set(sides[1]))
            for folds in [(f,) for f in FOLDS] + [FOLDS]:
                chosen = [key for key in both if key[0] in folds]
                seeds = sorted({seed for _, seed in chosen})
                if len(folds) > 1:
                    seeds = [s for s in seeds if all((f, s) in both for f in folds)]
                chosen = [key for key in chosen if key[1] in seeds]
                if not chosen:
                    continue
                result = _compare_cells([(sides[0][k], sides[1][k], k[0]) for k in chosen], shots)
                names = (a, b, shots, *(",".join(map(str, numbers)) for numbers in (folds, seeds)))
                scores = (result.score_a, result.score_b, result.difference, result.low, result.high)
                counts = (round(result.p_value, 6), result.episodes, result.units)
                table.append(dict(zip(COMPARED, (*names, *(round(v, 4) for v in scores), *counts))))
    return table


def _shots(cell: Path) -> list[int]:
    found = (p.stem.split("-")[1].removesuffix("shot") for p in cell.glob("training/counts-*shot.npz"))
    return sorted(int(text) for text in found if text.isdigit())


def _compare_cells(pairs: list[tuple[Path, Path, int]], shots: int) -> Comparison:
    from ..evaluate import Counts

    columns: list[list] = [[], [], [], [], [], []]
    for first, second, fold in pairs:
        counts = [Counts.load(path / "training" / f"counts-{shots}shot.npz") for path in (first, second)]
        episodes = [load_episodes(path / f"episodes-{shots}shot.json") for path in (first, second)]
        if episodes[0] != episodes[1] or _data(first) != _data(second):
            raise TLGError(
                f"{first.name} and {second.name} were scored on different episodes or data ({shots}-shot): a "
                "paired comparison needs the same data, shots, seed and eval_episodes",
                code=3,
            )
        for column, values in zip(
            columns,
            (
                counts[0].intersection[0, :, 1],
                counts[0].union[0, :, 1],
                counts[1].intersection[0, :, 1],
                counts[1].union[0, :, 1],
                counts[0].class_ids,
                [f"{fold}/{e.query}" for e in episodes[0]],
            ),
        ):
            column.append(np.asarray(values))
    joined = [np.concatenate(column) for column in columns]
    return paired_bootstrap(*joined[:5], groups=joined[5], resamples=RESAMPLES)


def _data(cell: Path) -> str:
    """What the data of a cell's scores were."""
    try:
        return str(read_sealed(cell / "training" / "records.json")["stamp"]["data"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TLGError(f"{cell} does not say on which data it was scored ({error}): run the sweep again", 3) from None


def write_results(spec: Spec, folder: Path) -> list[Path]:
    """Write results.csv, summary.csv, comparisons.csv and figures of what is done; returns the files."""
    rows = collect(spec, folder)
    if not rows:
        return []
    summary, compared = summarise(rows), compare(spec, folder)
    files = [write_csv(folder / "results.csv", LONG, rows), write_csv(folder / "summary.csv", SUMMARY, summary)]
    if spec.compare:
        files.append(write_csv(folder / "comparisons.csv", COMPARED, compared))
    return files + _draw(spec, folder, rows, summary, compared)


def write_csv(path: Path, columns: tuple[str, ...], rows: list[dict]) -> Path:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _inert(v) for k, v in row.items()} for row in rows)
    with atomic(path, "w") as file:
        file.write(text.getvalue())
    return path


def read_tables(folder: str | Path) -> dict:
    """The tables of a sweep's folder as pandas frames by name: results, summary and, where made, comparisons.

    For notebooks. Raises TLGError, code 3, when the sweep has written none yet.
    """
    folder = Path(folder)
    names = [name for name in ("results", "summary", "comparisons") if (folder / f"{name}.csv").is_file()]
    if not names:
        raise TLGError(f"no tables in {folder}: write them with `tlg sweep SPEC --status`", code=3)
    text = {"folds": str, "seeds": str, "control": str, "class": str}
    return {
        name: pd.read_csv(folder / f"{name}.csv", dtype=text, keep_default_na=False, na_values={"low": "", "high": ""})
        for name in names
    }


def gather_sweeps(folder: str | Path):
    """One line per sweep in ``folder`` or its sweeps/, method, shots and fold (or all four): a pandas frame.

    For notebooks. Columns: sweep, method, shots, folds, seeds, mean, low, high (95% interval over seeds, NaN with
    one); mIoU of the last epoch at the fixed threshold. Empty where no sweep has written its tables yet.
    """
    frames = []
    folder = Path(folder)
    for path in sorted([*folder.glob("*/sweep.json"), *folder.glob("sweeps/*/sweep.json")]):
        if (path.parent / "summary.csv").is_file():
            summary = read_tables(path.parent)["summary"]
            lines = summary[[_is_main(row) for row in summary.to_dict("records")]]
            frames.append(lines.assign(sweep=path.parent.name))
    columns = ["sweep", "method", "shots", "folds", "seeds", "mean", "low", "high"]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def _is_main(row: dict) -> bool:
    """Whether a line of the summary is a main figure: mIoU, last epoch, fixed threshold, no control."""
    return (
        row["metric"] == "miou"
        and row["threshold_from"] == "fixed"
        and not row["control"]
        and row["epoch"] in ("last", "no training")
    )


def _inert(value):
    """Text that a spreadsheet would take for a formula gets a leading apostrophe."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t") else value


def _draw(spec: Spec, folder: Path, rows: list[dict], summary: list[dict], compared: list[dict]) -> list[Path]:
    from ..look.figures import save_figure, score_dots

    files = []
    main = [s for s in summary if _is_main(s)]
    for shots in sorted({s["shots"] for s in main}):
        chosen = [s for s in main if s["shots"] == shots]
        table: dict[str, dict[int, float]] = {}
        for line in chosen:
            if line["folds"] in map(str, FOLDS):
                table.setdefault(line["method"], {})[int(line["folds"])] = line["mean"]
        errors = {s["method"]: (s["high"] - s["low"]) / 2 for s in chosen if s["folds"] == "0,1,2,3" and s["count"] > 1}
        title = f"{spec.name}: {shots}-shot mIoU, last epoch"
        alt = "; ".join(f"{m}: " + ", ".join(f"fold {f} {v:.1f}" for f, v in t.items()) for m, t in table.items())
        files.append(save_figure(score_dots(table, title, errors=errors), folder / f"scores-{shots}shot.png", alt))
    if compared:
        alt = "; ".join(
            f"{c['a']} minus {c['b']}, fold {c['folds']}: {signed(c['difference'])} "
            f"({signed(c['low'])} to {signed(c['high'])})"
            for c in compared
        )
        files.append(
            save_figure(difference_plot(compared, f"{spec.name}: paired differences"), folder / "comparisons.png", alt)
        )
    return files


def difference_plot(compared: list[dict], title: str):
    """One line per comparison (rows of ``compare``): difference in mIoU with its 95% interval, and zero."""
    from matplotlib.figure import Figure

    from ..look.figures import BLUE, GREY, INK, styled

    @styled
    def draw():
        figure = Figure(figsize=(9.2, 0.36 * len(compared) + 1.2), layout="constrained")
        axes = figure.subplots()
        for line, row in enumerate(reversed(compared)):
            whole = "," in row["folds"]
            axes.plot([row["low"], row["high"]], [line, line], color=BLUE if whole else GREY, lw=4 if whole else 2)
            axes.plot(row["difference"], line, "o", color=INK)
        axes.axvline(0, color=INK, lw=1)
        axes.set_yticks(
            range(len(compared)),
            [
                f"{c['a']} - {c['b']}, {c['shots']}-shot, "
                + ("all folds" if "," in c["folds"] else f"fold {c['folds']}")
                for c in reversed(compared)
            ],
        )
        axes.set_xlabel("difference in mIoU, percentage points (95% interval, bootstrap over episodes)")
        axes.set_title(title)
        return figure

    return draw()


def summary_table(summary: list[dict]):
    """A rich table of the main figures: mIoU of the last epoch at the fixed threshold."""
    import rich.table

    table = rich.table.Table(
        title="mIoU, last epoch, threshold fixed (mean over folds only where all four are there)", title_justify="left"
    )
    for column in ("method", "shots", "folds", "seeds", "mIoU", "95% interval over seeds"):
        table.add_column(column)
    for row in summary:
        if _is_main(row):
            interval = f"{row['low']:.2f} .. {row['high']:.2f}" if row["count"] > 1 else "one seed"
            score = f"{row['mean']:.2f}{'*' if row['remarks'] else ''}"
            table.add_row(shown(row["method"]), str(row["shots"]), row["folds"], row["seeds"], score, interval)
    said = [f"* {shown(row['method'])}, {row['remarks']}" for row in summary if _is_main(row) and row["remarks"]]
    table.caption = "\n".join(dict.fromkeys(said)) or None
    return table
