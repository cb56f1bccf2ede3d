"""Affinity and refinement against small cases worked out by hand or by plain loops."""

import numpy as np
import pytest
import torch

from tlg_lib.errors import TLGError
from tlg_lib.masks import refine
from tlg_lib.masks.affinity import box_masks, feature_similarity, normalise_rounds, patch_affinity, spread
from tlg_lib.masks.cam import unit_range


def attention(size=40, seed=0):
    return torch.randn(2, size, size, generator=torch.Generator().manual_seed(seed)).softmax(-1)


@pytest.mark.parametrize("rounds, tolerance", [(3, 0.05), (50, 1e-5)])
def test_rounds_give_a_doubly_stochastic_matrix(rounds, tolerance):
    found = normalise_rounds(attention(), rounds)
    ones = torch.ones(2, 40)
    torch.testing.assert_close(found.sum(2), ones, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.sum(1), ones, atol=tolerance, rtol=0)
    assert (attention().sum(1) - 1).abs().max() > 0.2, "the input must not be doubly stochastic already"
    assert (found > 0).all()


def test_affinity_is_the_square_of_the_symmetric_mean():
    raw = attention(6)[:1]
    matrix = raw[0].double().numpy()
    for _ in range(3):
        matrix = matrix / matrix.sum(0)
        matrix = matrix / matrix.sum(1)[:, None]
    matrix = (matrix + matrix.T) / 2
    np.testing.assert_allclose(patch_affinity(raw)[0].numpy(), matrix @ matrix, atol=1e-6)


def test_boxes_surround_every_region_that_passes_the_threshold():
    cam = torch.zeros(1, 2, 6, 7)
    cam[0, 0, 1, 1] = cam[0, 0, 2, 2] = 0.5  # touch at a corner: one region, one box of 2 x 2
    cam[0, 0, 5, 4:7] = 0.45  # another region
    cam[0, 0, 0, 6] = 0.1  # below 0.4 of the maximum
    expected = np.zeros((6, 7))
    expected[1:3, 1:3] = 1
    expected[5, 4:7] = 1
    found = box_masks(cam, 0.4)
    np.testing.assert_array_equal(found[0, 0].numpy(), expected)
    assert found[0, 1].sum() == 0, "an empty map has no box"
    # At 0.95 of the maximum the second region falls away.
    assert box_masks(cam, 0.95)[0, 0].sum() == 4


def test_open_boxes_leave_out_the_last_row_and_column_of_the_map():
    """As in CLIP-ES's code, where a box's far corner is cut at side - 1; boxes that end before are whole."""
    cam = torch.zeros(1, 1, 6, 7)
    cam[0, 0, 1:3, 1:3] = 1
    cam[0, 0, 4:6, 4:7] = 1  # reaches the corner
    expected = np.zeros((6, 7))
    expected[1:3, 1:3] = 1
    expected[4:5, 4:6] = 1
    np.testing.assert_array_equal(box_masks(cam, 0.4, "open")[0, 0].numpy(), expected)
    alike = torch.eye(42)[None]
    np.testing.assert_array_equal(spread(cam, alike, 0.4, "open")[0, 0].numpy(), expected)


def test_a_faint_map_stays_faint_where_something_is_added_to_its_range():
    faint = 1e-7 * torch.tensor([[0.0, 1.0], [3.0, 2.0]])
    torch.testing.assert_close(unit_range(faint), torch.tensor([[0, 1 / 3], [1, 2 / 3]]))
    torch.testing.assert_close(unit_range(faint, 1e-7), torch.tensor([[0, 0.25], [0.75, 0.5]]))
    torch.testing.assert_close(unit_range(1e7 * faint, 1e-7), unit_range(faint), atol=1e-6, rtol=0)


def test_spread_multiplies_by_columns_inside_the_boxes_only():
    torch.manual_seed(0)
    cam, affinity = torch.rand(2, 3, 4, 5), torch.rand(2, 20, 20)
    boxes = box_masks(cam, 0.9).numpy().reshape(2, 3, 20)
    found = spread(cam, affinity, 0.9).numpy()
    for b in range(2):
        for p in range(3):
            matrix = affinity[b].numpy() * boxes[b, p][None, :]  # columns outside set to zero
            values = matrix @ cam[b, p].numpy().ravel()
            values = (values - values.min()) / (values.max() - values.min())
            np.testing.assert_allclose(found[b, p].ravel(), values, atol=1e-5)


