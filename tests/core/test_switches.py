"""Each switch changes what it says and nothing else, alone on `released` and alone off from `extended`."""

import pytest
import torch
from test_model import SMALL, built, inputs, small

from tlg_lib.capture import capture
from tlg_lib.config import SWITCHES as RELEASED_SWITCHES
from tlg_lib.config import VARIANT_SWITCHES, make_config
from tlg_lib.errors import TLGError
from tlg_lib.model import check_switches

# what `released` sets, every switch by its own name
RELEASED = {k: v for k, v in VARIANT_SWITCHES["released"].items() if k != "as_released"}
RELEASED |= {name: released for name, (released, _) in RELEASED_SWITCHES.items()}
CORR = ("corr_query/", "corr_support/", "conv4d_", "after4d_")
FEATURES = ("ha/q_low", "ha/q_mid", "ha/q_hig", "ha/s_low", "ha/s_mid", "ha/s_hig", "ha/q_cat", "ha/s_cat")
MERGE = ("ha/q_merge", "ha/s_merge")
TEXT = ("hc/text_",)

# switch: (value that `released` does not have, tensors that must change, tensors that must not)
SWITCHES = {
    "transport": (
        "differentiable",
        ("attn/q_cross", "ht/q_bn"),
        (*CORR, *FEATURES, *MERGE, *TEXT, "attn/q_self", "ot/"),
    ),
    "transport_reg": (0.1, ("ot/q_plan",), (*CORR, *FEATURES, *MERGE, *TEXT, "ot/q_cost")),
    "tokens": ("grid", ("attn/q_tokens",), (*CORR, *FEATURES, *MERGE, *TEXT, "ht/q_res", "ht/s_res")),
    "token_skip": (True, ("hc/q_multimodal", "logits_query"), (*CORR, *FEATURES, *MERGE, *TEXT, "attn/", "ht/", "ot/")),
    "key_value": ("separate", ("attn/q_self",), (*CORR, *FEATURES, *MERGE, *TEXT, "attn/q_tokens", "ht/q_res")),
    "second_attention": ("across", ("attn/q_cross",), (*CORR, *FEATURES, *MERGE, *TEXT, "attn/q_self")),
    "query_residual": ("own", ("ht/q_res",), (*CORR, *FEATURES, *MERGE, *TEXT, "attn/", "ot/", "ht/s_res")),
    "correlation_grid": ("own", MERGE, (*CORR, *FEATURES, *TEXT, "ht/q_res", "ht/s_res")),
    "correlation_pool": (
        2,
        ("corr_query/l2", "corr_support/l2", "conv4d_query/sqz2"),
        (*FEATURES, *TEXT, "corr_query/l3", "corr_support/l3", "conv4d_support/sqz4", "ht/q_res"),
    ),
    "mask_support": (True, ("corr_query/l2", "corr_support/l2"), (*FEATURES, *TEXT, "ht/q_res", "ht/s_res")),
    "text_maps": ("learned", ("hc/text_merge", "hc/q_multimodal"), (*CORR, *FEATURES, *MERGE, "attn/", "ht/", "ot/")),
    "prototype_prior": (True, ("dec/q_dec1",), (*CORR, *FEATURES, *MERGE, *TEXT, "attn/", "ht/", "hc/", "dec/q_in")),
    "query_mask": ("none", ("dec/q_res",), (*CORR, *FEATURES, *MERGE, *TEXT, "ht/", "hc/", "dec/q_in", "dec/q_dec2")),
    "train_hetero": (True, (), (*CORR, *FEATURES, *MERGE, *TEXT, "attn/", "ht/", "ot/", "hc/", "dec/", "logits_")),
    "reductions": ("per_level", (), (*CORR, *TEXT)),
}

TRAINING = {
    "ignore_255",
    "dice",
    "support_loss",
    "mask_dropout",
    "noisy_targets",
    "trusted_vote",
}  # of losses.py and train.py


