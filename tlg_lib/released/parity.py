"""Does ``released`` compute what the authors' code computes? ``python -m tlg_lib.released.parity FILE.npz`` says so.

A fixture holds the results of the authors' network for one episode, batch 1, backbone maps injected; those of the
authors' code are of 400 x 400 pixels.
Inputs and weights are drawn here from the same frozen random streams, and their SHA-256 is compared with the
fixture's, so that a difference in results cannot come from the inputs.

Gradients need care, for two reasons that have nothing to do with the network.

- Of some 40 million ReLU inputs a few dozen lie within rounding of 0, where the slope, 0 or 1, is a matter of which
  processor added the numbers up; one such unit moves gradients by up to 3e-3. Each undecided unit takes the slope
  that the fixture's bias gradients show, and where these leave it open the weight gradients below; how many were
  switched is printed.
- In the first block of each level millions of cancelling terms are summed, and single precision leaves the release
  up to 6e-4 from the exact value (its two biases there have the same gradient in exact arithmetic, and differ). So
  gradients come from our network in double precision, and an entry that fails is computed once more in single
  precision in the release's order of operations, with the instruction set the fixture was made with.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # before torch is loaded: one thread, AVX2, as when the fixtures were made
    for _name, _value in (
        ("OMP_NUM_THREADS", "1"),
        ("ATEN_CPU_CAPABILITY", "avx2"),
        ("ONEDNN_MAX_CPU_ISA", "AVX2"),
        ("MKL_ENABLE_INSTRUCTIONS", "AVX2"),
    ):
        os.environ.setdefault(_name, _value)

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbones import LAYOUTS
from ..capture import capture
from ..config import make_config
from ..conv4d import Encoder4d
from ..correlation import EPS
from ..errors import TLGError
from ..losses import cross_entropy
from ..model import TLG, Output, build_model
from ..text_prior import TextVectors
from .convert import release_key

TOLERANCE = 1e-4  # of an entry's largest magnitude; the release itself moves by 5.3e-5 between thread counts
BACKBONES = ("resnet50", "vgg16")  # of which there are fixtures
UNDECIDED = 5e-7  # of a layer's largest ReLU input: closer to 0 than that, single precision decides the sign
TINY = 1e-12
MOST = 60  # undecided units of one call whose slopes are weighed one by one
PASSES = 12  # backward passes at most, to settle undecided slopes from the loss down
NORMS = ("1", "4", "7")  # places of GroupNorm in the release's encoder levels


def stream(seed: int, tag: str) -> np.random.RandomState:
    """The random stream of one named array: RandomState never changes between NumPy versions."""
    return np.random.RandomState((zlib.crc32(tag.encode()) ^ (seed * 2654435761)) & 0xFFFFFFFF)


def draw_features(backbone: str, seed: int, size: int = 400) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Query and support maps, float32 [1, C, S, S] low to high, of images of ``size`` pixels a side: 6 shared code
    vectors in 8 x 8 cells, and noise."""
    layout = LAYOUTS[backbone]
    side_of = {layer: side for layers, (side, _) in zip(layout.levels, layout.grids((size, size))) for layer in layers}
    query, support = [], []
    for layer, channels in enumerate(layout.channels):
        side = side_of[layer]
        book = stream(seed, f"book{layer}").standard_normal((6, channels)).astype(np.float32)
        cell = np.arange(side) * 8 // side
        for letter, maps in (("q", query), ("s", support)):
            labels = stream(seed, f"lab_{letter}_{side}").randint(0, 6, (8, 8))[np.ix_(cell, cell)]
            noise = stream(seed, f"noise_{letter}_{layer}").standard_normal((side, side, channels))
            values = book[labels] + np.float32(0.5) * noise.astype(np.float32)  # [S, S, C]
            maps.append(np.ascontiguousarray(np.moveaxis(values, 2, 0))[None])
    return query, support


