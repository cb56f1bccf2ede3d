"""Class prototypes against loops in NumPy, and targets that they put right where single masks err."""

import numpy as np
import pytest
import torch

from tlg_lib.batches import EpisodeBatch
from tlg_lib.episodes import Episode
from tlg_lib.evaluate import judged_by_labels
from tlg_lib.prototypes import find_consensus

LEVELS = ((0,), (1,), (2,))
OBJECT, SCENE = torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0])


def maker(features, masks):
    """Batches from {image: [C, h, w]} and {(image, class): [H, W]}; there is no truth to look at."""

    def make(episodes):
        query = torch.stack([features[e.query] for e in episodes])
        mask = torch.stack([masks[e.query, e.class_id] for e in episodes])[:, None]
        ids = torch.tensor([e.class_id for e in episodes])
        return EpisodeBatch(
            episodes, [query] * 3, [[query] * 3], mask, mask[:, None], mask[:, 0].long(), None, None, ids
        )

    return make


def unit(x):
    return x / np.linalg.norm(x)


def test_prototypes_are_means_over_all_images_of_a_class():
    generator = torch.Generator().manual_seed(0)
    images = [f"i{n}" for n in range(40)]
    rows = [(image, n % 2 + 1) for n, image in enumerate(images)]  # classes 1 and 2 of 4
    features = {image: torch.randn(3, 4, 4, generator=generator) for image in images}
    masks = {row: (torch.rand(4, 4, generator=generator) < 0.4).float() for row in rows}
    found = find_consensus(rows, maker(features, masks), LEVELS, 4)

    surroundings = []
    for class_id in (1, 2):
        inside, outside = np.zeros(6), np.zeros(6)
        for image in images[class_id - 1 :: 2]:
            own, count = np.zeros(6), 0
            for y in range(4):
                for x in range(4):
                    pixel = unit(features[image][:, y, x].numpy())
                    pixel = unit(np.concatenate([pixel, pixel]))  # both coarse levels hold the same map here
                    if masks[image, class_id][y, x]:
                        inside += pixel
                    else:
                        own, count = own + pixel, count + 1
            outside += own
            surroundings.append(own / count)
        assert found.foreground[class_id].numpy() == pytest.approx(unit(inside), abs=1e-5)
        assert found.background[class_id].numpy() == pytest.approx(unit(outside), abs=1e-5)
    assert found.general.numpy() == pytest.approx(np.mean(surroundings, 0), abs=1e-5)
    assert not found.foreground[[0, 3]].any() and not found.background[[0, 3]].any()


def class_with_one_bad_mask(bad):
    """Ten images, object above and scene below; every mask is right but that of i3, which is ``bad``."""
    picture = torch.cat([OBJECT.view(3, 1, 1).expand(3, 2, 4), SCENE.view(3, 1, 1).expand(3, 2, 4)], 1)
    right = torch.cat([torch.ones(2, 4), torch.zeros(2, 4)])
    rows = [(f"i{n}", 0) for n in range(10)]
    return rows, {image: picture for image, _ in rows}, {row: bad if row[0] == "i3" else right for row in rows}, right


def test_a_mask_that_errs_is_outvoted_by_its_class():
    rows, features, masks, right = class_with_one_bad_mask(bad=torch.cat([torch.zeros(2, 4), torch.ones(2, 4)]))
    make = maker(features, masks)
    batch = make([Episode("i3", ("i1",), 0), Episode("i4", ("i1",), 0)])
    targets = find_consensus(rows, make, LEVELS, 1).targets(batch, LEVELS)
    assert not torch.equal(batch.query_target[0], right.long())
    assert torch.equal(targets[0], right.long()) and torch.equal(targets[1], right.long())


def test_what_looks_more_like_another_label_of_the_image_is_not_the_object():
    """Two classes side by side, masks over both: the image's labels tell them apart, also where it is held out."""
    first, second, scene = torch.tensor([1.0, 0.3, 0]), torch.tensor([0.3, 1.0, 0]), torch.tensor([0, 0, 1.0])
    alone = {c: torch.stack([v, scene], 1)[:, :, None].expand(3, 2, 2) for c, v in enumerate((first, second))}
    both = torch.stack([torch.stack([first, second], 1), torch.stack([scene, scene], 1)], 1)  # [3, 2, 2]
    objects = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    rows = [(f"{c}/{n}", c) for c in (0, 1) for n in range(5)]
    features = {image: alone[c] for image, c in rows} | {"kept": both, "unlabelled": both}
    masks = {row: objects for row in rows} | {(image, c): objects for image in ("kept", "unlabelled") for c in (0, 1)}
    make = maker(features, masks)
    found = find_consensus(rows, make, LEVELS, 3, labelled=[("kept", 0), ("kept", 1), ("unlabelled", 1)])
    batch = make([Episode("kept", ("0/0",), 0), Episode("kept", ("1/0",), 1), Episode("unlabelled", ("1/0",), 1)])
    assert found.targets(batch, LEVELS).tolist() == [[[1, 0], [0, 0]], [[0, 1], [0, 0]], [[1, 1], [0, 0]]]
    blind, told = found.probability(batch, LEVELS), found.probability(batch, LEVELS, labelled=True)
    assert torch.equal(blind[2], told[2]) and torch.equal(blind[:2, 1], told[:2, 1])
    assert (blind[0, 0] > 0.5).all() and told[0, 0, 1] < 0.5 < told[0, 0, 0]


def test_what_is_judged_shows_its_class():
    """An image that looks like its other label alone keeps its mask as what scores are chosen by."""
    rows = [("a", 0), ("b", 1), ("lost", 0), ("lost", 1)]
    scene = torch.tensor([0, 0, 1.0])
    first, second = (torch.stack([v, scene], 1)[:, :, None].expand(3, 2, 2) for v in (OBJECT, SCENE))
    features, mask = {"a": first, "b": second, "lost": first}, torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    make = maker(features, dict.fromkeys(rows, mask))
    found = find_consensus(rows[:2], make, LEVELS, 2, labelled=rows[2:])
    judged = judged_by_labels(make, found, LEVELS)([Episode("lost", ("b",), 1), Episode("lost", ("a",), 0)])
    assert not found.object_in(judged, LEVELS)[0].any()
    assert judged.truth.tolist() == [mask.tolist(), [[1, 1], [0, 0]]]


def test_unsure_pixels_stay_as_they_are():
    rows, features, masks, right = class_with_one_bad_mask(bad=torch.zeros(4, 4))
    make = maker(features, masks)
    batch = make([Episode("i2", ("i1",), 0)])
    batch.query_target[0, 0, 0] = 255
    targets = find_consensus(rows, make, LEVELS, 1).targets(batch, LEVELS)
    assert targets[0, 0, 0] == 255 and targets[0].flatten()[1:].tolist() == right.long().flatten()[1:].tolist()
