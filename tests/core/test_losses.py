"""Losses against plain formulas on tiny maps."""

import pytest
import torch
import torch.nn.functional as F

from tlg_lib.config import choices, make_config
from tlg_lib.losses import cross_entropy, l2_of_everything, prepare_target, query_loss, remedy, soft_dice

LOGITS = torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([[[0, 1, 255], [1, 1, 0], [0, 0, 255]], [[1, 0, 0], [255, 255, 255], [1, 1, 0]]])


def by_hand():
    per_image = []
    for b in range(2):
        total, norm = 0.0, 0
        for y in range(3):
            for x in range(3):
                if TARGET[b, y, x] == 255:
                    continue
                p = LOGITS[b, :, y, x].softmax(0)[TARGET[b, y, x]]
                total += -float(p.log())
                norm += 1
        per_image.append(total / max(1, norm))
    return sum(per_image) / 2


@pytest.mark.parametrize("kind", choices("noisy_targets"))
def test_drawn_targets_need_no_remedy(kind):
    plain, named = (make_config("mini", supervision="pixel", noisy_targets=k) for k in ("none", kind))
    assert named.dice, "Dice beside cross-entropy"
    assert remedy(named) == "none" and remedy(named.replace(supervision="image")) == kind
    torch.testing.assert_close(query_loss(LOGITS, TARGET, named), query_loss(LOGITS, TARGET, plain))


def test_cross_entropy_ignores_255_and_averages_images():
    assert float(cross_entropy(LOGITS, TARGET)) == pytest.approx(by_hand(), abs=1e-6)


def test_released_counts_255_as_background():
    config = make_config("mini", variant="released")
    filled = torch.where(TARGET == 255, 0, TARGET)
    assert torch.equal(prepare_target(TARGET, config), filled)
    assert float(query_loss(LOGITS, TARGET, config)) == pytest.approx(float(F.cross_entropy(LOGITS, filled)), abs=1e-6)


def test_l2_term_is_the_sum_of_norms():
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([[5.0, 12.0]])
    assert float(l2_of_everything([a, b])) == pytest.approx(18.0)


def test_dice_by_hand():
    total = 0.0
    for b in range(2):
        overlap = size = 0.0
        for y in range(3):
            for x in range(3):
                if TARGET[b, y, x] != 255:
                    p, t = float(LOGITS[b, :, y, x].softmax(0)[1]), int(TARGET[b, y, x])
                    overlap, size = overlap + p * t, size + p + t
        total += 1 - (2 * overlap + 1) / (size + 1)
    assert float(soft_dice(LOGITS, TARGET)) == pytest.approx(total / 2, abs=1e-6)
    with_dice, without = (make_config("mini", dice=d) for d in (2.0, 0.0))
    difference = query_loss(LOGITS, TARGET, with_dice) - query_loss(LOGITS, TARGET, without)
    assert float(difference) == pytest.approx(total, abs=1e-5)


def test_an_empty_target_has_no_dice_and_no_gradient():
    logits = torch.randn(2, 2, 6, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = torch.zeros(2, 6, 7, dtype=torch.long)
    target[1, 2:4, 1:5] = 1
    soft_dice(logits, target).backward()
    assert (logits.grad[0] == 0).all() and logits.grad[1].abs().sum() > 0
    p, t = logits[1].softmax(0)[1].detach(), (target[1] == 1).float()
    by_hand = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
    assert float(soft_dice(logits.detach(), target)) == pytest.approx(float(by_hand) / 2, abs=1e-6)
    assert float(soft_dice(logits.detach(), target.new_full((2, 6, 7), 255))) == 0
