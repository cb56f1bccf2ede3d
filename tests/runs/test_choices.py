"""Choices see no test class: rows, tables and the two commands, on a folder of a few pictures."""

import json
import math

import pandas as pd
import pytest

from tlg_lib.cli import main
from tlg_lib.config import make_config
from tlg_lib.data.classes import fold_classes
from tlg_lib.errors import TLGError
from tlg_lib.experiment import open_experiment
from tlg_lib.runs.choices import choice_table
from tlg_lib.runs.curve import LINES, VARIANTS, curve_figure, curve_table, wanted_rows
from tlg_lib.runs.grid import grid_rows
from tlg_lib.runs.records import score_table

TINY = ("use_hc=false", "backbone_weights=random", "width=16", "widths_4d=4,8,16", "dataset=pascal", "steps=2",
        "eval_episodes=8", "image_size=64", "token_count=4")  # fmt: skip


def tiny_config(folder, **changes):
    settings = dict(setting.split("=", 1) for setting in TINY)
    return make_config("smoke", data=str(folder), **settings, **changes)


@pytest.mark.parametrize("validation_fold", [-1, 1, 3])
def test_what_is_scored_is_not_trained_on_and_choices_see_neither(tiny_voc, own_home, validation_fold):
    config = tiny_config(tiny_voc, fold=0, validation_fold=validation_fold)
    experiment = open_experiment(config, False)
    scored = set(fold_classes("pascal", 0 if validation_fold < 0 else validation_fold))
    hidden = set(fold_classes("pascal", 0)) | scored
    trained = experiment.sampler(config).rows
    assert trained and not {c for _, c in trained} & hidden
    assert all(not experiment.data.classes_in(image) & {c + 1 for c in hidden} for image, _ in trained)
    assert {e.class_id for e in experiment.test_episodes(config)} <= scored


def test_rows_for_choices_are_not_trained_on(tiny_voc, own_home, monkeypatch):
    from tlg_lib import protocol as module

    config = tiny_config(tiny_voc, fold=0)
    experiment = open_experiment(config, False)
    listed = experiment.data.training_rows(0, experiment.both_splits(config))
    images = sorted({image for image, _ in listed})
    monkeypatch.setattr(module, "held_out", lambda image: image in images[::2])
    if experiment.both_splits(config):  # a small folder trains on both lists and keeps some images back
        assert {i for i, _ in experiment.choice_rows(config)} <= set(images[::2])
        assert not {i for i, _ in experiment.sampler(config).rows} & set(images[::2])
    novel = {c + 1 for c in fold_classes("pascal", 0)}
    assert all(not experiment.data.classes_in(image) & novel for image, _ in experiment.choice_rows(config))


def test_the_test_fold_cannot_stand_in_for_itself():
    with pytest.raises(TLGError, match="validation_fold=2: that is the test fold"):
        make_config("mini", fold=2, validation_fold=2)


def test_the_table_of_choices_by_hand():
    records = [
        {"row": row, "miou": miou}
        for row, miou in (("a", 40.0), ("a", 50.0), ("a-alone", 30.0), ("b", 47.0), ("query pseudo mask", 41.0))
    ]
    table = choice_table(records, ["a", "b"])
    assert list(table.setting) == ["b", "a"] and list(table.answer) == [47.0, 45.0] and list(table["mask"]) == [41, 41]
    assert math.isnan(table["network alone"][0]) and table["network alone"][1] == 30.0


def test_the_curve_has_a_line_per_row_fold_and_seed_without_controls():
    records = [
        {"row": row, "fold": fold, "seed": 0, "control": control, "threshold_from": source, "miou": score}
        for row, control, miou in (
            ("extended-pixel", "", 50.0),
            ("extended-pixel", "wrong support", 9.0),
            ("extended-image", "", 7.0),
            ("other", "", 8.0),
        )
        for fold in (0, 1)
        for source, score in (("fixed", miou + fold), ("base classes", miou + 2))
    ]
    table = curve_table(records, "weak", "pixel")
    assert table.to_dict("records") == [
        {"strength": "weak", "supervision": "pixel", "row": "extended", "fold": f, "seed": 0, "miou_chosen": 52.0,
         "miou": 50.0 + f}
        for f in (0, 1)
    ]  # fmt: skip


def test_a_row_has_its_colour_in_every_panel_of_the_curve():
    rows = [
        {
            "strength": strength,
            "supervision": targets,
            "row": row,
            "fold": 0,
            "seed": 0,
            "miou": 9.0,
            "miou_chosen": miou,
        }
        for targets, shown in (("pixel", LINES), ("image", ("query pseudo mask", "extended")))
        for row in shown
        for strength, miou in (("weak", 30.0), ("strong", 60.0))
    ]
    panels = [{line.get_label(): line for line in axes.get_lines()} for axes in curve_figure(pd.DataFrame(rows)).axes]
    assert set(panels[0]) == set(LINES.values()) and len({line.get_color() for line in panels[0].values()}) == 7
    for label, line in panels[1].items():
        assert line.get_color() == panels[0][label].get_color()
        assert list(line.get_xdata()) == list(line.get_ydata()) == [30.0, 60.0]


