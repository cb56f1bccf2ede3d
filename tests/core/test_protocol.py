"""The authors' protocol as named settings: how test queries are drawn, and which training images stay."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from tlg_lib.config import make_config
from tlg_lib.data.folder import open_folder
from tlg_lib.experiment import Experiment

from conftest import make_tiny_voc


def test_the_presets_of_the_paper_follow_the_authors_and_the_others_say_what_they_do():
    pascal, coco, lite, mini = (make_config(name) for name in ("pascal", "coco", "pascal-lite", "mini"))
    assert (pascal.test_draw, pascal.novel_rows) == ("rows", "keep")
    assert (coco.test_draw, coco.novel_rows) == ("classes", "keep")
    assert {(c.test_draw, c.novel_rows) for c in (lite, mini)} == {("rows", "drop")}


@pytest.fixture
def both_classes(tmp_path):
    """A tiny folder in which one training image of a base class also shows class 0, hidden in fold 0."""
    root = tmp_path / "voc"
    make_tiny_voc(root)
    data = open_folder(str(root), "pascal", "")
    image, class_id = data.rows("trn", 1)[0]
    path = root / "SegmentationClassAug" / f"{image}.png"
    label = np.array(Image.open(path))
    label[:8, :8] = 1
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