def draw_weight(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The value of the release's state-dict entry ``key``."""
    source = stream(seed, "w:" + key)
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if key.endswith("running_mean"):
        return (0.1 * source.standard_normal(shape)).astype(np.float32)
    if key.endswith("running_var"):
        return (1 + 0.5 * source.random_sample(shape)).astype(np.float32)
    if len(shape) == 1:
        value = source.uniform(-0.05, 0.05, shape).astype(np.float32)
        parts = key.split(".")
        norm = parts[0] == "bn" or ("encoder_layer" in key and parts[2] in NORMS)
        return value + np.float32(1) if norm and key.endswith("weight") else value
    bound = (3 / np.prod(shape[1:])) ** 0.5
    return source.uniform(-bound, bound, shape).astype(np.float32)


@dataclass
class Row:
    """One compared entry. error: worst absolute difference over the entry's largest magnitude."""

    name: str
    error: float
    note: str = ""

    @property
    def ok(self) -> bool:
        return self.error <= TOLERANCE


class Fixture:
    """A fixture file, and the network and inputs that belong to it.

    Args: path; seed, class_id -- only where the file does not say (files of this kind do).
    Raises TLGError (code 3) when the file is missing, broken or of another kind, or its inputs cannot be redrawn.
    """

    def __init__(self, path: str | Path, seed: int | None = None, class_id: int | None = None):
        try:
            with np.load(path, allow_pickle=False) as file:
                self.entries = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, KeyError) as error:
            raise TLGError(f"cannot read the fixture {path}: {str(error) or type(error).__name__}", code=3) from None
        layers = sum(name.startswith("sha:feat_q") for name in self.entries)
        self.backbone = {len(LAYOUTS[b].channels): b for b in BACKBONES}.get(layers)
        if self.backbone is None:
            raise TLGError(f"{path} is not a parity fixture: it names {layers} feature maps, not 13 or 7", code=3)
        self.seed = seed if seed is not None else int(self._given("in:seed", path))
        self.class_ids = torch.tensor([class_id if class_id is not None else int(self._given("in:class_id", path)[0])])

        self.mismatched: list[str] = []  # inputs whose checksum differs from the fixture's
        size = self._given("in:query_cam", path).shape[-1]
        query, support = draw_features(self.backbone, self.seed, size)
        for letter, maps in (("q", query), ("s", support)):
            for i, values in enumerate(maps):
                self._check(f"feat_{letter}{i}", values)
        self.query = [torch.from_numpy(x) for x in query]
        self.support = [torch.from_numpy(x) for x in support]
        read = lambda name: torch.from_numpy(self._given(f"in:{name}", path))  # noqa: E731
        self.query_mask, self.support_mask = read("query_cam").float()[:, None], read("support_cam").float()[:, None]
        self.query_target, self.support_target = read("query_mask").long(), read("support_mask").long()
        self.text = TextVectors(read("clip_fg_embed"), read("clip_refine"), read("clip_bg_embed"))
        self.config = make_config("pascal", variant="released", backbone=self.backbone, image_size=size, dropout=0.0)

    def _given(self, name: str, path) -> np.ndarray:
        if name not in self.entries:
            raise TLGError(f"{path} is not a parity fixture: entry '{name}' is missing", code=3)
        return self.entries[name]

    def _check(self, name: str, values: np.ndarray) -> None:
        expected = self.entries.get(f"sha:{name}")
        if expected is not None and hashlib.sha256(values.tobytes()).hexdigest() != str(expected):
            self.mismatched.append(name)

    def model(self) -> TLG:
        """The released network with the fixture's weights."""
        model = build_model(self.config, LAYOUTS[self.backbone], self.text)
        weights = {}
        for key, own in model.state_dict().items():
            theirs = release_key(key)
            value = draw_weight(theirs, tuple(own.shape), self.seed)
            self._check("w:" + theirs, value)
            weights[key] = torch.from_numpy(np.asarray(value))
        model.load_state_dict(weights)
        return model

    def idle_reductions(self) -> list[Tensor]:
        """Two reductions of the release that VGG-16 has no use for: learnable, so its L2 term counts them."""
        shapes = {f"conv_{n}_128": {"weight": (128, n, 1, 1), "bias": (128,)} for n in (1024, 2048)}
        return [
            torch.from_numpy(draw_weight(f"{name}.{part}", shape, self.seed))
            for name, parts in (shapes if self.backbone == "vgg16" else {}).items()
            for part, shape in parts.items()
        ]

    def forward(self, model: TLG, dtype: torch.dtype = torch.float32) -> Output:
        query, support = [x.to(dtype) for x in self.query], [x.to(dtype) for x in self.support]
        return model(query, support, self.query_mask.to(dtype), self.support_mask.to(dtype), self.class_ids)

    def loss(self, output: Output) -> tuple[Tensor, Tensor, Tensor]:
        """Query and support cross-entropy, and the release's sum of the two without the L2 term."""
        query = cross_entropy(output.query_logits, self.query_target)
        support = cross_entropy(output.support_logits, self.support_target)
        return query, support, self.config.query_loss * query + self.config.support_loss * support

    def names(self, phase: str) -> Iterator[str]:
        """Entries of "eval" or "train" (without the ``|shape`` and other details)."""
        return (name for name in self.entries if name.startswith(phase + "/") and "|" not in name)

    def row(self, name: str, got: Tensor | None) -> Row:
        """Compare a tensor (None: no gradient) with entry ``name``."""
        expected, shape = self.entries[name], tuple(self.entries[name + "|shape"])
        if got is None or shape == (0,):
            agree = got is None and shape == (0,)
            return Row(name, 0.0 if agree else float("inf"), "no gradient" if agree else "only one has a gradient")
        if got.numel() != np.prod(shape, dtype=int):
            return Row(name, float("inf"), f"shape {tuple(got.shape)}, expected {shape}")
        sample = self.sample(name, got).double().numpy()
        error = np.abs(sample - expected.reshape(-1).astype(np.float64)).max() if sample.size else 0.0
        return Row(name, float(error / self.scale(name)) if np.isfinite(error) else float("inf"))

    def sample(self, name: str, got: Tensor) -> Tensor:
        """The values of a tensor that the fixture keeps of it, flat."""
        return got.detach().flatten()[:: int(self.entries[name + "|stride"])]

    def scale(self, name: str) -> float:
        """The largest magnitude of an entry."""
        return max(float(self.entries[name + "|stat"][2]), 1e-12)