def test_the_curve_trains_the_rows_that_are_asked_for():
    assert wanted_rows(()) == (*VARIANTS, "rival") and wanted_rows(("released",)) == ("released",)
    with pytest.raises(TLGError, match="no row 'relased': the trained rows of the curve are extended, corrected"):
        wanted_rows(("extended", "relased"))


def test_the_table_of_scores_by_hand():
    """Means over folds, then seeds; the cost of a wrong support is paired by seed; a lone seed has no interval."""
    records = [
        {"row": "a", "label": "A", "fold": fold, "seed": seed, "control": control, "threshold_from": source,
         "miou": score + fold + add, "miou_one": 90.0, "miou_several": None if fold else 10.0}
        for seed, add in ((0, 0.0), (1, 2.0))
        for fold in (0, 1)
        for control, score in (("", 50.0), ("wrong support", 40.0 - 3 * seed))
        for source in ("fixed", "base classes")
    ]  # fmt: skip
    line = score_table(records).iloc[0]
    assert (line.miou, line.wrong_miou, line.cost_miou, line.miou_one) == (51.5, 40.0, 11.5, 90.0)
    # 10 and 13: standard deviation 3 / sqrt(2), t(0.975, 1) = 12.7062.
    assert line.cost_miou_half == pytest.approx(12.7062 * 1.5, rel=1e-5)
    assert math.isnan(line.miou_several), "fold 1 has no such picture, so there is no mean over the folds"
    alone = score_table([r for r in records if r["seed"] == 0 and not r["control"]]).iloc[0]
    assert alone.miou == 50.5 and math.isnan(alone.miou_half) and math.isnan(alone.cost_miou)


@pytest.mark.slow
def test_choose_curve_grid_and_converge_end_to_end(tiny_voc, own_home, jobs_here, tmp_path, capsys):
    given = ["smoke", "--data", str(tiny_voc), "--folds", "0", "--workers", "1"]
    given += [word for setting in TINY for word in ("--set", setting)]
    for command, more in (
        ("choose", ["--try", "dice=0,lr=1e-3"]),
        ("curve", ["--masks", "own="]),
        ("curve", ["--masks", "own=", "--rows", "corrected", "--out", str(tmp_path / "one")]),
        ("grid", []),
        ("converge", ["--rows", "rival-pixel,extended-image", "--for", "rival-pixel:lr=1e-3", "--every", "1"]),
    ):
        more = [*more, "--steps", "2"] if command == "converge" else more
        with pytest.raises(SystemExit) as ended:
            main([command, *given, "--out", str(tmp_path / command), *more])
        assert ended.value.code == 0, capsys.readouterr().err
    choices = json.loads((tmp_path / "choose" / "choices.json").read_text())
    assert {row["setting"] for row in choices["rows"]} == {"as it is", "dice=0,lr=1e-3"}
    assert (tmp_path / "curve" / "curve.png").stat().st_size > 5_000
    curve = pd.read_csv(tmp_path / "curve" / "curve.csv")
    assert set(curve.row) == set(LINES) and set(curve.supervision) == {"pixel", "image"}
    one = pd.read_csv(tmp_path / "one" / "curve.csv")
    assert set(one.row) == {"query pseudo mask", "base-fusion", "corrected"}
    assert one.merge(curve).equals(one), "the same figures as beside the other rows"
    assert curve[curve.row == "rival"].groupby("fold").miou.nunique().eq(1).all(), "one rival for all masks"
    grid = json.loads((tmp_path / "grid" / "grid.json").read_text())["rows"]
    trained = {row["row"]: row for row in grid if row["wrong_miou"] is not None}
    assert set(trained) == {row.name for row in grid_rows()} and len(trained) == 9
    for row in trained.values():
        assert row["cost_miou"] == pytest.approx(row["miou"] - row["wrong_miou"])
    assert (tmp_path / "grid" / "grid.png").stat().st_size > 5_000
    curves = pd.read_csv(tmp_path / "converge" / "curves.csv")
    assert set(curves.row) == {"rival-pixel", "extended-image"} and set(curves.step) == {1, 2}
    own = json.loads((tmp_path / "converge" / "jobs" / "rival-pixel-fold0-seed0" / "config.json").read_text())
    assert own["lr"] == 1e-3 and own["support_masks"] == "drawn"
    assert (tmp_path / "converge" / "converge.png").stat().st_size > 5_000
    with pytest.raises(SystemExit):
        main(["converge", *given, "--for", "rivals:lr=1"])
    assert "no row 'rivals': the rows are" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["choose", *given, "--try", "dicee=0"])
    assert "did you mean 'dice'" in capsys.readouterr().err