def test_feature_similarity_joins_equal_features():
    features = torch.zeros(1, 2, 1, 4)
    features[0, 0, 0, :2] = features[0, 1, 0, 2:] = 3.0  # two pairs of equal, mutually orthogonal positions
    found = feature_similarity(features)[0]
    torch.testing.assert_close(found.sum(1), torch.ones(4))
    assert found[0, 1] > 0.49 and found[0, 2] < 1e-4 and found[3, 2] > 0.49


# --- refinement


def guided_by_loops(image, score, radius, eps):
    """The guided filter from its definition: a least-squares fit in every window, averaged over windows."""
    pad = lambda x: np.pad(x, [(radius, radius)] * 2 + [(0, 0)] * (x.ndim - 2), mode="symmetric")  # noqa: E731
    guide, target = pad(image / 255.0), pad(score.astype(float))
    height, width = score.shape
    fits = np.zeros((height, width, 4))
    for y in range(height):
        for x in range(width):
            colours = guide[y : y + 2 * radius + 1, x : x + 2 * radius + 1].reshape(-1, 3)
            values = target[y : y + 2 * radius + 1, x : x + 2 * radius + 1].ravel()
            centred = colours - colours.mean(0)
            matrix = centred.T @ centred / len(colours) + eps * np.eye(3)
            slope = np.linalg.solve(matrix, centred.T @ (values - values.mean()) / len(colours))
            fits[y, x] = [*slope, values.mean() - slope @ colours.mean(0)]
    out, fits = np.zeros_like(score, float), pad(fits)
    for y in range(height):
        for x in range(width):
            mean = fits[y : y + 2 * radius + 1, x : x + 2 * radius + 1].reshape(-1, 4).mean(0)
            out[y, x] = mean[:3] @ (image[y, x] / 255.0) + mean[3]
    return out


def test_guided_filter_equals_its_definition():
    rng = np.random.default_rng(0)
    image, score = rng.integers(0, 256, (9, 11, 3), dtype=np.uint8), rng.random((9, 11))
    found = refine.guided_filter(image, score, radius=2, eps=1e-2)
    np.testing.assert_allclose(found, guided_by_loops(image, score, 2, 1e-2), atol=1e-4)


def square_scene(size=48):
    """A dark square on a light ground, its mask, and a blurred, shifted guess of it as probabilities."""
    rng = np.random.default_rng(1)
    image = np.full((size, size, 3), 210, np.uint8)
    truth = np.zeros((size, size), bool)
    truth[14:34, 12:36] = True
    image[truth] = (40, 60, 90)
    image = np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
    y, x = np.mgrid[:size, :size]
    guess = np.exp(-((y - 26) ** 2 + (x - 27) ** 2) / (2 * 10**2)).astype(np.float32)
    return image, truth, np.stack([1 - guess, guess])


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("name", [name for name in refine.REFINERS if name != "none"])
def test_refiners_bring_a_blurred_guess_closer_to_the_outline(name):
    if name == "crf" and not refine.crf_installed():
        pytest.skip("pydensecrf2 is not installed: the extra tlg-lib[crf]")
    image, truth, probability = square_scene()
    refined = refine.REFINERS[name](image, probability)
    assert refined.shape == probability.shape and refined.dtype == np.float32
    np.testing.assert_allclose(refined.sum(0), 1, atol=1e-4)
    before, after = iou(probability.argmax(0) == 1, truth), iou(refined.argmax(0) == 1, truth)
    assert before < 0.85 and after > before + 0.03
    again = refine.REFINERS[name](image, probability)
    np.testing.assert_array_equal(refined, again)


def test_grabcut_leaves_a_map_without_seeds_as_it_is():
    image = np.zeros((20, 20, 3), np.uint8)
    probability = np.stack([np.full((20, 20), 0.9), np.full((20, 20), 0.1)]).astype(np.float32)
    np.testing.assert_allclose(refine.refine_grabcut(image, probability), probability, atol=1e-6)


def test_missing_crf_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr(refine, "crf_installed", lambda: False)
    with pytest.raises(TLGError, match=r"tlg-lib\[crf\]") as caught:
        refine.refine_crf(np.zeros((4, 4, 3), np.uint8), np.ones((2, 4, 4), np.float32) / 2)
    assert caught.value.code == 3
    assert "crf" not in refine.available_refiners()


def test_grabcut_does_not_depend_on_what_ran_before_or_beside_it():
    """Its colour models start from a random k-means: every call seeds it, in its own thread."""
    from concurrent.futures import ThreadPoolExecutor

    image, _, probability = square_scene()
    alone = refine.refine_grabcut(image, probability)
    with ThreadPoolExecutor(3) as pool:
        beside = list(pool.map(lambda _: refine.refine_grabcut(image, probability), range(6)))
    assert all(np.array_equal(alone, other) for other in beside)
