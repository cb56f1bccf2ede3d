"""The authors' checkpoints into ours and back, and what is refused."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
import torchvision

from tlg_lib.backbones import LAYOUTS
from tlg_lib.checkpoints import load_checkpoint
from tlg_lib.cli import main
from tlg_lib.config import make_config
from tlg_lib.errors import TLGError
from tlg_lib.model import build_model
from tlg_lib.released.convert import beside, convert_back, convert_file, from_release, read_release, release_key
from tlg_lib.text_prior import random_text_vectors

SHARED = Path(os.environ.get("TLG_SHARED", Path(__file__).resolve().parents[3] / "shared"))
SHAPES = SHARED / "parity" / "state_dict_shapes.json"


def release_shapes(backbone):
    """Names and shapes of the release: the published list where it is at hand, else those of our own model."""
    if SHAPES.is_file():
        return {k: tuple(v) for k, v in json.loads(SHAPES.read_text())[backbone].items()}
    config = make_config("pascal", variant="released", backbone=backbone)
    model = build_model(config, LAYOUTS[backbone], random_text_vectors(1, 512))
    return {release_key(k): tuple(v.shape) for k, v in model.state_dict().items()}


def release_state(backbone="resnet50", with_backbone=False):
    generator = torch.Generator().manual_seed(0)
    state = {k: torch.randn(shape, generator=generator) for k, shape in release_shapes(backbone).items()}
    state["bn.num_batches_tracked"] = torch.tensor(7)
    state |= {"conv1024_512.weight": torch.ones(512, 1024, 1, 1), "conv1024_512.bias": torch.ones(512)}
    state |= {"voc_conv_bach.weight": torch.ones(3, 3, 1, 1), "coco_conv_batch.weight": torch.ones(4, 4, 1, 1)}
    if with_backbone:
        network = getattr(torchvision.models, backbone)(weights=None)
        state |= {f"backbone.{k}": v for k, v in network.state_dict().items()}
    return {f"module.{k}": v for k, v in state.items()}


@pytest.mark.parametrize("backbone", ["resnet50", "vgg16"])
def test_names_and_shapes_are_those_of_the_release(backbone):
    if not SHAPES.is_file():
        pytest.skip(f"no list of the release's names at {SHAPES} (set TLG_SHARED)")
    config = make_config("pascal", variant="released", backbone=backbone)
    model = build_model(config, LAYOUTS[backbone], random_text_vectors(1, 512))
    ours = {release_key(k): tuple(v.shape) for k, v in model.state_dict().items()}
    theirs = release_shapes(backbone)
    extra = {k for k in theirs if k not in ours}
    assert {k: theirs[k] for k in ours} == ours
    idle = {"conv_1024_128", "conv_2048_128"} if backbone == "vgg16" else set()
    assert {k.split(".")[0] for k in extra} == idle


def test_there_and_back_again(tmp_path, capsys):
    source, ours, back = tmp_path / "theirs.pt", tmp_path / "ours.safetensors", tmp_path / "back.pt"
    state = release_state(with_backbone=True)
    torch.save(state, source)
    with pytest.raises(SystemExit) as done:
        main(["convert-release", str(source), "--out", str(ours), "--fold", "2"])
    assert done.value.code == 0 and "variant=released, resnet50" in capsys.readouterr().out

    checkpoint = load_checkpoint(ours)
    assert (checkpoint.config.variant, checkpoint.config.fold) == ("released", 2)
    assert checkpoint.config.backbone_weights == str(beside(ours, "backbone"))
    model = build_model(checkpoint.config, LAYOUTS["resnet50"], random_text_vectors(20, 512))
    model.load_state_dict(checkpoint.weights, strict=True)
    assert torch.equal(model.aggregation.fuse.weight, state["module.final_cat.weight"])
    assert torch.equal(
        model.encoder.mix43[2].conv.other.bias, state["module.hpn_learner.encoder_layer4to3.6.conv2.bias"]
    )
    assert torch.equal(model.transport.norm.running_var, state["module.bn.running_var"])

    assert convert_back(ours, back) == len(state)
    again = torch.load(back, weights_only=True)
    assert sorted(again) == sorted(state)
    assert all(torch.equal(again[k], state[k]) for k in state)


@pytest.mark.parametrize("back", [False, True])
def test_neither_the_source_nor_any_other_file_is_written_over(tmp_path, capsys, back):
    source = tmp_path / "net.safetensors"
    source.write_bytes(b"precious")
    (tmp_path / "link.pt").symlink_to(source)
    os.link(source, tmp_path / "second.pt")
    (tmp_path / "mine.safetensors").write_bytes(b"mine")
    (tmp_path / "other-backbone.safetensors").write_bytes(b"mine")
    outs = ["net.safetensors", "link.pt", "second.pt", "mine.safetensors"] + ["other.safetensors"] * (not back)
    for out in outs:
        with pytest.raises(SystemExit) as done:
            main(["convert-release", str(source), "--out", str(tmp_path / out)] + ["--back"] * back)
        assert done.value.code == 2 and "would be overwritten: name another file" in capsys.readouterr().err
    assert source.read_bytes() == b"precious" and (tmp_path / "mine.safetensors").read_bytes() == b"mine"
    assert (tmp_path / "link.pt").is_symlink() and len(list(tmp_path.iterdir())) == 5


def test_unknown_missing_and_misshapen_keys_are_listed_by_name(tmp_path):
    state = release_state(with_backbone=True)
    del state["module.final_cat.bias"], state["module.backbone.layer2.0.conv1.weight"]
    state["module.final_dog.bias"] = torch.ones(1)
    state["module.proj.weight"] = torch.ones(2, 2)
    torch.save(state, tmp_path / "theirs.pt")
    with pytest.raises(TLGError) as raised:
        convert_file(tmp_path / "theirs.pt", tmp_path / "ours.safetensors")
    message = str(raised.value)
    assert "unknown keys: final_dog.bias" in message
    assert "missing keys: final_cat.bias, backbone.layer2.0.conv1.weight" in message
    assert "another shape: proj.weight" in message
    assert not (tmp_path / "ours.safetensors").exists()


def test_vgg_is_recognised_and_its_idle_reductions_kept():
    state = {k.removeprefix("module."): v for k, v in release_state("vgg16").items()}
    state["conv_2048_128.weight"] = torch.ones(128, 2048, 1, 1)
    converted = from_release(state)
    assert converted.config.backbone == "vgg16" and converted.backbone == {}
    assert "conv_2048_128.weight" in converted.unused


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


def test_a_pickle_bomb_is_refused_unopened(tmp_path):
    for name, data in (("raw.pt", pickle.dumps(Bomb(tmp_path / "exploded"), protocol=2)), ("text.pt", b"hello")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(TLGError, match="use the authors' original file"):
            read_release(tmp_path / name)
    torch.save({"a": Bomb(tmp_path / "exploded")}, tmp_path / "zip.pt")
    with pytest.raises(TLGError, match="not opened"):
        read_release(tmp_path / "zip.pt")
    assert not (tmp_path / "exploded").exists()


def test_other_files_are_told_apart(tmp_path):
    with pytest.raises(TLGError, match="no checkpoint"):
        read_release(tmp_path / "absent.pt")
    torch.save({"fc.weight": torch.ones(2)}, tmp_path / "other.pt")
    with pytest.raises(TLGError, match="not a checkpoint of the release"):
        from_release(read_release(tmp_path / "other.pt"))
    with pytest.raises(KeyError):
        release_key("aggregation.reduce.low_512.weight")