def compare(fixture: Fixture) -> tuple[list[Row], int]:
    """Run both phases; compare every entry of the fixture. Also the number of ReLU slopes taken from it."""
    rows = []
    model = fixture.model().eval()
    with torch.no_grad(), capture(model) as seen:
        output = fixture.forward(model)
    for name in fixture.names("eval"):
        if name == "eval/pred_query":
            rows.append(_prediction(fixture, name, output.query_logits))
        else:
            rows.append(_row(fixture, name, seen))

    model = fixture.model().train()
    with torch.no_grad(), capture(model) as seen:
        output = fixture.forward(model)
    query, support, total = fixture.loss(output)
    seen |= {
        "loss/ce_query": query,
        "loss/ce_support": support,
        "loss/total_no_l2": total,
        "loss/l2_learnable_only": 1e-4 * sum(p.norm() for p in (*model.parameters(), *fixture.idle_reductions())),
        "bn/running_mean_after": model.transport.norm.running_mean,
        "bn/running_var_after": model.transport.norm.running_var,
    }
    rows += [_row(fixture, name, seen) for name in fixture.names("train") if not name.startswith("train/grad/")]
    gradients, switched = _gradient_rows(fixture, torch.float64)
    if not all(row.ok for row in gradients):
        single, _ = _gradient_rows(fixture, torch.float32)
        for i, (double, other) in enumerate(zip(gradients, single)):
            if not double.ok and other.error < double.error:
                note = f"single precision, the release's order; double precision: {double.error:.1e}"
                gradients[i] = Row(other.name, other.error, note)
    return rows + gradients, switched


def _gradient_rows(fixture: Fixture, dtype: torch.dtype) -> tuple[list[Row], int]:
    gradients, switched = matched_gradients(fixture, dtype)
    rows = []
    for name in fixture.names("train"):
        key = name.removeprefix("train/grad/")
        if key == name:
            continue
        if key in gradients or fixture.entries[name + "|shape"].tolist() == [0]:
            rows.append(fixture.row(name, gradients.get(key)))
        else:
            rows.append(Row(name, float("inf"), "no such parameter here"))
    return rows, switched


