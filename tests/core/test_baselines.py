"""Training-free rows against loops in NumPy over positions; features at two grids, masks at a third."""

import numpy as np
import pytest
import torch

from tlg_lib import baselines, prototypes
from tlg_lib.batches import EpisodeBatch

LEVELS = ((0,), (1, 2), (3, 4))  # of a level the last layer counts
B, K, SIZE = 2, 3, (16, 16)


def unit(x, axis=0):
    return x / (np.linalg.norm(x, axis=axis, keepdims=True) + 1e-5)


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    maps = lambda: [draw(B, 3, 8, 8), *(draw(B, 4, 4, 4) for _ in (1, 2)), *(draw(B, 5, 4, 4) for _ in (3, 4))]  # noqa: E731
    blocks = (torch.rand(B, K + 1, 8, 8, generator=generator) > 0.5).float()
    masks = blocks.repeat_interleave(2, 2).repeat_interleave(2, 3)  # edges inside of the features' 4 x 4 cells
    empty = torch.zeros(B, *SIZE, dtype=torch.long)
    supports = [maps() for _ in range(K)]
    return EpisodeBatch([], maps(), supports, masks[:, :1], masks[:, 1:, None], empty, empty, empty, torch.arange(B))


def deep(maps, b):
    """[9, 4, 4] of one image: both coarse levels at unit length, together at unit length."""
    return unit(np.concatenate([unit(maps[2][b].numpy()), unit(maps[4][b].numpy())]))


def cells(mask):
    """Share of each of the 4 x 4 cells that a mask [16, 16] covers."""
    return mask.numpy().reshape(4, 4, 4, 4).mean((1, 3))


def mean(features, weight):
    return (features * weight).sum((1, 2)) / weight.sum()


def probability(inside, outside, query):
    """[16, 16]: sigmoid of 20 x the difference of cosines, enlarged by torch."""
    near, far = (np.einsum("c,chw->hw", p / np.linalg.norm(p), query) for p in (inside, outside))
    small = torch.from_numpy(1 / (1 + np.exp(-20 * (near - far))))[None, None]
    return torch.nn.functional.interpolate(small, SIZE, mode="bilinear", align_corners=False)[0, 0].numpy()


def by_hand(batch, b, k, general):
    """Maps of one episode and shot by their names, and the mask as a vote."""
    query, support = deep(batch.query, b), deep(batch.support[k], b)
    own, theirs = cells(batch.query_mask[b, 0]), cells(batch.support_mask[b, k, 0])
    fore, back = mean(support, theirs), mean(support, 1 - theirs)
    mine, around = mean(query, own), mean(query, 1 - own)
    return {
        "prototype": probability(fore, back, query),
        "self": probability(mine, around, query),
        "joint": probability(mine + fore, around + back + general, query),
        "against": probability(fore, general, query),
        "mask": 0.25 + 0.5 * batch.query_mask[b, 0].numpy(),
        "hard": batch.query_mask[b, 0].numpy(),
    }


ROWS = {
    "query pseudo mask": ("hard",),
    "prototype": ("prototype",),
    "mask + support prototype": ("mask", "prototype"),
    "mask + self prototype": ("mask", "self"),
    "mask + both prototypes": ("mask", "prototype", "self"),
    "base-fusion": ("mask", "joint", "against"),
}


def test_every_row_is_what_its_name_says(batch):
    general = torch.linspace(-0.1, 0.2, 9)
    found = baselines.training_free(LEVELS, general)
    assert tuple(found) == baselines.FREE_ROWS == tuple(ROWS)
    for name, parts in ROWS.items():
        maps = found[name](batch)
        assert maps.shape == (B, K, *SIZE)
        for b in range(B):
            for k in range(K):
                hand = by_hand(batch, b, k, general.numpy())
                expected = np.mean([hand[part] for part in parts], 0)
                np.testing.assert_allclose(maps[b, k].numpy(), expected, atol=2e-4, err_msg=f"{name} {b} {k}")


def test_shots_are_told_apart(batch):
    maps = baselines.prototype(LEVELS)(batch)
    assert (maps[:, 0] - maps[:, 1]).abs().max() > 0.1 and (maps[:, 1] - maps[:, 2]).abs().max() > 0.1


def test_an_empty_mask_gives_no_prototype_and_no_nan():
    features, nothing = torch.randn(1, 4, 3, 3), torch.zeros(1, 1, 3, 3)
    none = prototypes.masked_mean(features, nothing)
    assert torch.equal(none, torch.zeros(1, 4)) and torch.equal(prototypes.cosine(none, features), torch.zeros(1, 3, 3))
    assert prototypes.prototype_probability(features, nothing, features).isfinite().all()


@pytest.mark.parametrize("known", ["both", "other", "this"])
def test_the_prior_maps_by_hand(known):
    """Of one level: near the object; that without its surroundings; against the base background; and of itself."""
    generator = torch.Generator().manual_seed(3)
    this, other = (torch.randn(1, 5, 4, 4, generator=generator) for _ in range(2))
    masks = [torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)]
    masks[0][..., :2, 1:], masks[1][..., 1:, :3] = 1, 1
    general = torch.randn(5, generator=generator)
    given = [m if known in ("both", name) else None for m, name in zip(masks, ("this", "other"))]
    found = prototypes.prototype_prior(this, other, *given, general)[0].numpy()

    a, b, g = unit(this[0].numpy()), unit(other[0].numpy()), general.numpy() / np.linalg.norm(general.numpy())
    scale = lambda m: (m - m.min()) / (m.max() - m.min())  # noqa: E731
    like = lambda x, s, w: np.einsum("chw,c->hw", x, unit((s * w).sum((1, 2))))  # noqa: E731
    crossed = lambda x, s, w, v: scale(like(x, s, w) - like(x, s, v))  # noqa: E731

    def weights(mask, image, source, source_mask):
        if mask is not None:
            return mask[0, 0].numpy(), 1 - mask[0, 0].numpy()
        prior = crossed(image, source, source_mask, 1 - source_mask)
        return np.maximum(prior - 0.7, 0), np.maximum(0.3 - prior, 0)

    theirs = weights(given[1], b, a, None if given[0] is None else given[0][0, 0].numpy())
    ours = weights(given[0], a, b, None if given[1] is None else given[1][0, 0].numpy())
    near = like(a, b, theirs[0])
    against = 1 / (1 + np.exp(-20 * (near - np.einsum("chw,c->hw", a, g))))
    expected = [scale(near), crossed(a, b, *theirs), against, crossed(a, a, *ours)]
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert found.shape == (prototypes.PER_LEVEL, 4, 4)


def test_at_most_sixty_images_of_a_class_are_asked_evenly_spread():
    asked = []

    def make(episodes):
        asked.append([e.query for e in episodes])
        maps = [torch.rand(len(episodes), 2, 2, 2) for _ in range(3)]
        mask = torch.ones(len(episodes), 1, 2, 2) / 2
        return EpisodeBatch(episodes, maps, [], mask, mask, None, None, None, None)

    rows = [(f"i{n:03d}", 1) for n in range(130)]
    prototypes.find_consensus(rows, make, ((0,), (1,), (2,)), 2)
    images = [name for part in asked for name in part]
    assert images == [f"i{n:03d}" for n in range(0, 120, 2)] and {len(part) for part in asked} == {16, 12}
