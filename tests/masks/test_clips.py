"""The CLIP interface: embedded model, its checksum and words, official names, limits of prompts."""

import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tlg_lib.data.mini.render import render
from tlg_lib.errors import TLGError
from tlg_lib.masks import clips
from tlg_lib.masks.cam import class_maps
from tlg_lib.masks.clips import MINI, WordTokenizer, load_clip
from tlg_lib.masks.prompts import load_prompts


@pytest.fixture(scope="module")
def clip():
    return load_clip("mini")


@pytest.fixture(scope="module")
def pictures():
    """Two pictures per class with test glyphs, of a seed used nowhere else: images, labels, classes."""
    drawn = [(render(77, c, i, "val", 128), c) for c in range(20) for i in (50, 52)]  # of one class each
    images = torch.stack([torch.from_numpy(picture.copy()).permute(2, 0, 1) for (_, picture, _), _ in drawn])
    images = F.interpolate(images.float(), (256, 256), mode="bilinear", antialias=True)
    return images, np.stack([label for (_, _, label), _ in drawn]), [c for _, c in drawn]


def test_the_mini_clip_is_frozen_small_and_says_where_it_comes_from(clip):
    assert clip.kind == "cnn" and clip.name == "mini" and clip.weights.startswith("sha256:")
    assert not clip.model.training and not any(p.requires_grad for p in clip.model.parameters())
    assert (MINI / "weights.safetensors").stat().st_size <= 8e6
    rows = clip.encode_text(["a clean origami dog.", "sky"])
    assert rows.shape == (2, clip.dim) and rows.dtype == torch.float32
    assert torch.allclose(rows.norm(dim=1), torch.ones(2), atol=1e-6)


def test_early_stages_are_the_pip_package_s(clip):
    from tlg_lib.backbones import load_backbone
    from tlg_lib.config import make_config

    images = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8)
    theirs = load_backbone(make_config("mini"))(images)[7]  # last layer of stride 16
    x = (images.float() - 127) / 128
    trunk = clip.model.visual.trunk
    x = trunk.bn1(trunk.conv_stem(x))
    for stage in trunk.blocks[:5]:
        x = stage(x)
    assert torch.allclose(clip.normalize(images), (images.float() - 127) / 128)
    assert torch.allclose(x, theirs, atol=1e-5)


def test_map_then_pool_equals_the_whole_tower(clip):
    images = torch.randint(0, 256, (2, 3, 128, 160), dtype=torch.uint8)
    maps = clip.visual_features(clip.normalize(images))
    assert maps.shape[2:] == (4, 5)
    whole = F.normalize(clip.model.encode_image(clip.normalize(images)), dim=-1)
    assert torch.allclose(clip.pool_and_project(maps), whole, atol=1e-6)
    assert torch.allclose(clip.encode_image(images), whole, atol=1e-6)


def test_it_recognises_classes_far_above_chance(clip, pictures):
    images, _, classes = pictures
    text = clip.encode_text(load_prompts("mini").class_prompts())
    best = (clip.encode_image(images) @ text.T).argmax(1).tolist()
    assert np.mean([a == b for a, b in zip(best, classes)]) >= 0.4  # chance is 0.05


def test_its_grad_cam_points_at_the_object(clip, pictures):
    images, labels, classes = pictures
    prompts = load_prompts("mini")
    text = clip.encode_text(prompts.class_prompts())[classes][:, None]
    background = clip.encode_text(prompts.background_prompts())
    maps = class_maps(clip, images, text, torch.ones(len(classes), 1, dtype=torch.bool), background).cam
    cam = F.interpolate(maps, labels.shape[1:], mode="bilinear")[:, 0].numpy()
    inside = np.array([label == c + 1 for label, c in zip(labels, classes)])
    gain = [m[i].mean() / max(m.mean(), 1e-9) for m, i in zip(cam, inside)]  # 1 for a map that knows nothing
    assert np.mean(gain) > 1.5


def test_synonyms_of_a_class_lie_together(clip):
    prompts = load_prompts("mini")
    plain = clip.encode_text([prompts.fill(name) for name in prompts.classes])
    nearest = (plain @ clip.encode_text(prompts.class_prompts()).T).argmax(1)
    assert nearest.tolist() == list(range(20))


def test_unknown_words_are_named_and_read_alike(clip):
    assert clip.unknown_words("a clean origami zebra, near WATER!") == ["zebra", "near"]
    same = clip.encode_text(["a clean origami zebra.", "a clean origami xylophone.", "a clean origami dog."])
    assert torch.equal(same[0], same[1]) and not torch.allclose(same[0], same[2], atol=0.05)
    prompts = load_prompts("mini")
    said = [*prompts.class_prompts(), *prompts.background_prompts(), *prompts.attributes, *prompts.background]
    assert [word for text in said for word in clip.unknown_words(text)] == []


