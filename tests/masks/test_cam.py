"""CAM and attention of vision transformers against open_clip's own forward pass and torch's own attention."""

import gc
import weakref
from types import SimpleNamespace

import cv2
import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F

from tlg_lib.errors import TLGError
from tlg_lib.masks import cam as cam_module
from tlg_lib.masks.cam import attention_weights, class_maps, gradient_at, recorded_attention, resize_positions

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}


def vision(**changes):
    return {"image_size": 64, "layers": 3, "width": 48, "head_width": 16, "patch_size": 16, **changes}


def random_clip(**changes):
    """A small open_clip ViT with random weights, wrapped as tlg_lib.masks.clips.Clip is."""
    torch.manual_seed(3)
    model = open_clip.CLIP(embed_dim=24, vision_cfg=vision(**changes), text_cfg=TEXT).eval().requires_grad_(False)
    for parameter in model.visual.parameters():  # the default start is nearly the same for every patch
        parameter.add_(0.2 * torch.randn_like(parameter))
    return SimpleNamespace(
        name="tiny ViT, random weights", kind="vit", model=model, normalize=lambda images: images.float() / 127.5 - 1
    )


def inputs(batch, height, width, classes=3, background=5):
    generator = torch.Generator().manual_seed(height + width)
    images = torch.randint(0, 256, (batch, 3, height, width), generator=generator, dtype=torch.uint8)
    unit = lambda *shape: F.normalize(torch.randn(*shape, generator=generator), dim=-1)  # noqa: E731
    return images, unit(batch, classes, 24), unit(background, 24)


