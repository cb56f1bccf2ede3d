"""Correlation against loops over layers and positions."""

import torch

from tlg_lib.correlation import correlate, mask_features, pool_levels, transposed


def random_maps(channels, size, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, c, *size, generator=generator) for c in channels]


def by_loops(query, support):
    out = torch.zeros(2, len(query), *query[0].shape[2:], *support[0].shape[2:])
    for layer, (q, s) in enumerate(zip(query, support)):
        for y in range(q.shape[2]):
            for x in range(q.shape[3]):
                a = q[:, :, y, x]
                dots = torch.einsum("bc,bchw->bhw", a, s)
                norms = (a.norm(dim=1) + 1e-5)[:, None, None] * (s.norm(dim=1) + 1e-5)
                out[:, layer, y, x] = (dots / norms).clamp(min=0)
    return out


def test_correlation_is_the_clamped_cosine():
    query, support = random_maps((6, 9), (3, 4), 0), random_maps((6, 9), (5, 2), 1)
    expected = by_loops(query, support)
    found = correlate(query, support)
    torch.testing.assert_close(found, expected)
    assert (found == 0).any() and (found > 0).any()
    torch.testing.assert_close(transposed(found), correlate(support, query))


def test_learnable_features_take_the_path_with_gradients():
    query, support = random_maps((6, 9), (3, 4), 0), random_maps((6, 9), (5, 2), 1)
    expected = correlate(query, support)
    query[0].requires_grad_()
    found = correlate(query, support)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert query[0].grad.abs().sum() > 0


def test_under_autocast_the_correlation_takes_its_precision():
    query, support = random_maps((6, 9), (3, 4), 0), random_maps((6, 9), (5, 2), 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = correlate(query, support)
        exact = correlate([q.double() for q in query], [s.double() for s in support])
    assert (found.dtype, exact.dtype) == (torch.bfloat16, torch.float64)
    torch.testing.assert_close(found.double(), exact, atol=0.02, rtol=0.02)


def test_a_masked_support_position_matches_nothing():
    query, support = random_maps((6,), (4, 4), 0), random_maps((6,), (4, 4), 1)
    mask = torch.zeros(2, 1, 4, 4)
    mask[:, :, 1:3, 2] = 1
    found = correlate(query, mask_features(support, mask))
    assert (found[..., 1:3, 2] > 0).any()
    found[..., 1:3, 2] = 0
    assert not found.any()


def test_only_the_finest_maps_are_pooled_and_odd_sides_round_up():
    fine, coarse = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 3, 2)
    (pooled,), (same,) = pool_levels([[fine], [coarse]], 2)
    assert same is coarse and pooled.shape == (2, 3, 3, 2)
    torch.testing.assert_close(pooled[:, :, 1, 1], fine[:, :, 2:4, 2:4].mean((2, 3)))
    torch.testing.assert_close(pooled[:, :, 2, 0], fine[:, :, 4, :2].mean(2), msg="a last odd row is its own mean")


def test_pooling_brings_all_levels_to_the_coarsest_grid():
    levels = [[torch.randn(1, 3, n, n)] for n in (13, 7, 4)]
    pooled = pool_levels(levels, 4)
    assert [x.shape[-1] for (x,) in pooled] == [4, 4, 4]
    torch.testing.assert_close(pooled[0][0][0, :, 1, 2], levels[0][0][0, :, 4:8, 8:12].mean((1, 2)))
    torch.testing.assert_close(pooled[1][0][0, :, 1, 2], levels[1][0][0, :, 2:4, 4:6].mean((1, 2)))
    assert pooled[2][0] is levels[2][0] and pool_levels(levels, 1) == levels
