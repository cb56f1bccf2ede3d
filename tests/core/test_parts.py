"""HA, HC and the decoder, each against the same thing written out with torch's own functions."""

import pytest
import torch
import torch.nn.functional as F

from tlg_lib.aggregation import HeterogeneousAggregation, branch_layers, resize
from tlg_lib.decoder import Decoder
from tlg_lib.text_prior import HeterogeneousText, TextVectors, random_text_vectors, text_vectors

LEVELS, CHANNELS = ((0, 1), (2, 3, 4), (5,)), (4, 4, 6, 6, 6, 8)
GRIDS = [(9, 12), (5, 6), (3, 3)]


def features(seed):
    generator = torch.Generator().manual_seed(seed)
    sides = [grid for grid, level in zip(GRIDS, LEVELS) for _ in level]
    return [torch.randn(2, c, *side, generator=generator) for c, side in zip(CHANNELS, sides)]


def up(x, size):
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def test_first_layers_speak_for_the_query_and_last_ones_for_the_support():
    assert branch_layers(LEVELS) == {"query": (0, 2, 5), "support": (1, 4, 5)}


@pytest.mark.parametrize("branch, layers", [("query", (0, 2, 5)), ("support", (1, 4, 5))])
def test_aggregation_reduces_resizes_and_fuses_the_branchs_layers(branch, layers):
    torch.manual_seed(0)
    ha = HeterogeneousAggregation(CHANNELS, LEVELS, width=7)
    maps = features(1)
    names = [f"{level}_{CHANNELS[i]}" for level, i in zip(("low", "mid", "high"), layers)]
    by_hand = [F.conv2d(maps[i], ha.reduce[n].weight, ha.reduce[n].bias) for i, n in zip(layers, names)]
    reduced = ha.reduced(maps, branch)
    for a, b in zip(reduced, by_hand):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(ha.middle(maps, branch), by_hand[1])
    fused = ha(reduced, branch)
    joined = torch.cat([by_hand[0], *(up(x, GRIDS[0]) for x in by_hand[1:])], 1)
    torch.testing.assert_close(fused, F.conv2d(joined, ha.fuse.weight, ha.fuse.bias))
    correlation = torch.randn(2, 7, *GRIDS[0])
    expected = F.conv2d(torch.cat([fused, correlation], 1), ha.merge.weight)
    torch.testing.assert_close(ha.merged(fused, correlation, branch), expected)
    assert expected.shape == (2, 7, *GRIDS[0]) and ha.merge.bias is None


def test_one_reduction_per_width_where_they_are_shared_as_released():
    channels = (8,) * 6
    shared, own = (HeterogeneousAggregation(channels, LEVELS, 4, shared=s) for s in (True, False))
    assert list(shared.reduce) == ["8"] and sorted(own.reduce) == ["high_8", "low_8", "mid_8"]


def test_a_map_of_the_right_size_is_handed_on_as_it_is():
    x = torch.randn(1, 2, 3, 4)
    assert resize(x, [3, 4]) is x and torch.equal(resize(x, (6, 4)), up(x, (6, 4)))


def text(learned):
    torch.manual_seed(1)
    return HeterogeneousText(random_text_vectors(5, 6), (3, 4), learned)


def test_learned_text_maps_begin_as_doing_nothing():
    hc, x = text(True), torch.randn(2, 4, 6, 8)
    for branch, text_map in hc.maps(torch.tensor([1, 3])).items():
        assert torch.equal(text_map, torch.ones(2, 1, 3, 4))
        assert torch.equal(hc(x, text_map, branch), x)


@pytest.mark.parametrize("learned", [True, False])
def test_text_maps_by_hand(learned):
    hc, ids, x = text(learned), torch.tensor([4, 2]), torch.randn(2, 4, 6, 8)
    with torch.no_grad():
        hc.project.weight.normal_()
        hc.mix.weight.copy_(torch.tensor([0.3, -0.8]).view(1, 2, 1, 1))
    project = lambda v: F.linear(v[ids], hc.project.weight, hc.project.bias).view(2, 1, 3, 4)  # noqa: E731
    name, attribute, background = (
        1 + 0.1 * project(v) if learned else project(v) for v in (hc.name, hc.attribute, hc.background)
    )
    maps = hc.maps(ids)
    torch.testing.assert_close(maps["support"], attribute)
    torch.testing.assert_close(maps["query"], 0.3 * name - 0.8 * background + hc.mix.bias)
    assert maps["query"].requires_grad == learned
    down = lambda v, size: F.interpolate(v, size=size, mode="bilinear", align_corners=False)  # noqa: E731
    expected = x * down(attribute, (6, 8)) if learned else down(down(x, (3, 4)) * attribute, (6, 8))
    torch.testing.assert_close(hc(x, maps["support"], "support"), expected)


class Clip:
    """Encodes a sentence as its length and the number of its commas."""

    def encode_text(self, sentences):
        self.seen = sentences
        return torch.tensor([[float(len(s)), float(s.count(","))] for s in sentences])


def test_text_vectors_are_no_weights_as_the_words_may_change():
    text = HeterogeneousText(random_text_vectors(3, 16), (4, 4), learned=True)
    before = set(text.state_dict())
    text.set_vectors(random_text_vectors(5, 16))
    assert before == set(text.state_dict()) == {name for name, _ in text.named_parameters()}


def test_text_vectors_have_unit_length_and_one_prompt_per_class():
    class Prompts:
        template, names = "a {}!", [("cat", "kitty"), ("dog",)]
        attributes, background = ["cat with paws", "dog"], ["road,park", "sea"]

    clip = Clip()
    vectors = text_vectors(clip, Prompts)
    assert clip.seen == ["a road,park!", "a sea!"] and vectors.dim == 2
    expected = F.normalize(torch.tensor([[len("a cat,kitty!"), 1.0], [len("a dog!"), 0.0]]), dim=1)
    torch.testing.assert_close(vectors.name, expected)
    for kind in TextVectors.KINDS:
        torch.testing.assert_close(getattr(vectors, kind).norm(dim=1), torch.ones(2))
        torch.testing.assert_close(getattr(random_text_vectors(3, 9), kind).norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("mask, prior", [(True, 3), (True, 0), (False, 3), (False, 0)])
def test_the_decoder_written_out(mask, prior):
    torch.manual_seed(2)
    decoder = Decoder(6, mask, prior)
    x, size = torch.randn(2, 6, 5, 7), (41, 55)
    m = (torch.rand(2, 1, *size) > 0.5).float() if mask else None
    p = torch.rand(2, prior, 5, 7) if prior else None
    conv = lambda layer, y: F.conv2d(y, layer.weight, layer.bias, padding=layer.kernel_size[0] // 2)  # noqa: E731
    y = torch.cat([x, p], 1) if prior else x
    y = conv(decoder.stage1[2], conv(decoder.stage1[0], y).relu()).relu()
    y = conv(decoder.stage2[2], conv(decoder.stage2[0], up(y, (10, 14))).relu())
    y = torch.cat([y, *(up(z, (10, 14)) for z in (m, p) if z is not None)], 1)
    y = conv(decoder.res[2], F.gelu(conv(decoder.res[0], y)))
    torch.testing.assert_close(decoder(x, m, p, size, "query"), up(y, size))
    wide = [layer.out_channels for part in (decoder.stage1, decoder.stage2, decoder.res) for layer in part[::2]]
    assert wide == [6, 3, 3, 2, 10, 2]
