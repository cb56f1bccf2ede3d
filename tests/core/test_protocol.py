"""The authors' protocol as named settings: how test queries are drawn, and which training images stay."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from tlg_lib.config import make_config
from tlg_lib.data.folder import SegmentationFolder, open_folder
from tlg_lib.data.verify import verify
from tlg_lib.errors import TLGError
from tlg_lib.experiment import Experiment
from tlg_lib.protocol import check_rows

from conftest import make_tiny_voc


def test_the_presets_of_the_paper_follow_the_authors_and_the_others_say_what_they_do():
    pascal, coco, lite, mini = (make_config(name) for name in ("pascal", "coco", "pascal-lite", "mini"))
    assert (pascal.test_draw, pascal.novel_rows) == ("rows", "keep")
    assert (coco.test_draw, coco.novel_rows) == ("classes", "keep")
    assert {(c.test_draw, c.novel_rows) for c in (lite, mini)} == {("rows", "drop")}


@pytest.fixture
def both_classes(tmp_path):
    """A tiny folder in which one training image of a base class also shows a little of class 0, hidden in fold 0."""
    root = tmp_path / "voc"
    make_tiny_voc(root)
    data = open_folder(str(root), "pascal", "")
    image, class_id = next(row for row in data.rows("trn", 1) if data.classes_in(row[0]) <= set(range(6, 11)))
    path = root / "SegmentationClassAug" / f"{image}.png"
    label = np.array(Image.open(path))
    label[:5, :8] = 1  # less than the lists ask of a row
    Image.fromarray(label, "L").save(path)
    open_folder.cache_clear()
    return open_folder(str(root), "pascal", ""), (image, class_id)


def test_training_images_with_a_hidden_class_are_kept_or_dropped_by_name(both_classes):
    """Against the label maps themselves: which images hold a value of 1 to 5, the classes hidden in fold 0."""
    data, row = both_classes
    experiment = Experiment(data, None, None, None, None)
    kept, dropped = (experiment.training_rows(make_config("pascal", novel_rows=n)) for n in ("keep", "drop"))
    shows = {image for image, _ in kept if np.isin(data.label(image), range(1, 6)).any()}
    assert row in kept and row not in dropped and set(dropped) < set(kept)
    assert dropped == [r for r in kept if r[0] not in shows]


def test_no_image_of_a_test_row_is_trained_on_where_both_lists_serve(both_classes):
    """In a folder this small, images of two classes stand in the lists of both: 20 would be trained on and scored."""
    data, _ = both_classes
    experiment = Experiment(data, None, None, None, None)
    for chosen, folds in ((make_config("pascal"), {0}), (make_config("pascal", validation_fold=2), {0, 2})):
        assert experiment.both_splits(chosen) and chosen.novel_rows == "keep"
        hidden = {c + 1 for fold in folds for c in data.fold_classes(fold)}
        tested = {i for split in ("trn", "val") for fold in folds for i, _ in data.rows(split, fold)}
        listed = {i for split in ("trn", "val") for fold in {0, 1, 2, 3} - folds for i, _ in data.rows(split, fold)}
        trained = {i for i, _ in experiment.training_rows(chosen)}
        assert len(listed & tested) >= 20 and trained and not trained & tested
        little = [i for i in trained if hidden & set(np.unique(data.label(i)))]
        assert len(little) <= 1  # the image with a little of class 0, which is no test row


def test_lists_that_train_and_score_the_same_picture_are_refused(both_classes, monkeypatch):
    data, _ = both_classes
    monkeypatch.setattr("tlg_lib.protocol.SMALL_TEST_LIST", 0)
    check_rows(make_config("pascal-lite"), Experiment(SegmentationFolder(data.root, "pascal"), *4 * [None]), False)
    lines = (data.root / "splits" / "trn" / "fold1.txt").read_text()
    (data.root / "splits" / "val" / "fold1.txt").write_text(lines)
    with pytest.raises(TLGError, match=r"\d+ pictures of the lists in .* are trained on and scored \(2007_"):
        check_rows(make_config("pascal-lite"), Experiment(SegmentationFolder(data.root, "pascal"), *4 * [None]), False)
    assert verify(data.root, "pascal", progress=False).problems["trained and tested"]


def test_episodes_per_class_follow_the_named_draw(both_classes):
    """Rows: as many episodes as the class has rows. Classes: evenly, whatever the list holds."""
    data, _ = both_classes
    experiment = Experiment(data, None, None, None, None)
    config = make_config("pascal", eval_episodes=600)
    rows = data.test_rows(0, experiment.both_splits(config))
    by_rows = Counter(e.class_id for e in experiment.test_episodes(config))
    share = Counter(c for _, c in rows)
    assert all(abs(by_rows[c] - 600 * n / len(rows)) <= n for c, n in share.items())
    evenly = Counter(e.class_id for e in experiment.test_episodes(config.replace(test_draw="classes")))
    assert set(evenly) == set(share) and min(evenly.values()) > 80  # 120 expected, four standard deviations are 39
