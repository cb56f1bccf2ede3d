"""Tables, results.json and report.html: means only of four folds, intervals, escaping, self-containedness."""

import base64
import html.parser
import io
import math

import numpy as np
import pytest
from PIL import Image

from tlg_lib.errors import TLGError
from tlg_lib.look.figures import contact_sheet, save_figure
from tlg_lib.machine.paths import write_sealed
from tlg_lib.runs import paper
from tlg_lib.runs.records import as_scores, fold_table, half_widths, per_class, records_frame
from tlg_lib.runs.report import find_row, verdict, write_report
from tlg_lib.runs.results import _rows, gather, load_results

FUSIONS = ("mask + support prototype", "mask + self prototype", "mask + both prototypes")


def record(row, fold, miou, seed=0, shots=1, control="", epoch="last", threshold_from="fixed", names=("cat", "dog")):
    return {
        "row": row,
        "label": row,
        "fold": fold,
        "seed": seed,
        "shots": shots,
        "variant": "corrected",
        "supervision": "pixel",
        "query_mask": "pseudo",
        "control": control,
        "epoch": epoch,
        "threshold": 0.5,
        "threshold_from": threshold_from,
        "agreement": 50.0 if threshold_from == "fixed" else None,
        "miou": miou,
        "miou_one": miou + 4,
        "miou_several": None if fold == 3 else miou - 2,
        "rows_one": 30,
        "rows_several": 0 if fold == 3 else 70,
        "fb_iou": miou + 10,
        "per_class": {f"{n}{fold}": miou + i for i, n in enumerate(names)},
        "episodes": 1000,
    }


def records(folds=range(4), seeds=(0,)):
    found = []
    for seed in seeds:
        for fold in folds:
            found.append(record("extended-pixel", fold, 50.0 + fold + seed, seed))
            found.append(record("extended-pixel", fold, 53.0 + fold + seed, seed, epoch="best by test classes"))
            found.append(record("extended-pixel", fold, 20.0, seed, control="wrong support"))
            found.append(record("query pseudo mask", fold, 40.0 - fold, seed, epoch="no training"))
            for i, name in enumerate(FUSIONS):
                found.append(record(name, fold, 30.0 + (i == fold % 3) * 5, seed, epoch="no training"))
    return found


def test_mean_only_of_all_four_folds():
    whole = fold_table(records_frame(records()))
    assert whole.loc["extended-pixel", "mean"] == pytest.approx(51.5)
    part = fold_table(records_frame(records(folds=(0, 1, 3))))
    assert part["mean"].isna().all() and as_scores(part, mean=True) == {}
    assert as_scores(part)["extended-pixel"] == {0: 50.0, 1: 51.0, 3: 53.0}


def test_one_method_lacking_a_fold_has_no_mean_while_the_others_have():
    some = [r for r in records() if not (r["row"] == "query pseudo mask" and r["fold"] == 2)]
    table = fold_table(records_frame(some))
    assert math.isnan(table.loc["mask", "mean"]) and table.loc["extended-pixel", "mean"] == pytest.approx(51.5)


def test_fusion_is_the_best_of_three_on_each_fold_and_control_is_its_own_row():
    table = fold_table(records_frame(records()))
    assert list(table.loc["fusion", [0, 1, 2, 3]]) == [35.0] * 4
    assert list(table.loc["wrong-support", [0, 1, 2, 3]]) == [20.0] * 4
    best = fold_table(records_frame(records()), epoch="best by test classes")
    assert best.loc["extended-pixel", "mean"] == pytest.approx(54.5)


def test_interval_over_seeds_is_students_t():
    table = fold_table(records_frame(records(seeds=(0, 1, 2))))
    # Seed means 51.5, 52.5, 53.5: standard deviation 1, t(0.975, 2) = 4.302653 from a printed table.
    assert half_widths(table)["extended-pixel"] == pytest.approx(4.302653 / math.sqrt(3), rel=1e-5)
    assert half_widths(fold_table(records_frame(records()))) == {}


