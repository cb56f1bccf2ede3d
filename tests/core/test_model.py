"""The whole network: sizes, who depends on what, gradients, shots."""

import pytest
import torch

from tlg_lib.backbones import LAYOUTS
from tlg_lib.capture import capture
from tlg_lib.checkpoints import load_weights
from tlg_lib.config import make_config
from tlg_lib.errors import TLGError
from tlg_lib.model import build_model, predict_shots
from tlg_lib.text_prior import random_text_vectors

SMALL = dict(width=16, widths_4d=(4, 8, 16), image_size=(64, 64), token_count=8, dropout=0.0)


def inputs(config, batch=2, seed=0):
    """Random maps, blocky masks and class ids of one batch of episodes, in the order of TLG.forward."""
    generator = torch.Generator().manual_seed(seed)
    layout = LAYOUTS[config.backbone]

    def maps():
        return [
            torch.randn(batch, layout.channels[layer], *grid, generator=generator)
            for grid, layers in zip(layout.grids(config.image_size), layout.levels)
            for layer in layers
        ]

    blocks = (torch.rand(2, batch, 1, 4, 4, generator=generator) > 0.5).float()
    masks = [torch.nn.functional.interpolate(m, size=config.image_size) for m in blocks]
    return maps(), maps(), *masks, torch.arange(batch)


def small(variant, **overrides):
    return make_config("mini", variant=variant, **{**SMALL, **overrides})


def built(config):
    return build_model(config, LAYOUTS[config.backbone], random_text_vectors(4, 32))


@pytest.mark.parametrize("size", [(128, 128), (224, 224), (320, 400), (400, 400)])
@pytest.mark.parametrize("variant", ["extended", "released"])
def test_every_size_runs(variant, size):
    config = make_config("mini", variant=variant, image_size=size, width=16, widths_4d=(4, 8, 16))
    with torch.no_grad():
        output = built(config)(*inputs(config, batch=1), need_support=False)
    assert output.query_logits.shape == (1, 2, *size)
    assert output.query_logits.isfinite().all()


@pytest.mark.parametrize("backbone", ["resnet50", "vgg16"])
@pytest.mark.parametrize("size", [(64, 64), (80, 112), (136, 144)])
def test_other_backbones_and_odd_sizes_run(backbone, size):
    config = small("extended", backbone=backbone, image_size=size)
    with torch.no_grad():
        output = built(config)(*inputs(config))
    assert output.query_logits.shape == output.support_logits.shape == (2, 2, *size)


@pytest.mark.parametrize("query_mask", ["pseudo", "none"])
def test_every_parameter_of_extended_learns(query_mask):
    config = small("extended", query_mask=query_mask)
    model = built(config).train()
    output = model(*inputs(config))
    (output.query_logits.square().mean() + output.support_logits.square().mean()).backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_exactly_encoder_and_decoder_of_released_learn():
    config = small("released")
    model = built(config).train()
    output = model(*inputs(config))
    (output.query_logits.square().mean() + output.support_logits.square().mean()).backward()
    for name, p in model.named_parameters():
        learns = name.startswith(("encoder.", "decoder."))
        assert (p.grad is not None and bool(p.grad.any())) == learns, name


def changed(config, which):
    """Whether the query's logits move when input number ``which`` is replaced."""
    model = built(config).eval()
    first, second = list(inputs(config)), list(inputs(config))
    second[which] = inputs(config, seed=5)[which] if which < 2 else 1 - second[which]
    with torch.no_grad():
        return not torch.equal(model(*first).query_logits, model(*second).query_logits)


def test_only_extended_looks_at_the_support_mask():
    assert not changed(small("released"), 3)
    assert changed(small("extended"), 3)
    assert changed(small("extended", prototype_prior=False), 3)
    assert changed(small("hsnet"), 3)


def test_nothing_of_the_query_mask_leaks_in_without_it():
    assert changed(small("extended"), 2)
    for variant in ("extended", "released", "hsnet"):
        assert not changed(small(variant, query_mask="none"), 2)


def test_the_support_matters_in_every_variant():
    for variant in ("extended", "released", "hsnet"):
        assert changed(small(variant), 1)


@pytest.mark.parametrize("variant", ["extended", "released", "hsnet"])
def test_skipping_the_support_changes_nothing_for_the_query(variant):
    config = small(variant)
    model = built(config).eval()
    with torch.no_grad():
        both, alone = model(*inputs(config)), model(*inputs(config), need_support=False)
    assert alone.support_logits is None
    torch.testing.assert_close(alone.query_logits, both.query_logits, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "parts, beside",
    [
        (dict(use_ht=False, use_hc=False), "ha/{}_merge"),
        (dict(use_hc=False, token_skip=False), "ht/{}_out"),
        (dict(use_ha=False, use_ht=False), "hc/{}_multimodal"),
        (dict(use_ht=False), "hc/{}_multimodal"),
        (dict(use_ha=False, use_ht=False, use_hc=False), ""),
    ],
)
def test_the_decoder_is_given_the_4d_map_and_what_the_last_part_made_beside_it(parts, beside):
    config = small("extended", **parts)
    model = built(config).eval()
    with torch.no_grad(), capture(model) as seen:
        model(*inputs(config))
    for branch in ("query", "support"):
        other = seen[beside.format(branch[0])] if beside else 0
        torch.testing.assert_close(seen[f"dec/{branch[0]}_in"], seen[f"after4d_{branch}"] + other)


