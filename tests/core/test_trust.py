"""The vote of network, prototypes and mask, and the choice of the trust in the mask, against plain arithmetic."""

import numpy as np
import pytest
import torch

from tlg_lib import trust
from tlg_lib.batches import EpisodeBatch
from tlg_lib.episodes import Episode
from tlg_lib.protocol import held_out


def test_the_vote_by_hand():
    network, free, mask = 0.9, 0.2, 0.0
    voices = torch.tensor([network, free, mask]).view(3, 1, 1, 1, 1)
    # Votes of +0.8, -0.6 and -1: 0.75 x 0.8 - 0.25 x 0.6 - 0.25 = 0.2, of at most 1.25.
    assert float(trust.combine(voices, 0.75, 0.25)) == pytest.approx((1 + 0.2 / 1.25) / 2)
    assert float(trust.combine(voices, 1.0, 0.0)) == pytest.approx(network)
    assert float(trust.combine(voices, 0.0, 0.0)) == pytest.approx(free)


def test_full_trust_is_the_mask_and_no_trust_leaves_it_out():
    generator = torch.Generator().manual_seed(0)
    voices = torch.rand(3, 2, 1, 8, 8, generator=generator)
    voices[2] = (voices[2] < 0.5).float()
    for share in trust.SHARES:
        assert torch.equal(trust.combine(voices, share, 1.0) >= 0.5, voices[2] == 1)
        other = voices.clone()
        other[2] = 1 - other[2]
        torch.testing.assert_close(trust.combine(voices, share, 0.0), trust.combine(other, share, 0.0))


class Fixed:
    """A model whose three voices are given per query; with_mask as of TLG."""

    with_mask, levels = True, ((0,), (1,), (2,))

    def __init__(self, voices):
        self.voices = voices


def episodes_of(truth, voices, monkeypatch):
    """Episodes i0, i1, ... of two classes with these truths [E, H, W] and voices [3, E, H, W]."""
    episodes = [Episode(f"i{n}", ("s",), n % 2) for n in range(len(truth))]

    def make(some):
        at = [int(e.query[1:]) for e in some]
        mask, empty = voices[2, at][:, None], torch.zeros(len(at), 1, 1)
        ids = torch.tensor([e.class_id for e in some])
        batch = EpisodeBatch(some, [], [[]], mask, mask[:, None], empty.long(), empty.long(), truth[at], ids)
        batch.at = at
        return batch

    monkeypatch.setattr(trust, "votes", lambda model, batch: voices[:, batch.at][:, :, None])
    return episodes, make


def miou_by_hand(prediction, truth):
    per_class = []
    for c in (0, 1):
        p, t = prediction[c::2], truth[c::2] == 1
        per_class.append(float((p & t).sum()) / float((p | t).sum()))
    return 100 * np.mean(per_class)


@pytest.mark.parametrize("wrong", [0.02, 0.2, 0.45])
def test_the_choice_is_the_greatest_trust_near_the_best(wrong, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    truth = (torch.rand(20, 16, 16, generator=generator) < 0.4).long()

    def flawed(share):
        return torch.where(torch.rand(truth.shape, generator=generator) < share, 1 - truth, truth).float()

    network = 0.5 + (flawed(0.15) - 0.5) * torch.rand(truth.shape, generator=generator)
    voices = torch.stack((network, 0.5 + 0.4 * (flawed(0.25) - 0.5), flawed(wrong)))
    episodes, make = episodes_of(truth, voices, monkeypatch)
    share, chosen = trust.choose(Fixed(voices), episodes, make)
    reached = {}
    for s in trust.SHARES:
        for t in trust.TRUSTS:
            z = s * (2 * voices[0] - 1) + (1 - s) * (2 * voices[1] - 1) + t * (2 * voices[2] - 1)
            reached[s, t] = miou_by_hand(z >= 0, truth)
    best = max(reached.values())
    assert reached[share, chosen] >= best - trust.WORTH - 1e-6
    assert not any(t > chosen and miou >= best - trust.WORTH for (_, t), miou in reached.items())
    assert reached[share, chosen] >= reached[1.0, 1.0] - trust.WORTH  # the mask itself is among what is compared
    assert (chosen == 1.0) == (wrong == 0.02)


def witnesses(truth_of, seed):
    """Flat maps that agree with a truth by chance alone: each flips its own share of the pixels."""
    generator = torch.Generator().manual_seed(seed)
    truth = (torch.rand(4, 64, 64, generator=generator) < 0.5).float()
    return truth, [
        torch.where(torch.rand(truth.shape, generator=generator) < flipped, 1 - truth, truth) for flipped in truth_of
    ]


@pytest.mark.parametrize("wrong", [0.05, 0.2, 0.4])
def test_agreement_is_the_correlation_within_images(wrong, monkeypatch):
    truth, (mask, said) = witnesses((wrong, 0.25), seed=3)
    mask[0] = 1  # an image that the mask covers has nothing to say
    episodes, make = episodes_of(truth.long(), torch.stack((said, said, mask)), monkeypatch)

    class Classes:
        def probability(self, batch, levels):
            batch.truth = None  # what is not there cannot be read
            return said[batch.at]

    found = trust.agreement(Classes(), episodes, make, None)
    inside = [x.numpy() - x.numpy().mean((1, 2), keepdims=True) for x in (mask, said)]
    assert found == pytest.approx(np.corrcoef(*(x.ravel() for x in inside))[0, 1], abs=1e-5)
    assert found == pytest.approx((1 - 2 * wrong) * 0.5 * 0.75**0.5, abs=0.03)  # by chance alone; one of four is blank


def test_masks_against_their_class_or_blank_are_given_the_least_trust(monkeypatch):
    truth, (said,) = witnesses((0.2,), seed=4)
    classes = Fixed(None)
    classes.probability = lambda batch, levels: said[batch.at]
    for mask in (1 - truth, torch.ones_like(truth)):
        episodes, make = episodes_of(truth.long(), torch.stack((said, said, mask)), monkeypatch)
        assert trust.trust_from(trust.agreement(classes, episodes, make, None)) == trust.LEAST


def test_trust_grows_with_agreement_up_to_all():
    assert trust.trust_from(-0.3) == trust.trust_from(0.0) == trust.LEAST
    assert trust.trust_from(trust.REACH * 0.5**0.5) == pytest.approx(2 * trust.LEAST)  # half is explained
    assert trust.trust_from(0.5) < trust.trust_from(0.54) == trust.trust_from(1.0) == 1.0
    values = [trust.trust_from(c) for c in np.linspace(0, 1, 50)]
    assert values == sorted(values)


def test_what_is_held_out_is_a_seventh_and_the_same_everywhere():
    images = [f"2008_{n:06d}" for n in range(4000)]
    assert 0.13 < np.mean([held_out(image) for image in images]) < 0.17
    assert [held_out(image) for image in images[:12]] == [held_out(image) for image in images[:12]]