def correlate_in_release_order(query: list[Tensor], support: list[Tensor]) -> Tensor:
    """What correlation.correlate computes, one layer after the other: [B, L, Hq, Wq, Hs, Ws]."""
    layers = []
    for q, s in zip(query, support):
        sizes = *q.shape[-2:], *s.shape[-2:]
        q, s = (x.flatten(2) / (x.flatten(2).norm(dim=1, keepdim=True) + EPS) for x in (q, s))  # [B, C, H*W]
        layers.append(torch.bmm(q.transpose(1, 2), s).unflatten(2, sizes[2:]).unflatten(1, sizes[:2]).clamp(min=0))
    return torch.stack(layers, 1)


def encode_in_release_order(encoder: Encoder4d, correlations: list[Tensor]) -> Tensor:
    """What Encoder4d computes, in the release's order of operations: channels first, everything copied in full.

    Slow, and plain enough to be read beside HSNet's description; also the tests' second opinion on Encoder4d.
    """

    def block(x: Tensor, layer) -> Tensor:
        batch, channels, height, width, h, w = x.shape
        stride = layer.conv.stride
        kept = x[..., ::stride, ::stride]
        a = layer.conv.this(kept.permute(0, 4, 5, 1, 2, 3).reshape(-1, channels, height, width))
        a = a.view(batch, *kept.shape[-2:], -1, height, width).permute(0, 3, 4, 5, 1, 2).contiguous()
        b = layer.conv.other(x.permute(0, 2, 3, 1, 4, 5).reshape(-1, channels, h, w))
        b = b.view(batch, height, width, *b.shape[1:]).permute(0, 3, 1, 2, 4, 5).contiguous()
        return F.relu(layer.norm(a + b))

    def level(x: Tensor, blocks) -> Tensor:
        for layer in blocks:
            x = block(x, layer)
        return x

    def resized(x: Tensor, size) -> Tensor:
        batch, channels, height, width, h, w = x.shape
        x = x.permute(0, 4, 5, 1, 2, 3).reshape(-1, channels, height, width)
        x = F.interpolate(x, size=size, mode="bilinear", align_corners=True)
        return x.view(batch, h, w, channels, *size).permute(0, 3, 4, 5, 1, 2).contiguous()

    fine, middle, coarse = (c.contiguous() for c in correlations)
    coarse, middle, fine = (
        level(coarse, encoder.squeeze4),
        level(middle, encoder.squeeze3),
        level(fine, encoder.squeeze2),
    )
    middle = level(resized(coarse, middle.shape[2:4]) + middle, encoder.mix43)
    fine = level(resized(middle, fine.shape[2:4]) + fine, encoder.mix32)
    return fine.mean(dim=(4, 5))


class Undecided:
    """ReLU inputs of one call that lie within rounding of 0, and the slope, 0 or 1, that each one is given.

    ``lifted`` is what the ReLU gets: such inputs as are not above 0 are set to next to nothing above it, so that the
    gradient from above reaches them; the slope is applied on the way back. All else keeps its value.
    """

    def __init__(self, key: str, before: Tensor):
        self.key = key  # the release's name of the bias whose gradient shows the slopes
        self.before = before
        values = before.detach()
        self.where = (values.abs() < UNDECIDED * values.abs().max()).nonzero(as_tuple=True)
        self.slope = (values[self.where] > 0).to(values.dtype)
        self.channel = self.where[1]
        self.above = torch.zeros_like(self.slope)  # gradient at the ReLU's output
        self.lifted = _Lift.apply(before, self)

    def effects(self, parameters: list[Tensor]) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
        """For the MOST units with the largest gradients: what switching one adds to those of parameters below."""
        for i in self.above.abs().argsort(descending=True)[:MOST].tolist():
            one = torch.zeros_like(self.before)
            one[tuple(axis[i] for axis in self.where)] = self.above[i] * (1 - 2 * self.slope[i])
            yield i, torch.autograd.grad(self.before, parameters, one, retain_graph=True)

    def follow(self, residual: Tensor) -> int:
        """Switch the slopes that bring the bias gradient nearer to the fixture's: ``residual`` is what lacks."""
        residual, switched = residual.clone(), 0
        for i in self.above.abs().argsort(descending=True).tolist():
            change, channel = self.above[i] * (1 - 2 * self.slope[i]), self.channel[i]
            # Worth it only where the switch explains most of what lacks in its channel.
            if (residual[channel] - change).abs() < residual[channel].abs() - 0.5 * change.abs():
                residual[channel] -= change
                self.slope[i] = 1 - self.slope[i]
                switched += 1
        return switched


