"""From the records of a study to tables and to results.json, the machine-readable result of a run.

A record is one scored setting (study.py). Figures that depend on data, settings and seed alone are kept apart
from times and machine, and a digest over them shows at a glance whether two runs agree bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from ..errors import TLGError
from ..machine.paths import read_json, sealed, write_sealed
from .records import (
    FUSION,
    MASK,
    PROTOTYPE,
    half_width,
    mean_over_folds,
    per_class,
    records_frame,
    remarks_of,
    score_of,
)

SCHEMA = 1
TIMES = (
    "seconds",
    "device",
    "versions",
    "commit",
    "figures_sha256",
    "sha256",
)  # keys that may differ between equal runs

TRAINED = ("rival-pixel", "hsnet-pixel", "corrected-pixel", "released-pixel")  # trained rows among the baselines

# Settings that results.json tells.
OF_CONFIG = "preset dataset backbone backbone_weights clip steps batch threshold variant supervision".split()
OF_CONFIG += ["test_draw", "novel_rows"]


def training_histories(run, trained: list[dict]) -> dict[str, dict]:
    """What figures.training_curves draws: losses averaged over 10 steps, and the score after each epoch.

    trained: summaries in the order of Run.train, the run's rows turning fastest. One line per row and fold of
    the first seed.
    """
    cells = [(row, fold, seed) for seed in run.seeds for fold in run.folds for row in run.rows]
    found = {}
    for (row, fold, seed), summary in zip(cells, trained, strict=True):
        losses = summary["losses"]
        if seed != run.seeds[0] or not losses:
            continue
        width = max(1, min(10, len(losses) // 4))
        means = [sum(losses[i : i + width]) / len(losses[i : i + width]) for i in range(0, len(losses), width)]
        found[f"{row.name} fold {fold}"] = {
            "step": [min(i + width, len(losses)) for i in range(0, len(losses), width)],
            "loss": means,
            "score_step": [epoch["step"] for epoch in summary["history"]],
            "miou": [epoch["test"] for epoch in summary["history"]],
        }
    return found


def gather(folder: str | Path) -> pd.DataFrame:
    """One line per run below ``folder`` (any depth) that left a results.json of this version."""
    lines = []
    for path in sorted(Path(folder).glob("**/results.json")):
        try:
            r = load_results(path)
        except TLGError:
            continue  # another program's file, or an older version's: not ours to judge
        lines.append(
            {
                "run": path.parent.name,
                "preset": r["preset"],
                "main row": r["main_row"],
                "folds": ",".join(map(str, r["folds"])),
                "seeds": ",".join(map(str, r["seeds"])),
                "episodes": r["episodes"],
                "mIoU": r["miou"],
                "best epoch": r["best_epoch"]["miou"],
                "commit": r["commit"],
                "digest": r["figures_sha256"][:8],
            }
        )
    columns = "run preset folds seeds episodes mIoU commit digest".split() if not lines else None
    return pd.DataFrame(lines, columns=columns).set_index("run").round({"mIoU": 1, "best epoch": 1})


def collect(run, records: list[dict], trained: list[dict], parameters: dict[str, int]) -> dict:
    """The results.json of a run: written into the run folder and returned.

    records, trained: what Study.evaluate and Study.train returned; parameters: total, learnable and
    receiving_gradient of the main row. The main row is the first of the run.
    """
    from ..data.mini.make import is_locked
    from ..machine.device import environment
    from ..masks.generate import made_by

    frame = records_frame(records)
    config, main = run.config, run.rows[0].name
    experiment = run.inputs.open(config)
    both = experiment.both_splits
    stamp = environment()
    last, rows = score_of(frame, main), _rows(frame)
    of_last = [r["remarks"] for r in rows if (r["key"], r["shots"], r["epoch"]) == (main, 1, "last")]
    chosen_on = "test classes, as is usual in this field: too good by the difference"
    results = {
        "schema": SCHEMA,
        **{name: getattr(config, name) for name in OF_CONFIG},
        **{name: list(getattr(run, name)) for name in ("folds", "seeds", "shots")},
        "image_size": list(config.image_size),
        "episodes": config.eval_episodes,
        "test_rows": min(len(experiment.data.test_rows(f, both(config.replace(fold=f)))) for f in run.folds),
        "main_row": main,
        "miou": last,
        "remarks": of_last[0] if of_last else [],
        "fb_iou": score_of(frame, main, score="fb_iou"),
        "per_class": per_class(frame, main),
        "last_epoch": {"miou": last},
        "best_epoch": {"miou": score_of(frame, main, epoch="best by test classes"), "chosen_on": chosen_on},
        "baselines": {
            key: {f"{k}_shot": score_of(frame, key, shots=k) for k in run.shots}
            for key in (MASK, PROTOTYPE, FUSION, "base-fusion", *TRAINED)
        },
        "rows": rows,
        "parameters": parameters,
        "training": [_training(summary) for summary in trained],
        "smoke": run.smoke,
        "locked": config.dataset == "mini" and is_locked(experiment.data.root),
    }
    results["figures_sha256"] = hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()
    results["masks_by"] = made_by(experiment.data.masks)
    results["seconds"] = {"training": round(sum(s["seconds"] for s in trained), 1)}
    results["device"] = f"{stamp.pop('device')}, {stamp.pop('cores')} cores"
    stamp.pop("commit")
    results["commit"] = ", ".join(sorted({summary["commit"] for summary in trained}))  # of the code that trained
    results["versions"] = stamp
    write_sealed(run.folder / "results.json", results)
    return sealed(results)


def _rows(frame: pd.DataFrame) -> list[dict]:
    """One entry per method, shots, epoch and way of choosing the threshold; folds as means over seeds."""
    found = []
    by = ["key", "shots", "epoch", "threshold_from"]
    for (key, shots, epoch, threshold_from), group in frame.groupby(by, sort=False):
        folds = group.groupby("fold").miou.mean()
        first = group.iloc[0]
        found.append(
            {
                "key": key,
                **{name: first[name] for name in ("label", "variant", "supervision", "query_mask", "control")},
                **({"label": "best training-free fusion"} if key == FUSION else {}),
                "shots": int(shots),
                "epoch": epoch,
                "threshold_from": threshold_from,
                "seeds": sorted(int(s) for s in set(group.seed)),
                "folds": {str(f): float(v) for f, v in folds.items()},
                "miou": _known(mean_over_folds(folds)),
                "fb_iou": _known(mean_over_folds(group.groupby("fold").fb_iou.mean())),
                **_divided(group),
                "half_width_95": _known(half_width(group)),
                "agreement_with_mask": _known(group.agreement.astype(float).mean()),
                "remarks": remarks_of(group),
            }
        )
    return found


def _divided(group: pd.DataFrame) -> dict:
    """Queries of one class and of several: mIoU as a mean over the folds (None where one has none), distinct rows."""
    found: dict[str, Any] = {}
    for part in ("one", "several"):
        scores = group.assign(value=group[f"miou_{part}"].astype(float)).groupby("fold").value.mean()
        found[f"miou_{part}"] = _known(mean_over_folds(scores))
        found[f"rows_{part}"] = int(group.groupby("fold")[f"rows_{part}"].first().sum())
    return found


def _known(value: float) -> float | None:
    """For JSON, which has no NaN."""
    return None if math.isnan(value) else float(value)


def _training(summary: dict) -> dict:
    """What is worth keeping of one training: no times."""
    config = summary["config"]
    of_config = {name: config[name] for name in ("variant", "supervision", "query_mask", "fold", "seed")}
    return {**of_config, "steps": summary["step"], "history": summary["history"], "best": summary["best"]}


def load_results(path: str | Path) -> dict:
    """A results.json of this schema; raises TLGError naming the file and what is wrong with it."""
    path = Path(path)
    try:
        results = read_json(path)
    except (OSError, ValueError) as error:
        raise TLGError(
            f"cannot read {path} ({error}): make it again with `tlg run`, it keeps what is finished", code=3
        ) from None
    if not isinstance(results, dict) or results.get("schema") != SCHEMA:
        raise TLGError(f"{path} is not a results.json of this version (schema {SCHEMA})", code=3)
    if sealed(results) != results:
        raise TLGError(f"{path} was changed after it was written (checksum): make it again with `tlg run`", code=3)
    try:
        _RESULTS.model_validate(results)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]["loc"][0]
        raise TLGError(
            f"{path}: '{wrong}' is missing or of another kind: make the file again with `tlg run`", code=3
        ) from None
    return results


def _form(*kinds: tuple[str, Any], **later: Any) -> type[BaseModel]:
    """A model with the named fields of each kind, taken strictly: no text for a number, no bool for an int.

    later: fields that files of earlier versions lack.
    """
    fields = {name: (kind, ...) for names, kind in kinds for name in names.split()}
    fields |= {name: (kind, [] if kind == list[str] else None) for name, kind in later.items()}
    return create_model("Form", __config__=ConfigDict(strict=True), **fields)


_NUMBER = Annotated[float, Field(gt=-1e15, lt=1e15)]
_ROW = _form(
    ("key label variant supervision query_mask control epoch threshold_from", str),
    ("miou fb_iou half_width_95 agreement_with_mask", _NUMBER | None),
    ("shots", _NUMBER),
    ("folds", dict[str, _NUMBER]),
    remarks=list[str],
    **dict.fromkeys(("miou_one", "miou_several", "rows_one", "rows_several"), _NUMBER | None),
)
# What a file must hold to be shown: it may be anybody's.
_RESULTS = _form(
    ("preset dataset backbone backbone_weights clip main_row variant supervision device commit", str),
    ("figures_sha256 masks_by", str),
    ("episodes steps batch threshold test_rows", _NUMBER),
    ("folds seeds shots image_size", list[Annotated[int, Field(gt=-1e15, lt=1e15)]]),
    ("rows", list[_ROW]),
    ("miou", _NUMBER | None),
    ("best_epoch", _form(("miou", _NUMBER | None))),
    ("parameters", _form(("total learnable receiving_gradient", _NUMBER))),
    ("seconds", _form(("training", _NUMBER))),
    ("versions", dict),
    ("smoke", bool),
    locked=bool | None,
)
