"""Softmax Grad-CAM of a CLIP image tower: where it looks for a class, against other classes and background.

Vision transformers follow CLIP-ES (Lin et al., CVPR 2023; docs/design.md, 5): any input size, the gradient
taken at ``ln_1`` of the last block, and the attention weights of the last blocks recomputed on the way.
Convolutional towers use plain Grad-CAM (Selvaraju et al., ICCV 2017) at their last stage.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import TLGError

LOGIT_SCALE = 100.0  # CLIP's logit scale after training
ATTENTION_BLOCKS = 8


@dataclass
class ClassMaps:
    """Result for B images of one size on the tower's grid h x w.

    cam: 0..1 [B, P, h, w]; probability: softmax share of each class [B, P]; attention: mean over heads and
    blocks, without the class token, [B, h*w, h*w], or None for convolutional towers; features: the maps from
    which the CAM is a weighted sum, [B, C, h, w].
    """

    cam: Tensor
    probability: Tensor
    attention: Tensor | None
    features: Tensor


def class_maps(
    clip,
    images: Tensor,
    text: Tensor,
    present: Tensor,
    background: Tensor,
    half: bool = False,
    blocks: int = ATTENTION_BLOCKS,
    eps: float = 0.0,
) -> ClassMaps:
    """Class activation maps of a batch.

    clip: tlg_lib.masks.clips.Clip; images: uint8 RGB [B, 3, H, W] (for transformers H, W multiples of the patch);
    text: unit rows [B, P, D], the classes of each image, padded to P; present: bool [B, P], False = padding;
    background: unit rows [Bg, D]. half: bfloat16 for all blocks before the last. eps: as of unit_range.
    Returns ClassMaps; maps of padding are zero.
    """
    pixels = clip.normalize(images)
    if clip.kind == "vit":
        visual = checked_transformer(clip.model.visual)
        features, embed, attention = _transformer_parts(visual, pixels, half, blocks)
    else:
        with torch.no_grad(), _autocast(pixels, half):
            features = clip.visual_features(pixels)
        features = features.float().detach().requires_grad_()  # [B, C, h, w]
        with torch.enable_grad():
            embed, attention = clip.pool_and_project(features), None
    with torch.enable_grad():
        scores = softmax_scores(embed, text, present, background)  # [B, P]
    maps = []
    for k in range(text.shape[1]):
        # Images do not influence each other, so one backward pass serves the k-th class of all of them.
        (gradient,) = torch.autograd.grad(scores[:, k].sum(), features, retain_graph=k + 1 < text.shape[1])
        maps.append(grad_cam(_to_grid(features.detach(), pixels, clip), _to_grid(gradient, pixels, clip)))
    cam = unit_range(torch.stack(maps, 1), eps) * present[:, :, None, None]  # [B, P, h, w]
    return ClassMaps(cam, scores.detach(), attention, _to_grid(features.detach(), pixels, clip))


def softmax_scores(embed: Tensor, text: Tensor, present: Tensor, background: Tensor) -> Tensor:
    """Share of each present class in a softmax over the present classes and the background words.

    embed [B, D] (any length), text [B, P, D], present bool [B, P], background [Bg, D]. Returns [B, P].
    """
    embed = F.normalize(embed.float(), dim=-1)
    classes = torch.einsum("bd,bpd->bp", embed, text.float()).masked_fill(~present, float("-inf"))
    others = embed @ background.float().T  # [B, Bg]
    return (LOGIT_SCALE * torch.cat([classes, others], 1)).softmax(1)[:, : text.shape[1]]


def grad_cam(features: Tensor, gradient: Tensor) -> Tensor:
    """ReLU of the channels' sum weighted by the spatial mean of their gradient; [B, C, h, w] -> [B, h, w]."""
    weights = gradient.mean((2, 3), keepdim=True)  # [B, C, 1, 1]
    return (weights * features).sum(1).relu()


def unit_range(maps: Tensor, eps: float = 0.0) -> Tensor:
    """Each map [..., h, w] shifted and scaled to 0..1; a constant map becomes 0.

    eps is added to the divisor, as CLIP-ES adds 1e-7: a map that hardly differs from 0 then stays low.
    """
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low + eps).clamp_min(torch.finfo(maps.dtype).tiny)