class _Lift(torch.autograd.Function):
    @staticmethod
    def forward(ctx, before: Tensor, unit: Undecided) -> Tensor:
        ctx.unit = unit
        lifted = before.clone()
        lifted[unit.where] = lifted[unit.where].clamp(min=TINY)
        return lifted

    @staticmethod
    def backward(ctx, gradient: Tensor):
        unit = ctx.unit
        unit.above = gradient[unit.where]
        gradient = gradient.clone()
        gradient[unit.where] = unit.above * unit.slope
        return gradient, None


def matched_gradients(fixture: Fixture, dtype: torch.dtype) -> tuple[dict[str, Tensor | None], int]:
    """Loss gradients by the release's names, undecided ReLU slopes as in the fixture, and how many were switched.

    dtype float64: of our network. float32: with its encoder in the release's order of operations.
    """
    model = fixture.model().train().to(dtype)
    if dtype == torch.float32:
        model._encode = lambda query, support, both: {
            branch: encode_in_release_order(
                model.encoder,
                [
                    correlate_in_release_order([this[i] for i in level], [other[i] for i in level])
                    for level in model.levels
                ],
            )
            for branch, this, other in (("query", query, support), ("support", support, query))
        }
    units: list[Undecided] = []

    def watch(key):
        def hook(module, inputs, output):
            units.append(Undecided(key, output))
            return units[-1].lifted

        return hook

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.GroupNorm) or name in (
            "decoder.stage1.0",
            "decoder.stage1.2",
            "decoder.stage2.0",
        ):
            module.register_forward_hook(watch(release_key(name + ".bias")))
    _, _, total = fixture.loss(fixture.forward(model, dtype))
    names, parameters = zip(*((release_key(k), p) for k, p in model.named_parameters()))
    initial = [unit.slope.clone() for unit in units]
    best, best_slopes, best_error = None, initial, (len(names), float("inf"))
    for _ in range(PASSES):
        values = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
        gradients = dict(zip(names, values))
        rows = [fixture.row(f"train/grad/{k}", g) for k, g in gradients.items() if g is not None]
        error = sum(not row.ok for row in rows), max(row.error for row in rows)
        if error < best_error:
            best, best_slopes, best_error = gradients, [unit.slope.clone() for unit in units], error
        if error[1] <= TOLERANCE / 4:
            break
        switched = 0
        for unit in units:  # the two calls of a decoder layer share a bias: what one explains, the other must not
            expected = torch.from_numpy(fixture.entries[f"train/grad/{unit.key}"]).to(dtype)
            before = unit.slope.clone()
            switched += unit.follow(expected - gradients[unit.key])
            change = torch.zeros_like(expected).index_add_(0, unit.channel, unit.above * (unit.slope - before))
            gradients[unit.key] = gradients[unit.key] + change
        if not switched and dtype == torch.float32:  # in double precision weights lack the release's own rounding
            for key in sorted({unit.key for unit in units if "encoder" in unit.key}):
                same = [unit for unit in units if unit.key == key]
                switched += follow_weights(fixture, same, gradients, dict(zip(names, parameters)))
        if not switched:
            break
    return best, sum(int((a != b).sum()) for a, b in zip(initial, best_slopes))