def forward(config, weights=None):
    """All named tensors of one pass; parameters take the values of ``weights`` where name and shape agree."""
    model = built(config).eval()
    if weights is not None:
        own = model.state_dict()
        model.load_state_dict(
            {k: weights[k] if k in weights and weights[k].shape == v.shape else v for k, v in own.items()}
        )
    with torch.no_grad(), capture(model) as seen:
        model(*inputs(config))
    return seen, model.state_dict()


def chosen(names, prefixes):
    return [name for name in names if name.startswith(tuple(prefixes))] if prefixes else []


@pytest.mark.parametrize("switch", sorted(SWITCHES))
def test_a_switch_alone_on_released(switch):
    value, moves, stays = SWITCHES[switch]
    base = small("released")
    assert base.to_dict()[switch] != value
    before, weights = forward(base)
    after, _ = forward(base.replace(**{switch: value}), weights)
    for name in chosen(after, stays):
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=0, msg=lambda m, n=name: f"{n}: {m}")
    moved = chosen(after, moves)
    assert len(moved) >= len(moves)
    for name in moved:
        assert before[name].shape != after[name].shape or not torch.equal(before[name], after[name]), name


def test_every_network_switch_of_released_is_covered():
    assert set(RELEASED) - TRAINING - {"token_count"} <= set(SWITCHES)


@pytest.mark.parametrize("switch", sorted(set(RELEASED) - TRAINING))
def test_a_switch_alone_off_from_extended_still_trains(switch):
    config = small("extended").replace(**{switch: RELEASED[switch]})
    model = built(config).train()
    output = model(*inputs(config))
    (output.query_logits.sum() + output.support_logits.sum()).backward()
    assert model.encoder.squeeze2[0].conv.this.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "parts",
    [
        dict(use_ht=False),
        dict(use_hc=False),
        dict(use_ha=False, use_ht=False),
        dict(use_ha=False, use_ht=False, use_hc=False),
    ],
)
def test_parts_can_be_left_out(parts):
    for variant in ("released", "extended"):
        config = small(variant).replace(**parts)
        if variant == "released" and not (config.use_ha or config.use_hc):
            continue
        names = {name.split(".")[0] for name, _ in built(config).named_parameters()}
        assert ("aggregation" in names, "transport" in names, "text" in names) == (
            config.use_ha,
            config.use_ht,
            config.use_hc,
        )
        assert built(config)(*inputs(config)).query_logits.isfinite().all()


def test_train_hetero_decides_what_learns():
    for value in (False, True):
        config = small("released", train_hetero=value)
        model = built(config).train()
        model(*inputs(config)).query_logits.sum().backward()
        assert (model.aggregation.fuse.weight.grad is not None) == value


def test_text_maps_decide_whether_the_projection_learns():
    for value in ("frozen", "learned"):
        model = built(small("extended", text_maps=value)).train()
        model(*inputs(small("extended"))).query_logits.sum().backward()
        assert (model.text.project.weight.grad is not None) == (value == "learned")
    assert torch.equal(model.text.maps(torch.arange(2))["query"], torch.ones(2, 1, *model.text.size))  # begins at 1


def test_shared_reductions_of_vgg_are_one_convolution():
    assert set(built(small("released", backbone="vgg16")).aggregation.reduce) == {"512"}
    assert set(built(small("extended", backbone="vgg16")).aggregation.reduce) == {"low_512", "mid_512", "high_512"}


def test_combinations_that_cannot_run_are_refused_with_the_reason():
    with pytest.raises(TLGError, match="last of widths_4d must equal width"):
        check_switches(make_config("mini", **{**SMALL, "width": 32}))
    with pytest.raises(TLGError, match="token_count=400.*64 positions"):
        check_switches(make_config("mini", **{**SMALL, "token_count": 400}))
    with pytest.raises(TLGError, match="nothing to detach"):
        check_switches(small("released").replace(use_ha=False, use_ht=False, use_hc=False))