def _to_grid(x: Tensor, pixels: Tensor, clip) -> Tensor:
    """Tokens [B, 1 + h*w, C] without the class token as a map [B, C, h, w]; maps stay as they are."""
    if x.dim() == 4:
        return x
    grid = [side // patch for side, patch in zip(pixels.shape[-2:], clip.model.visual.patch_size)]
    return x[:, 1:].unflatten(1, grid).permute(0, 3, 1, 2)


# --- vision transformers of open_clip


def checked_transformer(visual) -> nn.Module:
    """The tower, if it is one that this module can read; TLGError naming its kind otherwise."""
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
    if not blocks or not all(isinstance(block.attn, nn.MultiheadAttention) for block in blocks):
        raise TLGError(
            f"image tower {type(visual).__name__}: masks need an open_clip VisionTransformer with "
            "standard attention, as ViT-B-16-quickgelu, or a convolutional tower, as RN50"
        )
    if getattr(visual, "attn_pool", None) is not None or visual.proj is None:
        raise TLGError("image tower with attention pooling or without projection: take another, as ViT-B-16")
    return visual


def resize_positions(embedding: Tensor, grid: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
    """Position embedding [1 + g*g', C] for another grid: class token kept, grid bilinear. -> [1 + h*w, C]."""
    if grid == wanted:
        return embedding
    first, rest = embedding[:1], embedding[1:].unflatten(0, grid).permute(2, 0, 1)  # [C, g, g']
    rest = F.interpolate(rest[None].float(), wanted, mode="bilinear", align_corners=False)[0]
    return torch.cat([first, rest.flatten(1).T.to(first.dtype)])


def embed_patches(visual, pixels: Tensor) -> Tensor:
    """Tokens [B, 1 + h*w, C] that enter the first block; pixels [B, 3, H, W], multiples of the patch."""
    patch = visual.patch_size
    if pixels.shape[-2] % patch[0] or pixels.shape[-1] % patch[1]:
        raise ValueError(f"image {tuple(pixels.shape[-2:])} is no multiple of the patch {tuple(patch)}")
    x = visual.conv1(pixels)  # [B, C, h, w]
    grid = tuple(x.shape[-2:])
    x = x.flatten(2).transpose(1, 2)  # [B, h*w, C]
    token = visual.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
    positions = resize_positions(visual.positional_embedding, tuple(visual.grid_size), grid)
    return visual.ln_pre(torch.cat([token, x], 1) + positions.to(x.dtype))


@contextmanager
def recorded_attention(visual, blocks: int = ATTENTION_BLOCKS):
    """Record the head-averaged attention weights of the last ``blocks`` blocks while inside the context.

    open_clip's blocks ask for no weights, so a hook computes them from the same input and the same
    projections. Yields a list that fills with [B, L, L] per block, in order; the hooks are removed on the way
    out, after an error too.
    """
    seen: list[Tensor] = []
    handles = []
    try:
        for block in list(visual.transformer.resblocks)[-blocks:]:
            handles.append(
                block.attn.register_forward_pre_hook(
                    lambda module, inputs: seen.append(attention_weights(module, inputs[0]))
                )
            )
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def attention_weights(module: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """softmax(Q K' / sqrt(d)) of self-attention on x [B, L, C] ([L, B, C] unless batch_first), mean of heads.

    Returns float32 [B, L, L]. Heads are taken one at a time: memory stays at one L x L matrix per image.
    """
    if not module.batch_first:
        x = x.transpose(0, 1)
    query, key, _ = F.linear(x, module.in_proj_weight, module.in_proj_bias).chunk(3, dim=-1)  # [B, L, C] each
    heads = (module.num_heads, -1)
    query, key = (t.unflatten(-1, heads).transpose(1, 2) for t in (query, key))  # [B, heads, L, d]
    total = 0
    for head in range(module.num_heads):
        product = query[:, head] @ key[:, head].transpose(1, 2)  # [B, L, L]
        total = total + (product.float() / query.shape[-1] ** 0.5).softmax(-1)
    return total / module.num_heads


@contextmanager
def gradient_at(module: nn.Module):
    """Turn the module's output into a leaf that collects gradients, so that nothing before it needs any.

    Yields a list that will hold the leaf; the hook is removed on the way out, after an error too.
    """
    leaves: list[Tensor] = []

    def cut(_module, _inputs, output):
        leaves.append(output.detach().requires_grad_())
        return leaves[-1]

    handle = module.register_forward_hook(cut)
    try:
        yield leaves
    finally:
        handle.remove()


def _transformer_parts(visual, pixels: Tensor, half: bool, blocks: int) -> tuple[Tensor, Tensor, Tensor]:
    """(leaf at ln_1 of the last block [B, L, C], image embedding [B, D], attention [B, h*w, h*w])."""
    transformer = visual.transformer
    swap = (lambda x: x) if getattr(transformer, "batch_first", True) else (lambda x: x.transpose(0, 1))
    *early, last = transformer.resblocks
    with recorded_attention(visual, blocks) as weights:
        with torch.no_grad(), _autocast(pixels, half):
            x = swap(embed_patches(visual, pixels))
            for block in early:
                x = block(x)
        with torch.enable_grad(), gradient_at(last.ln_1) as leaves:
            x = swap(last(x.float()))  # [B, L, C]; the last block and its gradient in float32 always
    (leaf,) = leaves
    with torch.enable_grad():
        embed = visual.ln_post(x)[:, 1:].mean(1) @ visual.proj  # [B, D]
    attention = torch.stack([w[:, 1:, 1:] for w in weights]).mean(0)  # [B, h*w, h*w]
    return leaf, embed, attention


def _autocast(x: Tensor, half: bool):
    return torch.autocast(x.device.type, torch.bfloat16, enabled=half)
