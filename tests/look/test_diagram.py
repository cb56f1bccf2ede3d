"""The drawing of the network: every tensor on it exists, and the shapes are those that a forward pass leaves."""

import re
import xml.etree.ElementTree as ElementTree

import pytest
import torch

from tlg_lib.backbones import LAYOUTS
from tlg_lib.config import make_config
from tlg_lib.errors import TLGError
from tlg_lib.look.diagram import PARTS, network_svg, tensor_shapes
from tlg_lib.model import TLG
from tlg_lib.text_prior import random_text_vectors


def words(svg: str) -> list[str]:
    return [e.text or "" for e in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("variant", ["corrected", "released", "hsnet"])
def test_every_tensor_shown_exists_and_has_the_shape_that_stands_below_it(variant):
    config = make_config("mini", variant=variant)
    layout = LAYOUTS[config.backbone]
    names = set(TLG(config, layout.channels, layout.levels, random_text_vectors(2, 512)).tensor_names())
    shown = words(network_svg(config))
    tensors = [(i, w) for i, w in enumerate(shown) if "/" in w or w.startswith(("logits", "after4d"))]
    assert {w for _, w in tensors} <= names
    shapes, _ = tensor_shapes(config)
    for i, name in tensors:
        assert shown[i + 1] == "×".join(map(str, shapes[name])), name
    assert len(tensors) >= (16 if variant != "hsnet" else 7)


def test_shapes_follow_from_sizes_that_are_known_without_the_network():
    shapes, weights = tensor_shapes(make_config("mini"))
    assert shapes["after4d_query"] == (32, 16, 16)  # 128 pixels at stride 8, width 32
    assert shapes["logits_query"] == (2, 128, 128)
    assert shapes["ot/q_plan"] == (16, 16)  # token_count
    decoder = 9 * 32 * (32 + 9) + 32 + 9 * 32 * 16 + 16 + 9 * 16 * 16 + 16 + 9 * 16 * 2 + 2 + 12 * 10 + 10 + 20 + 2
    assert weights["decoder"] == decoder


def test_a_lit_part_stands_out_and_an_unknown_or_absent_one_is_refused():
    config = make_config("mini")
    plain, lit = network_svg(config), network_svg(config, "transport")
    assert words(plain) == words(lit) and plain != lit
    assert lit.count('fill="#FAFAFA"') == sum(len(rows) for _, _, rows, *_ in PARTS.values()) - 2 - 2
    with pytest.raises(TLGError, match="no part 'neck'"):
        network_svg(config, "neck")
    with pytest.raises(TLGError, match="no part 'transport'.*choose one of backbone, correlation"):
        network_svg(config.replace(use_ht=False), "transport")


def test_the_drawing_is_the_same_each_time_and_holds_no_script(monkeypatch):
    torch.manual_seed(1)
    first = network_svg(make_config("mini"))
    torch.manual_seed(2)
    assert network_svg(make_config("mini")) == first
    assert not re.search(r"<script|href=|https?://(?!www\.w3\.org)", first)
