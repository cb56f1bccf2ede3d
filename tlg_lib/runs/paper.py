"""The published figures (Tables I and II of the paper) and the question whether a run may stand beside them.

The numbers are in paper_tables.json, with their source. A run compares with the tables only when it follows
their protocol in full; otherwise ``not_comparable`` says plainly what differs.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

SOURCE = "TLG, Ma, Xie, Zhao, Li; arXiv 2508.16159; IEEE TIP 35:7293-7306, 2026, Tables I and II"
TABLES = {"pascal": "Table I (Pascal-5i)", "coco": "Table II (COCO-20i)"}
PROTOCOL = {  # how the authors draw test queries, and whether training images may also show a hidden class
    "pascal": {"test_draw": "rows", "novel_rows": "keep"},
    "coco": {"test_draw": "classes", "novel_rows": "keep"},
}
EPISODES = {"pascal": 1000, "coco": 5000}
FULL_LISTS = {"pascal": 340, "coco": 5000}  # the shortest full test list of a fold has at least so many rows


@lru_cache
def _everything() -> dict:
    return json.loads(Path(__file__).with_name("paper_tables.json").read_text(encoding="utf-8"))


def published(dataset: str, backbone: str) -> dict[str, dict]:
    """method -> {"labels": "P" or "I", "1": [folds 0..3, mean], "5": the same or absent}, mIoU in percent.

    Empty when the paper has no such table.
    """
    return _everything().get(dataset, {}).get(backbone, {})


def module_table() -> dict:
    """The authors' own table of HA, HT and HC on Pascal-5i, ResNet-50, 1-shot, with its source."""
    return _everything()["modules_pascal_resnet50_1shot"]


def not_comparable(results: dict) -> list[str]:
    """Reasons why a run (results.json) may not stand beside the tables; empty when it may."""
    reasons = []
    dataset, backbone = results.get("dataset", ""), results.get("backbone", "")
    if dataset not in TABLES:
        return [f"the data are '{dataset}', and the paper reports Pascal-5i and COCO-20i"]
    if not published(dataset, backbone):
        reasons.append(f"the backbone is {backbone}, and the paper's are ResNet-50 and VGG-16")
    if results.get("backbone_weights") == "random":
        reasons.append("the backbone has random weights")
    if list(results.get("image_size", [])) != [400, 400]:
        reasons.append("images are " + "x".join(map(str, results.get("image_size", []))) + ", not 400x400")
    if results.get("episodes") != EPISODES[dataset]:
        reasons.append(f"{results.get('episodes')} test episodes per fold, not {EPISODES[dataset]}")
    if sorted(results.get("folds", [])) != [0, 1, 2, 3]:
        reasons.append(f"folds {results.get('folds')} of four, so there is no mean")
    wanted = PROTOCOL[dataset]
    for name, value in wanted.items():
        if results.get(name) != value:
            reasons.append(f"{name} is '{results.get(name, 'unknown')}', and the authors' protocol is '{value}'")
    if results.get("test_rows", 0) < FULL_LISTS[dataset]:
        reasons.append(f"the shortest test list has {results.get('test_rows', 0)} rows: a part of the dataset")
    return reasons


def caveats(results: dict) -> list[str]:
    """What differs from the paper even in a comparable run, to be said beside the figures."""
    masks = f"the CLIP-ES recipe on {results['masks_by']}" if results["masks_by"] else "unknown means, elsewhere"
    found = [
        "the paper's row is the best epoch, chosen on the test classes; compare with the best epoch here",
        f"the authors' masks are unpublished; these were made by {masks}",
    ]
    if results.get("supervision") == "pixel":
        found.append(
            "training targets are pixel labels of base classes, as in the authors' release, which the paper's "
            "table lists under image labels"
        )
    return found
