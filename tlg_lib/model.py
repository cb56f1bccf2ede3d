"""The network, top to bottom as in the paper's figure: correlate, encode in 4D, HA, HT, HC, decode (docs/design.md, 3).

One class serves ``released`` (what the authors' code computes, to 1e-4), ``corrected``, ``extended`` and ``hsnet``: the
switches of the config say which. The backbone stays outside; it is frozen, and its maps are the inputs.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from . import backbones, trust
from .aggregation import HeterogeneousAggregation, branch_layers, resize
from .batches import EpisodeBatch
from .capture import record
from .checkpoints import load_weights, read_pretrained, save_pretrained
from .conv4d import Encoder4d
from .correlation import correlate, mask_features, pool_levels
from .decoder import Decoder
from .errors import TLGError
from .prototypes import PER_LEVEL, prototype_prior
from .text_prior import HeterogeneousText, TextVectors
from .transport import HeterogeneousTransport, residual_map

LARGE_MAP = 1024  # positions of the finest map; 5 shots at 400 px, ResNet-50, `released`: 4.5 s at once, 3.8 s in turn


class Output(NamedTuple):
    """Logits (background, foreground) at the image size; support_logits is None where it was not asked for."""

    query_logits: Tensor  # [B, 2, H, W]
    support_logits: Tensor | None  # [B, 2, H, W]


def per_shot(x: Tensor, batch: int) -> Tensor:
    """What belongs to the query alone, once for each of its K supports: [B, ...] -> [K * B, ...], shot by shot."""
    return x if len(x) == batch else x.repeat(batch // len(x), *(1,) * (x.dim() - 1))


class TLG(nn.Module):
    """Weakly-supervised few-shot segmentation from two perspectives.

    Args: config -- switches and sizes; backbone_channels, backbone_levels -- of the maps that will come in;
    text -- TextVectors of all classes, or None without HC.
    """

    trust: Tensor
    background: Tensor

    def __init__(self, config, backbone_channels, backbone_levels, text: TextVectors | None = None):
        super().__init__()
        check_switches(config)
        self.config = config
        self.levels = tuple(tuple(level) for level in backbone_levels)
        low, middle, _ = backbones.LAYOUTS[config.backbone].grids(config.image_size)
        self.grid = low

        fine, mid, coarse = (len(level) for level in self.levels)
        self.encoder = Encoder4d(
            (fine, mid, coarse), config.widths_4d, config.activation_checkpointing, config.correlation_pool
        )
        if config.use_ha:
            self.aggregation = HeterogeneousAggregation(
                backbone_channels, self.levels, config.width, shared="reductions" in config.as_released
            )
        if config.use_ht:
            self.transport = HeterogeneousTransport(config, low)
        if config.use_hc:
            if text is None:
                raise TLGError("use_hc=true needs text vectors: build them with text_prior.text_vectors(clip, prompts)")
            self.text = HeterogeneousText(text, middle, learned="text_maps" not in config.as_released)
        self.with_mask = config.query_mask == "pseudo"
        priors = 2 * PER_LEVEL + self.with_mask if config.prototype_prior else 0
        self.decoder = Decoder(config.width, mask=self.with_mask, prior=priors)
        if config.trusted_vote:
            # The network's share and the mask's trust in the vote (trust.py), chosen when training ends.
            self.register_buffer("trust", torch.tensor(trust.DEFAULT))
        if config.trusted_vote or config.prototype_prior:
            # The base classes' mean background feature (prototypes.py), zeros until training begins.
            self.register_buffer("background", torch.zeros(sum(backbone_channels[i[-1]] for i in self.levels[1:])))

    def forward(
        self,
        query: list[Tensor],
        support: list[Tensor],
        query_mask: Tensor,
        support_mask: Tensor,
        class_ids: Tensor,
        need_support: bool = True,
    ) -> Output:
        """Segment the query by the support (and, for training, the support by the query).

        Args: query, support -- backbone maps, low to high, [B, C, h, w]; masks -- pseudo masks [B, 1, H, W] in
        0..1 (the query's is not read when query_mask is "none"); class_ids [B], 0-based; need_support -- False
        skips all that the query's prediction does not need. For K shots of frozen features the support's maps and
        masks are [K * B, ...], shot by shot, and so are the logits; the query's own side is then computed once.
        """
        config, released, batch = self.config, self.config.as_released, len(support_mask)
        branches = ("support", "query") if need_support else ("query",)

        # Correlation pyramid and 4D encoder: what matches what, and the neighbourhood's consent.
        both = need_support or (config.use_ha and "correlation_grid" in released)
        masked = support if "mask_support" in released else mask_features(support, support_mask)
        maps = self._encode(query, masked, both)

        # The heterogeneous path. As released it takes no part in learning.
        with torch.set_grad_enabled(torch.is_grad_enabled() and "train_hetero" not in released):
            hetero = dict(maps)
            if config.use_ha:
                hetero = self._aggregate(query, support, maps, support_mask, branches)
            if config.use_hc:
                text_maps = self.text.maps(class_ids)
                hetero = {b: self.text(hetero[b], per_shot(text_maps[b], batch), b) for b in branches}

        # Decoder: heterogeneous path + 4D map -> logits, one branch after the other, same weights.
        masks = {"query": per_shot(query_mask, batch) if self.with_mask else None, "support": support_mask}
        features = {"query": query, "support": support}
        logits = {}
        for branch in branches:
            x = hetero[branch] + maps[branch] if config.use_ha or config.use_hc else maps[branch]
            prior = self._prior(features, masks, branch) if config.prototype_prior else None
            mask = masks[branch] if self.with_mask else None
            logits[branch] = self.decoder(x, mask, prior, config.image_size, branch)
            record(f"logits_{branch}", logits[branch])
        return Output(logits["query"], logits.get("support"))

    def _encode(self, query: list[Tensor], support: list[Tensor], both: bool) -> dict[str, Tensor]:
        """4D map per direction, [B, C, H8, W8]. At full size one correlation and one pass serve both directions."""
        q_levels, s_levels = ([[maps[i] for i in level] for level in self.levels] for maps in (query, support))
        toward, pool = ("query", "support") if both else ("query",), self.config.correlation_pool
        if pool == 1:
            correlations = [correlate(q, s) for q, s in zip(q_levels, s_levels)]  # 3 x [B, L, Hq, Wq, Hs, Ws]
            return dict(zip(toward, self.encoder(correlations, toward).chunk(len(toward))))
        encoded = {}
        for branch in toward:
            this, other = (q_levels, s_levels) if branch == "query" else (s_levels, q_levels)
            correlations = [correlate(t, o) for t, o in zip(this, pool_levels(other, pool))]
            encoded[branch] = self.encoder(correlations, (branch,))  # [B, C, H8, W8]
        return encoded

    def _aggregate(self, query, support, maps, support_mask, branches) -> dict[str, Tensor]:
        """HA, and HT where it is on: one map [B, C, H8, W8] per branch."""
        config, released, aggregation = self.config, self.config.as_released, self.aggregation
        features = {"query": query, "support": support}
        across = config.use_ht and "second_attention" not in released
        reduced = {b: aggregation.reduced(features[b], b) for b in {*branches, *(("support",) if across else ())}}
        fused = {b: per_shot(aggregation(reduced[b], b), len(support_mask)) for b in reduced}

        out = {}
        for branch in branches:
            other = "support" if branch == "query" else "query"
            merged = aggregation.merged(
                fused[branch], maps[other if "correlation_grid" in released else branch], branch
            )
            if not config.use_ht:
                out[branch] = merged
                continue
            source = "support" if "query_residual" in released else branch
            middle = reduced[source][1] if source in reduced else aggregation.middle(features[source], source)
            context = merged
            if across:
                context = fused[other]
                if other == "support" and "mask_support" not in released:
                    context = mask_features([context], support_mask)[0]
            residual = per_shot(residual_map(middle, self.grid, branch), len(merged))
            moved = self.transport(merged, context, residual, branch)
            out[branch] = merged + self.transport.gain * moved if config.token_skip else moved
        return out

    @torch.no_grad()
    def _prior(self, features, masks, branch: str) -> Tensor:
        """Prototype maps of the two deepest levels, and the image's own pseudo mask. [B, P, H8, W8], 0..1."""
        other = "support" if branch == "query" else "query"
        layers = branch_layers(self.levels)["support"][1:]
        this, that = ([per_shot(features[b][i], len(masks["support"])) for i in layers] for b in (branch, other))
        general = self.background.split([x.shape[1] for x in this])
        maps = [prototype_prior(x, y, masks[branch], masks[other], g) for x, y, g in zip(this, that, general)]
        if self.with_mask:
            maps.append(masks[branch])
        maps = [resize(m.to(features[branch][0].dtype), self.grid) for m in maps]
        prior = torch.cat(maps, dim=1)
        record(f"prior/{branch}", prior)
        return prior

    def text_buffers(self) -> dict[str, Tensor]:
        """The text vectors in use, by kind, [classes, D] each; empty without HC."""
        return {kind: getattr(self.text, kind) for kind in TextVectors.KINDS} if self.config.use_hc else {}

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write weights, config and text vectors to ``folder``; returns the file. Raises TLGError (code 5)."""
        return save_pretrained(self, folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> TLG:
        """The network that ``save_pretrained`` wrote to a local folder, in eval mode. Raises TLGError (code 3)."""
        config, weights, words = read_pretrained(folder)
        model = build_model(config, backbones.LAYOUTS[config.backbone], TextVectors(**words) if words else None)
        load_weights(model, weights)
        return model.eval()

    @torch.no_grad()
    def predict(self, batch: EpisodeBatch) -> Tensor:
        """What is scored: foreground probability of each query from each support, float 0..1 [B, K, H, W].

        With ``trusted_vote`` the network's answer has been put to the vote with prototypes and mask (trust.py).
        """
        return trust.answer(self, batch)[0] if self.config.trusted_vote else self.network_alone(batch)

    @torch.no_grad()
    def network_alone(self, batch: EpisodeBatch) -> Tensor:
        """The network's own answer before any vote, float 0..1 [B, K, H, W]."""
        supports = [(maps, batch.support_mask[:, k]) for k, maps in enumerate(batch.support)]
        return predict_shots(self, batch.query, supports, batch.query_mask, batch.class_ids).transpose(0, 1)

    def tensor_names(self) -> list[str]:
        """Names that tlg_lib.capture can keep from a forward pass of this model."""
        config = self.config
        names = [f"corr_{b}/{n}" for b in ("query", "support") for n in ("l4", "l3", "l2")]
        names += [f"conv4d_{b}/{n}" for b in ("query", "support") for n in ("sqz4", "sqz3", "sqz2", "mix43", "mix432")]
        names += ["after4d_query", "after4d_support"]
        per_branch = []
        if config.use_ha:
            per_branch += ["ha/{}_" + n for n in ("low", "mid", "hig", "cat", "merge")]
        if config.use_ht:
            per_branch += ["attn/{}_" + n for n in ("tokens", "self", "cross", "proj")]
            per_branch += ["ot/{}_cost", "ot/{}_plan", "ht/{}_bn", "ht/{}_res", "ht/{}_out"]
        if config.use_hc:
            names += ["hc/text_" + n for n in ("fg", "refine", "bg", "merge")]
            per_branch += ["hc/{}_multimodal"]
        per_branch += ["dec/{}_" + n for n in ("in", "dec1", "dec2", "res")]
        names += [n.format(b) for n in per_branch for b in "qs"]
        if config.prototype_prior:
            names += ["prior/query", "prior/support"]
        return names + ["logits_query", "logits_support"]


def check_switches(config) -> None:
    """Refuse, with the reason, the combinations of switches that cannot run."""
    if config.widths_4d[2] != config.width:
        raise TLGError(
            f"width={config.width} and widths_4d={config.widths_4d}: the decoder adds the 4D map to the "
            "heterogeneous one, so the last of widths_4d must equal width"
        )
    low = backbones.LAYOUTS[config.backbone].grids(config.image_size)[0]
    if config.use_ht and config.token_count > low[0] * low[1]:
        raise TLGError(
            f"token_count={config.token_count}: the map at stride 8 has only {low[0] * low[1]} positions at "
            f"image_size={config.image_size}"
        )
    if config.use_ht and "key_value" in config.as_released and config.token_count < 2:
        raise TLGError("key_value=adjacent reads tokens in pairs: token_count must be at least 2")
    if not (config.use_ha or config.use_hc) and "train_hetero" in config.as_released and config.variant != "hsnet":
        raise TLGError("train_hetero=false has nothing to detach without HA and HC: leave it true")


def build_model(config, backbone, text: TextVectors | None = None) -> TLG:
    """A TLG for this backbone (a Backbone or a Layout), its weights drawn from ``config.seed``.

    Every layer draws from the seed and its own name, so a switch that adds or leaves out a part does not change where
    the others start: what two settings differ by is then the switch, not another draw.
    """
    with torch.random.fork_rng(devices=[]):
        model = TLG(config, backbone.channels, backbone.levels, text)
        for name, module in reversed(list(model.named_modules())):  # parts after the layers that they set themselves
            if hasattr(module, "reset_parameters"):
                torch.manual_seed(zlib.crc32(f"{config.seed}/{name}".encode()))
                module.reset_parameters()
    return model.to(memory_format=torch.channels_last) if config.channels_last else model


@torch.no_grad()
def predict_shots(
    model: TLG, query: list[Tensor], supports: list[tuple[list[Tensor], Tensor]], query_mask: Tensor, class_ids: Tensor
) -> Tensor:
    """Foreground probability of the query from each of K supports, all shots in one batch.

    On a CPU large correlations go one shot at a time, as together they would only wait for fresh memory.
    Args: query -- maps [B, C, h, w]; supports -- K pairs (maps, mask [B, 1, H, W]). Returns [K, B, H, W], 0..1.
    """
    shots = len(supports)
    large = query[0][0, 0].numel() > LARGE_MAP and model.config.correlation_pool == 1
    if shots > 1 and large and query[0].device.type == "cpu":
        return torch.cat([predict_shots(model, query, [shot], query_mask, class_ids) for shot in supports])
    support = [torch.cat(maps) if shots > 1 else maps[0] for maps in zip(*(maps for maps, _ in supports))]
    masks = torch.cat([mask for _, mask in supports])
    output = model(query, support, query_mask, masks, class_ids, False)
    return output.query_logits.softmax(dim=1)[:, 1].unflatten(0, (shots, -1))
