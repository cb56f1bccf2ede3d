"""What a GPU needs of the code, proved on a CPU: steps that wait for nothing, whole graphs, 16-bit products."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tlg_lib import train as module
from tlg_lib.backbones import LAYOUTS
from tlg_lib.checkpoints import load_checkpoint
from tlg_lib.config import make_config
from tlg_lib.correlation import correlate, unit
from tlg_lib.errors import TLGError
from tlg_lib.layers import _NormChannelsLast
from tlg_lib.machine.device import compile_needs
from tlg_lib.model import build_model
from tlg_lib.text_prior import random_text_vectors

from resume_jobs import tiny_config


class Waits(TorchDispatchMode):
    """Counts what would make the processor wait for a GPU: numbers that Python reads off a tensor."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), kwargs=None):
        self.count += function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        if function is torch.ops.aten.index.Tensor:  # by a mask: how many are chosen must be known
            self.count += any(i is not None and i.dtype == torch.bool for i in arguments[1])
        return function(*arguments, **(kwargs or {}))


def test_the_stand_in_counts():
    with Waits() as waits:
        x = torch.ones(3)
        float(x.sum()), bool(x.any()), x[0].item(), x[x > 0]
    assert waits.count == 4


@pytest.mark.parametrize("settings", [{}, {"variant": "released", "l2_all": 1e-4}, {"supervision": "image"}])
def test_a_training_step_waits_for_nothing(tiny_voc, own_home, tmp_path, monkeypatch, settings):
    counts, looks = [], []
    real, look = module._step, module._Watch.look

    def counted(*arguments):
        with Waits() as waits:
            found = real(*arguments)
        counts.append(waits.count)
        return found

    monkeypatch.setattr(module, "_step", counted)
    monkeypatch.setattr(module._Watch, "look", lambda self: looks.append(len(self.waiting)) or look(self))
    config = tiny_config(str(tiny_voc), flip=False, epoch_episodes=0, epoch_steps=7, checkpoint_every=7, **settings)
    losses = module.train(config, tmp_path / "run", progress=False)["losses"]
    assert counts == [0] * 7 and looks == [7], "one look for all seven steps, before they are saved"
    assert len(losses) == 7 and losses[0] != losses[-1]


@pytest.mark.parametrize("look, kept", [(1, 4), (20, 4), (3, 4)])
def test_a_step_that_is_not_finite_is_named_however_late_it_is_looked_at(
    tiny_voc, own_home, tmp_path, monkeypatch, look, kept
):
    calls, real = [], module.total_loss

    def poisoned(*arguments):
        calls.append(1)
        return real(*arguments) * (float("nan") if len(calls) == 6 else 1.0)

    monkeypatch.setattr(module, "total_loss", poisoned)
    monkeypatch.setattr(module, "LOOK", look)
    folder = tmp_path / "run"
    config = tiny_config(str(tiny_voc), epoch_episodes=0, epoch_steps=100, checkpoint_every=4)
    with pytest.raises(TLGError, match="the loss is not finite at step 5 ") as caught:
        module.train(config, folder, progress=False)
    assert caught.value.code == 6
    saved = load_checkpoint(folder / "checkpoint.safetensors")
    assert saved.about["step"] == kept == len(saved.about["losses"])
    assert all(torch.isfinite(w).all() for w in saved.weights.values() if w.is_floating_point())
    failed = json.loads((folder / "failed_batch.json").read_text())
    assert failed["step"] == 5 and failed["queries"][0] in str(caught.value)


def inputs(config, batch=2):
    generator = torch.Generator().manual_seed(0)
    layout = LAYOUTS[config.backbone]
    grids = layout.grids(config.image_size)
    maps = lambda: [  # noqa: E731
        torch.randn(batch, layout.channels[i], *grids[level], generator=generator)
        for level, layers in enumerate(layout.levels)
        for i in layers
    ]
    masks = lambda: torch.rand(batch, 1, *config.image_size, generator=generator).round()  # noqa: E731
    return maps(), maps(), masks(), masks(), torch.tensor([1, 2])


@pytest.mark.slow
@pytest.mark.skipif(compile_needs() != "", reason=compile_needs())
@pytest.mark.parametrize("variant", ["extended", "corrected", "released"])
def test_compiling_breaks_no_graph(variant):
    config = make_config("smoke", variant=variant, image_size=64, width=8, widths_4d=[4, 4, 8], token_count=4)
    model = build_model(config, LAYOUTS[config.backbone], random_text_vectors(20, 16)).train()
    torch._dynamo.reset()
    found = torch._dynamo.explain(model)(*inputs(config), True)
    reasons = [reason.reason for reason in found.break_reasons]
    assert (found.graph_count, found.graph_break_count) == (1, 0), reasons
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "version, refused", [("2.4.0+cu121", True), ("2.8.1", True), ("2.9.0a0", False), ("3.0", False)]
)
def test_compiling_is_refused_before_the_work_where_pytorch_would_fail(
    version, refused, monkeypatch, tmp_path, tiny_voc
):
    monkeypatch.setattr(torch, "__version__", version)
    assert bool(compile_needs()) == refused
    if refused:
        with pytest.raises(TLGError, match=f"compile=true needs PyTorch 2.9 or newer, here is {version[:3]}"):
            module.train(tiny_config(str(tiny_voc), compile=True), tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_16_bit_correlations_are_sums_of_32():
    generator = torch.Generator().manual_seed(0)
    # Numbers of one sign over many channels: a sum in 16 bits would stop growing at 256 x its smallest step.
    query, support = ([torch.rand(1, 2048, 4, 4, generator=generator)] for _ in range(2))
    exact = correlate(query, support)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = correlate(query, support)
    assert exact.dtype == torch.float32 and rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).abs().max() < 2**-8, "half a step of 16 bits below 1"
    summed = sum(a * b for a, b in zip(*(unit(x[0]).bfloat16().flatten(2)[0] for x in (query, support))))
    assert (summed.float() - exact[0, 0].flatten(0, 1).flatten(1).diagonal()).abs().max() > 2**-6


def test_norm_that_keeps_channels_last_is_group_norm():
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.double)  # noqa: E731
    x = (3 + 2 * draw(2, 8, 5, 6)).to(memory_format=torch.channels_last).requires_grad_()
    weight, bias, gradient = draw(8).requires_grad_(), draw(8).requires_grad_(), draw(2, 8, 5, 6)
    found, expected = _NormChannelsLast.apply(x, weight, bias, 4, 1e-5), F.group_norm(x, 4, weight, bias, 1e-5)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)
    for got, want in zip(*(torch.autograd.grad(y, (x, weight, bias), gradient) for y in (found, expected))):
        torch.testing.assert_close(got, want)
    small = x.detach().bfloat16()
    half = _NormChannelsLast.apply(small, weight.detach().float(), bias.detach().float(), 4, 1e-5)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), expected.detach(), rtol=0.02, atol=0.05)