def test_one_direction_is_computed_where_one_is_enough():
    config = small("extended")
    model = built(config).eval()
    with torch.no_grad(), capture(model) as seen:
        model(*inputs(config), need_support=False)
    assert "conv4d_query/mix432" in seen and "conv4d_support/mix432" not in seen


def test_pooled_directions_are_the_same_network_with_the_images_exchanged():
    config = small("extended", mask_support=False)
    model = built(config).eval()
    query, support, query_mask, support_mask, ids = inputs(config)
    names = ["corr_query/l2", "corr_support/l2", "after4d_query", "after4d_support"]
    with torch.no_grad(), capture(model, names) as seen:
        model(query, support, query_mask, support_mask, ids)
        first = dict(seen)
        model(support, query, support_mask, query_mask, ids)
    for kind in ("corr_{}/l2", "after4d_{}"):
        torch.testing.assert_close(first[kind.format("support")], seen[kind.format("query")])
    assert first["corr_query/l2"].shape[2:] == (8, 8, 2, 2)


@pytest.mark.parametrize("size", [(64, 64), (192, 192)])  # maps correlated at once, and in parts
@pytest.mark.parametrize(
    "variant, switches",
    [
        ("extended", {}),
        ("extended", dict(correlation_grid="other")),
        ("extended", dict(correlation_pool=1)),
        ("extended", dict(use_ht=False)),
        ("extended", dict(second_attention="within", query_residual="support")),
        ("extended", dict(query_mask="none")),
        ("hsnet", {}),
        ("released", {}),
    ],
)
def test_shots_in_one_batch_are_the_single_shots(variant, switches, size):
    config = small(variant, image_size=size, **switches)
    model = built(config).eval()
    query, support, query_mask, support_mask, classes = inputs(config)
    _, other, _, other_mask, _ = inputs(config, seed=1)
    shots = [(support, support_mask), (other, other_mask), (support, support_mask)]
    found = predict_shots(model, query, shots, query_mask, classes)
    assert found.shape == (3, 2, *size)
    torch.testing.assert_close(predict_shots(model, query, shots[:1], query_mask, classes)[0], found[0])
    assert (found[0] - found[1]).abs().max() > 1e-4 > 1e-5 > (found[0] - found[2]).abs().max()
    for (maps, mask), probability in zip(shots, found):
        with torch.no_grad():
            logits = model(query, maps, query_mask, mask, classes).query_logits
        torch.testing.assert_close(probability, logits.softmax(1)[:, 1], rtol=1e-4, atol=1e-5)


def test_the_seed_decides_the_weights():
    def first(seed):
        return built(small("extended", seed=seed)).encoder.squeeze4[0].conv.this.weight

    assert torch.equal(first(1), first(1)) and not torch.equal(first(1), first(2))


def test_leaving_out_a_part_does_not_change_where_the_others_start():
    whole = built(small("extended")).state_dict()
    for switch in (dict(use_ht=False), dict(use_hc=False), dict(prototype_prior=False)):
        rest = built(small("extended", **switch)).state_dict()
        wider = {k.rpartition(".")[0] for k in rest if rest[k].shape != whole[k].shape}  # layers with another input
        shared = [k for k in rest if k.rpartition(".")[0] not in wider]
        assert len(shared) > 50 and set(rest) <= set(whole)
        assert all(torch.equal(rest[k], whole[k]) for k in shared)


def test_text_vectors_are_needed_and_must_fit():
    config = small("extended")
    with pytest.raises(TLGError, match="use_hc=true needs text vectors"):
        build_model(config, LAYOUTS[config.backbone])
    with pytest.raises(TLGError, match="32"):
        built(config).text.set_vectors(random_text_vectors(4, 16))


def test_capture_takes_what_is_asked_and_lets_go():
    config = small("extended")
    model = built(config).eval()
    with capture(model, ["ot/q_plan", "prior/query"]) as seen:
        model(*inputs(config))
    assert sorted(seen) == ["ot/q_plan", "prior/query"]
    model(*inputs(config, seed=2))
    assert sorted(seen) == ["ot/q_plan", "prior/query"]
    assert seen["prior/query"].min() >= 0 and seen["prior/query"].max() <= 1
    with pytest.raises(TLGError, match="no tensor named 'nothing'"), capture(model, ["nothing"]):
        pass


@pytest.mark.parametrize("variant", ["extended", "released", "hsnet"])
def test_named_tensors_are_the_recorded_ones(variant):
    config = small(variant)
    model = built(config)
    with capture(model) as seen:
        model(*inputs(config))
    assert sorted(seen) == sorted(model.tensor_names())


def test_weights_of_another_width_are_refused_in_one_line():
    other = built(small("extended", prototype_prior=False)).state_dict()
    with pytest.raises(TLGError, match="do not fit its config.*train again"):
        load_weights(built(small("extended")), other)