def cam_by_autograd(clip, image, text, background):
    """The CAM of every class of one image from open_clip's unmodified forward; numpy float64 [P, h, w].

    The oracle is a second model, built for this image size, that pools by averaging its patch tokens after
    ln_post: its plain ``visual(image)`` is the embedding that CLIP-ES scores.
    """
    height, width = image.shape[-2:]
    other = open_clip.CLIP(
        embed_dim=24, vision_cfg=vision(image_size=(height, width), pool_type="avg"), text_cfg=TEXT
    ).eval()
    state = clip.model.state_dict()
    old = state["visual.positional_embedding"]
    grid = old[1:].reshape(4, 4, -1).numpy()
    # OpenCV samples at pixel centres and repeats the border, as bilinear resizing is defined.
    resized = cv2.resize(grid, (width // 16, height // 16), interpolation=cv2.INTER_LINEAR)
    state["visual.positional_embedding"] = torch.cat([old[:1], torch.from_numpy(resized.reshape(-1, 48))])
    other.load_state_dict(state)
    kept = []
    handle = other.visual.transformer.resblocks[-1].ln_1.register_forward_hook(
        lambda module, args, output: kept.append(output)
    )
    embed = other.visual(clip.normalize(image[None]))[0]
    handle.remove()
    logits = 100 * torch.cat([text, background]) @ (embed / embed.norm())
    maps = []
    for k in range(len(text)):
        gradient = torch.autograd.grad(logits.softmax(0)[k], kept[0], retain_graph=True)[0][0, 1:].double().numpy()
        tokens = kept[0].detach()[0, 1:].double().numpy()  # [h*w, C]
        values = np.maximum(tokens @ gradient.mean(0), 0).reshape(height // 16, width // 16)
        maps.append((values - values.min()) / max(values.max() - values.min(), 1e-300))
    return np.stack(maps)


@pytest.mark.parametrize("size", [(64, 64), (96, 144)])
def test_cam_equals_autograd_on_the_unmodified_forward(size):
    clip = random_clip()
    images, text, background = inputs(2, *size)
    found = class_maps(clip, images, text, torch.ones(2, 3, dtype=torch.bool), background)
    assert found.cam.shape == (2, 3, size[0] // 16, size[1] // 16)
    for i in range(2):
        expected = cam_by_autograd(clip, images[i], text[i], background)
        assert expected.max(axis=(1, 2)).min() == 1, "the oracle's maps are not all zero"
        np.testing.assert_allclose(found.cam[i].numpy(), expected, atol=1e-5)


def test_vit_b_32_at_another_resolution():
    """The stock architecture, cut to two blocks: nothing is tied to the small configuration above."""
    torch.manual_seed(0)
    config = open_clip.get_model_config("ViT-B-32")
    config["vision_cfg"]["layers"], config["text_cfg"]["layers"] = 2, 1
    model = open_clip.CLIP(**config).eval().requires_grad_(False)
    clip = SimpleNamespace(name="ViT-B-32", kind="vit", model=model, normalize=lambda x: x.float() / 127.5 - 1)
    images = torch.randint(0, 256, (1, 3, 96, 160), dtype=torch.uint8)
    text = F.normalize(torch.randn(1, 2, config["embed_dim"]), dim=-1)
    found = class_maps(clip, images, text, torch.ones(1, 2, dtype=torch.bool), text[0])
    assert found.cam.shape == (1, 2, 3, 5) and found.attention.shape == (1, 15, 15)
    assert torch.isfinite(found.cam).all()


@pytest.mark.parametrize("size", [(64, 64), (80, 48)])
def test_recorded_attention_equals_torchs_weights(size):
    clip = random_clip()
    pixels = clip.normalize(inputs(2, *size)[0])
    visual = clip.model.visual
    entering = []
    handles = [
        block.attn.register_forward_pre_hook(lambda module, args: entering.append(args[0]))
        for block in visual.transformer.resblocks
    ]
    with recorded_attention(visual, blocks=2) as weights, torch.no_grad():
        x = cam_module.embed_patches(visual, pixels)
        for block in visual.transformer.resblocks:
            x = block(x)
    for handle in handles:
        handle.remove()
    assert len(weights) == 2 and len(entering) == 3
    for found, tokens, block in zip(weights, entering[-2:], list(visual.transformer.resblocks)[-2:]):
        _, expected = block.attn(tokens, tokens, tokens, need_weights=True, average_attn_weights=True)
        assert expected.std() > 1e-3, "uniform weights would prove nothing"
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_attention_of_a_module_with_the_sequence_first():
    torch.manual_seed(0)
    module = torch.nn.MultiheadAttention(24, 3, batch_first=False)
    x = torch.randn(7, 2, 24)
    _, expected = module(x, x, x, need_weights=True)
    torch.testing.assert_close(attention_weights(module, x), expected, atol=1e-5, rtol=0)


def test_padding_changes_nothing_and_has_no_map():
    clip = random_clip()
    images, text, background = inputs(2, 64, 64)
    present = torch.tensor([[True, True, True], [True, False, False]])
    both = class_maps(clip, images, text, present, background)
    alone = class_maps(clip, images[1:], text[1:, :1], torch.ones(1, 1, dtype=torch.bool), background)
    torch.testing.assert_close(both.cam[1, :1], alone.cam[0], atol=1e-5, rtol=1e-4)
    assert both.cam[1, 1:].abs().max() == 0
    torch.testing.assert_close(both.probability[1, 0], alone.probability[0, 0])


def test_nothing_before_the_last_block_keeps_a_graph_and_parameters_get_no_gradient():
    clip = random_clip()
    clip.model.requires_grad_(True)
    images, text, background = inputs(1, 64, 64)
    seen = []
    first = clip.model.visual.transformer.resblocks[0]
    handle = first.register_forward_hook(lambda module, args, output: seen.append(output.requires_grad))
    class_maps(clip, images, text, torch.ones(1, 3, dtype=torch.bool), background)
    handle.remove()
    assert seen == [False]
    assert all(parameter.grad is None for parameter in clip.model.parameters())


def hooks_of(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


def test_no_hook_and_no_memory_is_left_after_an_error_inside():
    clip = random_clip()
    images, text, background = inputs(1, 64, 64)
    kept = []

    def fail(module, args):
        kept.append(weakref.ref(args[0]))
        raise RuntimeError("broken on purpose")

    last = clip.model.visual.transformer.resblocks[-1]
    handle = last.mlp.register_forward_pre_hook(fail)  # inside both contexts: after ln_1 and after attention
    with pytest.raises(RuntimeError, match="on purpose"):
        class_maps(clip, images, text, torch.ones(1, 3, dtype=torch.bool), background)
    handle.remove()
    assert hooks_of(clip.model) == 0
    gc.collect()
    assert kept and kept[0]() is None, "the activation is still alive"
    class_maps(clip, images, text, torch.ones(1, 3, dtype=torch.bool), background)
    assert hooks_of(clip.model) == 0


def test_contexts_remove_their_hooks_and_release_what_they_recorded():
    clip = random_clip()
    visual = clip.model.visual
    with pytest.raises(ValueError), recorded_attention(visual) as weights:
        visual.transformer.resblocks[0](torch.randn(1, 17, 48))
        matrix = weakref.ref(weights[0])
        raise ValueError
    del weights
    gc.collect()
    assert matrix() is None and hooks_of(clip.model) == 0
    with pytest.raises(ValueError), gradient_at(visual.ln_post):
        raise ValueError
    assert hooks_of(clip.model) == 0


def test_bfloat16_blocks_give_nearly_the_same_map():
    clip = random_clip()
    images, text, background = inputs(2, 96, 96)
    present = torch.ones(2, 3, dtype=torch.bool)
    full, half = (class_maps(clip, images, text, present, background, half=h) for h in (False, True))
    assert full.cam.dtype == half.cam.dtype == torch.float32
    assert 0 < (full.cam - half.cam).abs().mean() < 0.02


def test_class_token_is_kept_when_positions_are_resized():
    embedding = torch.randn(1 + 4, 6)
    resized = resize_positions(embedding, (2, 2), (4, 2))
    assert resized.shape == (9, 6) and torch.equal(resized[0], embedding[0])
    # Rows 0 and 3 of four lie beyond the outer centres of two: bilinear repeats the border there.
    torch.testing.assert_close(resized[1:3], embedding[1:3])
    torch.testing.assert_close(resized[7:], embedding[3:])
    assert resize_positions(embedding, (2, 2), (2, 2)) is embedding


def test_towers_that_cannot_be_read_are_named():
    with pytest.raises(TLGError, match="ModifiedResNet"):
        cam_module.checked_transformer(
            open_clip.CLIP(
                embed_dim=16, vision_cfg={"image_size": 64, "layers": (1, 1, 1, 1), "width": 8}, text_cfg=TEXT
            ).visual
        )
    pooled = random_clip(attentional_pool=True, attn_pooler_heads=2)
    with pytest.raises(TLGError, match="attention pooling"):
        cam_module.checked_transformer(pooled.model.visual)
    with pytest.raises(ValueError, match="no multiple of the patch"):
        cam_module.embed_patches(random_clip().model.visual, torch.zeros(1, 3, 60, 64))


def test_plain_grad_cam_of_a_convolutional_tower():
    """With mean pooling and one linear layer the gradient is known in closed form."""
    torch.manual_seed(1)
    weight, features = torch.randn(6, 4), torch.rand(1, 6, 3, 5)
    clip = SimpleNamespace(
        name="linear",
        kind="cnn",
        normalize=lambda x: x,
        visual_features=lambda x: features,
        pool_and_project=lambda f: F.normalize(f.mean((2, 3)) @ weight, dim=-1),
    )
    text, background = F.normalize(torch.randn(1, 2, 4), dim=-1), F.normalize(torch.randn(3, 4), dim=-1)
    found = class_maps(clip, torch.zeros(1, 3, 8, 8), text, torch.ones(1, 2, dtype=torch.bool), background)
    pooled = features.mean((2, 3))[0].double().numpy()
    w, vectors = weight.double().numpy(), torch.cat([text[0], background]).double().numpy()
    raw = pooled @ w
    norm = np.linalg.norm(raw)
    logits = 100 * vectors @ raw / norm
    share = np.exp(logits - logits.max())
    share /= share.sum()
    for k in range(2):
        by_logit = share[k] * (np.eye(5)[k] - share)  # d softmax_k / d logits
        by_raw = 100 * (by_logit @ vectors) @ (np.eye(4) / norm - np.outer(raw, raw) / norm**3)
        by_pooled = w @ by_raw  # every position of a channel has this gradient / 15
        values = np.maximum((features[0].double().numpy() * by_pooled[:, None, None]).sum(0), 0)
        values = (values - values.min()) / (values.max() - values.min()) if values.max() > 0 else values
        np.testing.assert_allclose(found.cam[0, k].numpy(), values, atol=1e-4)
    np.testing.assert_allclose(found.probability[0].numpy(), share[:2], atol=1e-5)
    assert found.attention is None