def test_what_a_score_must_say_stands_in_the_results_beside_it_and_in_the_report(tmp_path):
    odd = records()
    for entry in odd:
        if entry["row"] == "extended-pixel" and not entry["control"] and entry["epoch"] == "last":
            entry["remarks"] = "2 of 5 classes" if entry["fold"] == 1 else "predicts background everywhere; a <b>"
        else:
            entry["remarks"] = ""
    frame = records_frame(odd)
    said = ["fold 1: 2 of 5 classes", "folds 0, 2, 3: a <b>", "folds 0, 2, 3: predicts background everywhere"]
    rows = _rows(frame)
    assert {r["key"]: r["remarks"] for r in rows if r["epoch"] == "last"} == {
        "extended-pixel": said,
        "wrong-support": [],
    }
    write_sealed(tmp_path / "results.json", {**results(tmp_path), "rows": rows})
    page = write_report(tmp_path).read_text()
    assert "2 of 5 classes" in verdict(load_results(tmp_path / "results.json"))
    assert page.count("fold 1: 2 of 5 classes") == 2 and "51.5*" in page and "50.0*" in page and "a &lt;b&gt;" in page
    assert "54.5*" not in page, "the best epoch has no remark of its own"


def test_scores_stand_split_by_what_a_picture_shows(tmp_path):
    """One class and several: each a mean of the four folds, none where a fold has no such picture; rows are counted."""
    row = find_row(results(tmp_path), "extended-pixel")
    assert (row["miou_one"], row["miou_several"], row["rows_one"], row["rows_several"]) == (55.5, None, 120, 210)
    page = Page(write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "55.5" in page and "(120 rows of the lists) and those that do (210)" in page
    old = results(tmp_path)
    for line in old["rows"]:
        del line["miou_one"], line["miou_several"], line["rows_one"], line["rows_several"]
    write_sealed(tmp_path / "results.json", old)  # a file of an earlier version is shown without them
    page = Page(write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "55.5" not in page and "rows of the lists" not in page and "51.5" in page


def test_per_class_takes_each_class_from_its_fold():
    found = per_class(records_frame(records()), "extended-pixel")
    assert found == {f"{n}{f}": 50.0 + f + i for f in range(4) for i, n in enumerate(("cat", "dog"))}


def results(tmp_path, **changes):
    frame = records_frame(records())
    value = {
        "schema": 1,
        "preset": "mini",
        "dataset": "mini",
        "backbone": "efficientnet_lite0",
        "backbone_weights": "imagenet",
        "image_size": [128, 128],
        "clip": "mini",
        "folds": [0, 1, 2, 3],
        "seeds": [0],
        "shots": [1],
        "episodes": 1000,
        "steps": 200,
        "batch": 8,
        "threshold": 0.5,
        "test_rows": 120,
        "main_row": "extended-pixel",
        "variant": "corrected",
        "supervision": "pixel",
        "query_mask": "pseudo",
        "miou": 51.5,
        "fb_iou": 61.5,
        "per_class": {},
        "rows": _rows(frame),
        "last_epoch": {"miou": 51.5},
        "best_epoch": {"miou": 54.5},
        "baselines": {},
        "training": [],
        "smoke": False,
        "parameters": {"total": 1000, "learnable": 900, "receiving_gradient": 800},
        "figures_sha256": "f" * 64,
        "masks_by": "mini (sha256:0)",
        "seconds": {"training": 12.0},
        "device": "CPU, 2 cores",
        "commit": "abc",
        "versions": {"torch": "2.4"},
        **changes,
    }
    write_sealed(tmp_path / "results.json", value)
    return value


class Page(html.parser.HTMLParser):
    """Collects tags, checks that they are balanced, and lists everything that a browser would fetch or run."""

    VOID = {"meta", "img", "br", "hr", "link", "input"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.fetched, self.alts, self.text = [], [], [], [], ""
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        assert not any(name.startswith("on") for name in attributes)
        self.fetched += [
            v for k, v in attributes.items() if k in ("src", "srcset", "data") or (k == "href" and tag == "link")
        ]
        if tag == "img":
            self.alts.append(attributes["alt"])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def figure(folder, name, alt):
    save_figure(
        contact_sheet([np.zeros((8, 8, 3), np.uint8)], ["x"], columns=1), folder / "figures" / f"{name}.png", alt
    )


@pytest.mark.parametrize("nasty", ['<script>alert("1")</script>', '"><img src=x onerror=alert(1)>'])
def test_report_is_self_contained_escaped_and_complete(tmp_path, nasty):
    """Markup in names, settings and notes stays text, in attributes too: a broken-out image would be fetched."""
    results(tmp_path, commit=nasty, versions={nasty: "&<>'\""}, device=nasty)
    figure(tmp_path, "00-task", f"the task {nasty}")
    figure(tmp_path, "99-other", "one more")
    text = write_report(tmp_path).read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags and nasty in page.text and nasty not in text
    assert page.fetched and all(value.startswith("data:image/webp;base64,") for value in page.fetched)
    assert "url(" not in text and "@import" not in text
    assert page.alts == [f"the task {nasty}", "one more"]
    for words in ("51.5 mIoU", "38.5", "not comparable", "800", "pixel", "drawn masks for scoring only"):
        assert words in page.text, words
    assert 'name="viewport"' in text


def test_pictures_are_small_and_the_mean_comes_first(tmp_path):
    results(tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (1800, 2400, 3), np.uint8)
    (tmp_path / "figures").mkdir()
    Image.fromarray(noise).save(tmp_path / "figures" / "00-task.png")
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    packed = base64.b64decode(page.fetched[0].partition(",")[2])
    assert Image.open(io.BytesIO(packed)).size == (1600, 1200)
    assert len(packed) < (tmp_path / "figures" / "00-task.png").stat().st_size / 4
    head = page.text[page.text.index("method") :]
    assert head.index("mean") < head.index("fold 0") < head.index("fold 3")
    assert 0 < page.text.index("51.5") and page.text.index("51.5") < page.text.index("50.0")


def test_the_locked_drawing_is_named(tmp_path):
    for locked in (True, False):
        results(tmp_path, locked=locked)
        assert ("locked test pictures" in write_report(tmp_path).read_text(encoding="utf-8")) == locked


def test_smoke_and_random_weights_are_said(tmp_path):
    results(tmp_path, smoke=True, backbone_weights="random")
    text = Page(write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "smoke: figures mean nothing" in text and "random weights" in text


def test_masks_made_elsewhere_are_called_surrogate(tmp_path):
    results(tmp_path)
    assert "pseudo masks by CLIP mini (sha256:0)" in Page(write_report(tmp_path).read_text(encoding="utf-8")).text
    results(tmp_path, masks_by="")
    text = Page(write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "surrogate masks, made elsewhere" in text and "no drawn masks" not in text and "by CLIP" not in text
    assert text.count("not known") == 2  # of the masks, and of what learns from them


def test_verdict_gives_no_mean_for_three_folds(tmp_path):
    rows = _rows(records_frame(records(folds=(0, 1, 2))))
    assert all(row["miou"] is None for row in rows)
    assert "no mean" in verdict(results(tmp_path, rows=rows, folds=[0, 1, 2]))


def test_page_leads_with_the_threshold_that_base_classes_chose(tmp_path):
    """A network that marks little at 0.5 is not shown as one that knows nothing; what it has at 0.5 stands beside."""
    both = records() + [record("extended-pixel", fold, 70.0 + fold, threshold_from="base classes") for fold in range(4)]
    value = results(tmp_path, rows=_rows(records_frame(both)))
    assert "71.5 mIoU on classes it never saw" in verdict(value) and "cut where base classes chose" in verdict(value)
    text = Page(write_report(tmp_path).read_text(encoding="utf-8")).text
    # the mean, one class and several, folds, the best epoch, and the score at 0.5
    cells = "71.5" + "75.5–" + "70.071.072.073.0" + "–" + "51.5"
    assert f"TLG extended, pixel labels{cells}" in text


def test_find_row_by_epoch_and_threshold(tmp_path):
    value = results(tmp_path)
    assert find_row(value, "extended-pixel", epoch="best by test classes")["miou"] == pytest.approx(54.5)
    assert find_row(value, "mask", epoch="best by test classes")["epoch"] == "no training"
    assert find_row(value, "nothing") is None


def test_broken_results_are_refused_by_name(tmp_path):
    with pytest.raises(TLGError, match="results.json"):
        write_report(tmp_path)
    (tmp_path / "results.json").write_text('{"schema": 99}')
    with pytest.raises(TLGError, match="version"):
        load_results(tmp_path / "results.json")


@pytest.mark.parametrize("lost", ["best_epoch", "miou", "rows", "versions"])
def test_results_without_what_is_shown_are_refused_and_gathered_by_nobody(tmp_path, lost):
    value = {k: v for k, v in results(tmp_path).items() if k not in (lost, "sha256")}
    write_sealed(tmp_path / "results.json", value)
    with pytest.raises(TLGError, match=f"'{lost}' is missing"):
        load_results(tmp_path / "results.json")
    assert gather(tmp_path).empty


def test_a_figure_changed_by_hand_is_refused(tmp_path):
    results(tmp_path)
    path = tmp_path / "results.json"
    path.write_text(path.read_text().replace("51.5", "99.5", 1))
    with pytest.raises(TLGError, match="changed after it was written"):
        load_results(path)


def test_a_broken_picture_is_left_out_of_the_report_with_a_word(tmp_path, capsys):
    results(tmp_path)
    (tmp_path / "figures").mkdir(exist_ok=True)
    for name, content in (("07-task", b""), ("x", b"no picture"), ("y", b"\x89PNG\r\n\x1a\n" + bytes(40))):
        (tmp_path / "figures" / f"{name}.png").write_bytes(content)
    write_report(tmp_path)
    assert capsys.readouterr().out.count("is no whole picture") == 3


def test_no_runs_give_an_empty_table(tmp_path):
    assert len(gather(tmp_path)) == 0


def test_gather_lists_runs_and_skips_foreign_files(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        results(tmp_path / name)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "results.json").write_text("[]")
    table = gather(tmp_path)
    assert list(table.index) == ["a", "b"] and list(table["mIoU"]) == [51.5, 51.5]


def test_comparable_with_the_paper_only_under_its_protocol(tmp_path):
    full = results(tmp_path, dataset="pascal", backbone="resnet50", image_size=[400, 400], episodes=1000, test_rows=346,
                   test_draw="rows", novel_rows="keep")  # fmt: skip
    assert paper.not_comparable(full) == []
    for change, word in (
        ({"image_size": [224, 224]}, "224x224"),
        ({"episodes": 100}, "100 test"),
        ({"folds": [0]}, "fold"),
        ({"backbone": "efficientnet_lite0"}, "backbone"),
        ({"test_rows": 60}, "part of"),
        ({"backbone_weights": "random"}, "random"),
        ({"dataset": "mini"}, "mini"),
        ({"novel_rows": "drop"}, "novel_rows"),
        ({"test_draw": "classes"}, "test_draw"),
    ):
        reasons = paper.not_comparable({**full, **change})
        assert len(reasons) == 1 and word in reasons[0], (change, reasons)


def test_paper_tables_are_whole_and_their_means_fit():
    tlg = paper.published("pascal", "resnet50")["TLG"]
    assert tlg["1"] == [75.4, 81.8, 77.4, 74.0, 77.2] and tlg["labels"] == "I"
    for dataset in ("pascal", "coco"):
        for backbone in ("vgg16", "resnet50"):
            for method, entry in paper.published(dataset, backbone).items():
                for shots in ("1", "5"):
                    *folds, mean = entry.get(shots, [0.0] * 5)
                    assert len(folds) == 4
                    assert mean == pytest.approx(sum(folds) / 4, abs=0.16), (dataset, backbone, method, shots)


def test_the_networks_drawing_stands_in_the_report_as_a_picture_in_which_nothing_runs(tmp_path):
    from tlg_lib.config import make_config
    from tlg_lib.look.diagram import network_svg

    results(tmp_path)
    (tmp_path / "figures").mkdir(exist_ok=True)
    (tmp_path / "figures" / "network.svg").write_text(network_svg(make_config("mini")), encoding="utf-8")
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert '<section id="network">' in page and 'src="data:image/svg+xml;base64,' in page and "<svg" not in page
    (tmp_path / "figures" / "network.svg").write_text("<svg onload=x>", encoding="utf-8")
    assert '<section id="network">' not in write_report(tmp_path).read_text(encoding="utf-8")