def follow_weights(fixture: Fixture, units: list[Undecided], gradients: dict, parameters: dict[str, Tensor]) -> int:
    """Settle the slopes that a bias leaves open, by the weights of the two convolutions below it.

    Two wrong slopes of one channel can cancel in the bias; the weights also show where they stand. Units are switched
    one by one, each time the one that explains most, until the best explains less than 2% of what is left.
    Args: units -- all of one bias; gradients, parameters -- by the release's names. Returns how many were switched.
    """
    stem, place = units[0].key.removesuffix(".bias").rsplit(".", 1)
    keys = [units[0].key, *(f"{stem}.{int(place) - 1}.conv{i}.weight" for i in (1, 2))]
    if all(fixture.row(f"train/grad/{key}", gradients[key]).error <= TOLERANCE / 4 for key in keys):
        return 0

    def scaled(samples) -> Tensor:
        return torch.cat([x.flatten() / fixture.scale(f"train/grad/{key}") for key, x in zip(keys, samples)])

    def sampled(tensors) -> Tensor:
        return scaled(fixture.sample(f"train/grad/{key}", x) for key, x in zip(keys, tensors))

    lacking = scaled(torch.from_numpy(fixture.entries[f"train/grad/{key}"]) for key in keys)
    lacking = lacking - sampled(gradients[key] for key in keys)
    below = [parameters[key] for key in keys]
    choices = [(unit, i, sampled(effect)) for unit in units for i, effect in unit.effects(below)]
    switched = 0
    while choices:
        left = torch.stack([(lacking - effect).norm() for _, _, effect in choices])
        best = int(left.argmin())
        if left[best] > 0.98 * lacking.norm():
            break
        unit, i, effect = choices.pop(best)
        unit.slope[i] = 1 - unit.slope[i]
        lacking = lacking - effect
        switched += 1
    return switched


def _row(fixture: Fixture, name: str, seen: dict[str, Tensor]) -> Row:
    """Entries carry hints in their names that ours lack: "attn/s_tokens(B,C,50)", "logits_query400"."""
    ours = name.split("/", 1)[1].split("(")[0].removesuffix("400")
    if ours not in seen:
        return Row(name, float("inf"), "not computed here")
    return fixture.row(name, seen[ours])


def _prediction(fixture: Fixture, name: str, logits: Tensor) -> Row:
    """The arg max is compared where the two logits differ by more than the tolerance; closer ones are a tie."""
    row = fixture.row(name, logits.argmax(dim=1))
    margin = fixture.sample(name, (logits[:, 1] - logits[:, 0]).abs())
    sample = fixture.sample(name, logits.argmax(dim=1))
    wrong = sample != torch.from_numpy(fixture.entries[name].astype(np.int64))
    ties = wrong & (margin <= 2 * TOLERANCE * logits.abs().max())
    if wrong.any() and bool((wrong == ties).all()):
        return Row(name, 0.0, f"{int(ties.sum())} ties within the tolerance")
    return row


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tlg_lib.released.parity", description=__doc__.splitlines()[0])
    parser.add_argument("file", help="fixture (.npz); its backbone, seed and class are read from it")
    parser.add_argument("--seed", type=int, help="in place of the fixture's")
    parser.add_argument("--class", type=int, dest="class_id", help="0-based, in place of the fixture's")
    options = parser.parse_args(arguments)
    try:
        fixture = Fixture(options.file, options.seed, options.class_id)
        rows, decided = compare(fixture)
    except TLGError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    for row in rows:
        print(
            f"{'ok  ' if row.ok else 'FAIL'} {row.error:9.2e}  {row.name}{'  (' + row.note + ')' if row.note else ''}"
        )
    for name in sorted(set(fixture.mismatched)):
        print(f"FAIL input {name}: its checksum differs from the fixture's")
    failed = sum(not row.ok for row in rows) + len(set(fixture.mismatched))
    worst = max(rows, key=lambda row: row.error)
    print(
        f"{fixture.backbone}, seed {fixture.seed}, class {int(fixture.class_ids[0])}: {len(rows)} entries, "
        f"worst relative error {worst.error:.2e} ({worst.name}), {failed} beyond {TOLERANCE:g}; "
        f"{decided} ReLU slopes at 0 as in the fixture"
    )
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