def test_word_tokens_by_hand():
    tokenizer = WordTokenizer(["a", "cat", "on"], context_length=6)
    assert tokenizer("A cat, on mars")[0].tolist() == [2, 3, 4, 5, 1, 6]
    assert tokenizer(["cat"])[0].tolist() == [2, 4, 6, 0, 0, 0]
    assert tokenizer.vocab_size == 7  # the end mark is the highest id, as open_clip's pooling needs


def test_too_long_a_prompt_is_refused_by_name(clip):
    limit = clip.tokenizer.context_length
    clip.encode_text([" ".join(["cat"] * (limit - 2))])
    with pytest.raises(TLGError, match=f"prompt 'dog dog .*takes {limit + 1} tokens, mini reads {limit}"):
        clip.encode_text(["cat", " ".join(["dog"] * (limit - 1))])


def test_a_changed_weights_file_is_refused(tmp_path, monkeypatch):
    shutil.copytree(MINI, tmp_path / "mini_clip")
    weights = tmp_path / "mini_clip" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    monkeypatch.setattr(clips, "MINI", tmp_path / "mini_clip")
    with pytest.raises(TLGError, match="weights.safetensors: SHA-256 .*restore") as caught:
        load_clip("mini")
    assert caught.value.code == 3


def test_files_that_do_not_fit_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"visual.head.proj.weight": torch.zeros(3, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(TLGError, match="other.safetensors does not fit the mini CLIP"):
        load_clip("mini", tmp_path / "other.safetensors")
    with pytest.raises(TLGError, match="no weights of the mini CLIP at .*gone"):
        load_clip("mini", tmp_path / "gone.safetensors")
    with pytest.raises(TLGError, match="clip_weights=.*gone.pt: no such file"):
        load_clip("ViT-B-32/openai", tmp_path / "gone.pt")


@pytest.mark.parametrize(
    "name, message",
    [
        ("ViT-B-23/openai", "unknown CLIP model 'ViT-B-23/openai': did you mean ViT-B-32"),
        ("ViT-B-32/opnai", "'ViT-B-32' has no weights 'opnai': choose one of openai"),
        ("ViT-B-32", "'ViT-B-32' names no weights: write ViT-B-32/TAG"),
    ],
)
def test_wrong_official_names(name, message):
    with pytest.raises(TLGError, match=message):
        load_clip(name)


def test_offline_is_one_line_with_the_remedy(monkeypatch, caplog):
    import logging

    import open_clip

    def offline(*_, **__):
        logging.getLogger("a.transport").error("a line of its own")
        raise ConnectionError("Name or service not known\nmore lines")

    monkeypatch.setattr(open_clip, "create_model", offline)
    with pytest.raises(TLGError, match="cannot get the weights of ViT-B-32/openai .*clip_weights=FILE") as caught:
        load_clip("ViT-B-32/openai")
    assert caught.value.code == 7 and not caplog.records
    logging.getLogger("a.transport").error("heard again")
    assert [record.message for record in caplog.records] == ["heard again"]


def test_attention_pooling_agrees_with_open_clip_at_its_own_size():
    from open_clip.modified_resnet import AttentionPool2d

    torch.manual_seed(0)
    pool = AttentionPool2d(4, 64, num_heads=4, output_dim=32)
    features = torch.randn(2, 64, 4, 4)
    assert torch.allclose(clips._attention_pool(pool, features), pool(features), atol=1e-5)
    assert clips._attention_pool(pool, torch.randn(1, 64, 3, 7)).shape == (1, 32)


def test_openais_own_file_runs_with_quick_gelu_whatever_the_name(tmp_path, monkeypatch):
    import json
    import zipfile
    from types import SimpleNamespace

    import open_clip

    tower = {"layers": 2, "width": 64, "patch_size": 16, "image_size": 32, "head_width": 32}
    words = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    (tmp_path / "tlg-test-vit.json").write_text(json.dumps({"embed_dim": 16, "vision_cfg": tower, "text_cfg": words}))
    open_clip.add_model_config(tmp_path / "tlg-test-vit.json")
    torch.manual_seed(0)
    quick, plain = (open_clip.create_model("tlg-test-vit", force_quick_gelu=q).eval() for q in (True, False))
    plain.load_state_dict(quick.state_dict())
    state = {**quick.state_dict(), **{k: torch.tensor(1) for k in ("input_resolution", "context_length", "vocab_size")}}
    with zipfile.ZipFile(tmp_path / "openai.pt", "w") as archive:
        archive.writestr("model/constants.pkl", b"")
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: SimpleNamespace(state_dict=lambda: dict(state)))
    loaded = load_clip("tlg-test-vit", tmp_path / "openai.pt").model
    pixels = 3 * torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded.encode_image(pixels), quick.encode_image(pixels))
        assert (plain.encode_image(pixels) - quick.encode_image(pixels)).abs().max() > 1e-4  # the test can tell
