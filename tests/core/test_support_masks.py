"""Whose masks the supports come with: generated, drawn, or cut out of the drawn mask's box."""

import numpy as np
import pytest
import torch
from PIL import Image

from tlg_lib.batches import BatchMaker
from tlg_lib.config import make_config
from tlg_lib.data.folder import SegmentationFolder
from tlg_lib.episodes import Episode


class Store:
    """Backbone maps that nobody reads here."""

    device, cached = torch.device("cpu"), True

    def __call__(self, images):
        return [torch.zeros(len(images), 1, 2, 2)]


@pytest.mark.parametrize("training", [False, True])
def test_drawn_and_boxed_supports_leave_the_query_as_it_was(tiny_voc, training, monkeypatch):
    import tlg_lib.masks.drawn as drawn

    boxes, cut = [], drawn.cut
    monkeypatch.setattr(drawn, "cut", lambda image, given, *more: boxes.extend(given) or cut(image, given, *more))
    data = SegmentationFolder(tiny_voc, "pascal")
    image, class_id = data.rows("val", 0)[0]
    other = next(i for i, c in data.rows("trn", 0) if c == class_id)
    coarse = np.zeros((60, 80), np.uint8)
    coarse[:, :40] = class_id + 1  # a generated mask that is plainly another one than the truth
    data.pseudo_mask = lambda image, class_id: (coarse > 0).astype(np.uint8)
    size = (64, 96)
    batches = {}
    for supports in ("pseudo", "drawn", "boxes"):
        config = make_config("smoke", dataset="pascal", image_size=size, support_masks=supports)
        batches[supports] = BatchMaker(config, data, Store())([Episode(image, (other,), class_id)], training)
    label = np.array(Image.open(tiny_voc / "SegmentationClassAug" / f"{other}.png").resize(size[::-1], 0))
    truth = label == class_id + 1
    found = {name: batch.support_mask[0, 0, 0].numpy() == 1 for name, batch in batches.items()}
    np.testing.assert_array_equal(found["drawn"], truth)
    assert found["pseudo"][:, :48].all() and not found["pseudo"][:, 48:].any()
    rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
    outside = np.ones(size, bool)
    outside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = False
    inside = np.array(Image.open(tiny_voc / "SegmentationClassAug" / f"{other}.png")) == class_id + 1
    (y0, *_, y1), (x0, *_, x1) = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    assert boxes == [(x0, y0, x1 + 1, y1 + 1)]  # not a pixel wider than the object
    assert found["boxes"].any() and not (found["boxes"] & np.roll(outside, 1) & np.roll(outside, -1)).any()
    assert (found["boxes"] & truth).sum() / (found["boxes"] | truth).sum() > 0.5
    for batch in batches.values():
        assert torch.equal(batch.query_mask, batches["pseudo"].query_mask)
        assert torch.equal(batch.query_target, batches["pseudo"].query_target)
