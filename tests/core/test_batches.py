"""Episodes to tensors on the tiny dataset: which image, mask and class goes where, by supervision and shot."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from tlg_lib.batches import BatchMaker, Masks
from tlg_lib.config import make_config
from tlg_lib.data.folder import SegmentationFolder
from tlg_lib.episodes import Episode
from tlg_lib.errors import TLGError

from conftest import make_tiny_voc

SIZE = (64, 96)


class Store:
    """Maps that say which image they are of: layer n of image i holds 10 i + n."""

    device, cached = torch.device("cpu"), True

    def __init__(self, images):
        self.number = {image: n for n, image in enumerate(images)}

    def __call__(self, images):
        values = torch.tensor([10.0 * self.number[image] for image in images]).view(-1, 1, 1, 1)
        return [(values + layer).expand(-1, 2, 2, 3) + torch.tensor([0.0, 0.25, 0.5]) for layer in range(3)]


@pytest.fixture(scope="module")
def episodes(tiny_voc):
    data = SegmentationFolder(tiny_voc, "pascal")
    rows = data.rows("val", 0) + data.rows("trn", 0)
    own = {c: [i for i, d in rows if d == c] for c in (0, 1)}
    made = [Episode(own[0][0], tuple(own[0][1:3]), 0), Episode(own[1][0], tuple(own[0][1:3]), 1, support_class=0)]
    return data, made  # the second is of the wrong-support control


def stored(data, folder, name, class_id):
    """Mask {0, 1, 255} of a class from the file itself, at SIZE."""
    label = np.array(Image.open(data.root / folder / f"{name}.png").resize(SIZE[::-1], 0))
    return torch.from_numpy(np.where(label == 255, 255, label == class_id + 1)).long()


@pytest.mark.parametrize("supervision, support_loss", [("pixel", 0.6), ("pixel", 0.0), ("image", 0.6)])
@pytest.mark.parametrize("training", [False, True])
def test_masks_and_targets_are_those_of_image_and_class(episodes, supervision, support_loss, training):
    data, made = episodes
    config = make_config("smoke", dataset="pascal", image_size=SIZE, supervision=supervision, support_loss=support_loss)
    make = BatchMaker(config, data, Store(data.image_ids))
    batch = make(made, True) if training else make(made)  # not said otherwise, it is for scoring
    for b, e in enumerate(made):
        true = stored(data, "SegmentationClassAug", e.query, e.class_id)
        pseudo = stored(data, "PseudoMasks", f"{e.query}--{e.class_id}", e.class_id)
        assert torch.equal(batch.truth[b], true) and torch.equal(batch.query_mask[b, 0], (pseudo == 1).float())
        assert torch.equal(batch.query_target[b], pseudo if training and supervision == "image" else true)
        assert (true == 255).any() and not torch.equal(true, pseudo)
        for k, s in enumerate(e.support):
            pseudo = stored(data, "PseudoMasks", f"{s}--{e.support_class}", e.support_class)
            drawn = training and supervision == "pixel" and support_loss > 0
            wanted = stored(data, "SegmentationClassAug", s, e.support_class) if drawn else pseudo
            assert torch.equal(batch.support_mask[b, k, 0], (pseudo == 1).float())
            assert torch.equal(batch.support_target[b, k], wanted)
    assert batch.class_ids.tolist() == [0, 1] and batch.episodes == made
    assert batch.support_mask.shape == (2, 2, 1, *SIZE) and batch.query_mask.shape == (2, 1, *SIZE)


def test_maps_are_those_of_query_and_shot(episodes):
    data, made = episodes
    store = Store(data.image_ids)
    batch = BatchMaker(make_config("smoke", dataset="pascal", image_size=SIZE), data, store)(made)
    for layer in range(3):
        assert batch.query[layer][:, 0, 0, 0].tolist() == [10 * store.number[e.query] + layer for e in made]
        for k in range(2):
            found = batch.support[k][layer][:, 1, 1, 0].tolist()
            assert found == [10 * store.number[e.support[k]] + layer for e in made]
    mirrored = batch.flipped()
    for name in ("query_mask", "support_mask", "query_target", "support_target", "truth"):
        assert torch.equal(getattr(mirrored, name), getattr(batch, name).flip(-1)), name
    assert torch.equal(mirrored.query[2], batch.query[2].flip(-1)) and not torch.equal(
        mirrored.query[2], batch.query[2]
    )
    assert torch.equal(mirrored.support[1][0], batch.support[1][0].flip(-1))
    assert torch.equal(mirrored.class_ids, batch.class_ids)


def test_masks_are_read_once(episodes):
    data, made = episodes
    make = BatchMaker(make_config("smoke", dataset="pascal", image_size=SIZE), data, Store(data.image_ids))
    first = make(made)
    make.data = None  # a second reading would fail
    assert torch.equal(make(made).truth, first.truth)


def test_masks_are_read_once_for_all_makers_and_again_where_their_file_changed(tmp_path, monkeypatch):
    data = SegmentationFolder(make_tiny_voc(tmp_path / "voc", classes=5), "pascal")
    image, class_id = data.image_ids[0], 0
    loads, masks, real = [], Masks(data, SIZE), data.pseudo_mask
    monkeypatch.setattr(data, "pseudo_mask", lambda i, c: loads.append(i) or real(i, c))
    first = masks.pseudo(image, class_id)
    assert masks.pseudo(image, class_id) is first and loads == [image]
    expected = stored(data, "PseudoMasks", f"{image}--0", class_id)
    assert (first == expected).all() and first.any()
    path = data.pseudo_mask_path(image, class_id)
    Image.fromarray(np.zeros((60, 80), np.uint8)).save(path)
    os.utime(path, ns=(1, 1))  # another time, if not a later one
    assert not masks.pseudo(image, class_id).any() and loads == [image, image]
    assert (masks.drawn(image, class_id) == 1).any() and not (masks.drawn(image, 3) == 1).any(), "another class"
    path.unlink()
    with pytest.raises(TLGError, match="no pseudo mask"):
        masks.pseudo(image, class_id)
