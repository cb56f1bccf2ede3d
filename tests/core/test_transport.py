"""Transport plans against POT, gradients against finite differences, attention against loops."""

import math
import re
import warnings

import ot
import pytest
import torch

import tlg_lib.transport as module
from tlg_lib.config import make_config
from tlg_lib.transport import (
    HeterogeneousTransport,
    SelfAttention,
    TransportAttention,
    differentiable_plan,
    residual_map,
    sinkhorn_iterations,
    sinkhorn_plan,
    token_grid,
)


def costs(n=7, m=5, seed=0):
    return torch.rand(3, n, m, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("reg", [0.019, 0.05, 0.5, 5.0])  # the first in the log domain
def test_plan_is_pots(reg):
    cost = costs()
    plan = sinkhorn_plan(cost, reg)
    for c, found in zip(cost, plan):
        expected = ot.sinkhorn(
            torch.full((7,), 1 / 7, dtype=c.dtype),
            torch.full((5,), 1 / 5, dtype=c.dtype),
            c,
            reg,
            numItermax=10_000,
            stopThr=1e-12,
        )
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_iterations_from_theory_are_enough_and_bounded():
    cost = costs(50, 50)
    for reg in (0.1, 0.5, 2.0):
        plan = sinkhorn_plan(cost, reg)
        torch.testing.assert_close(plan.sum(-1), torch.full((3, 50), 1 / 50, dtype=torch.float64), rtol=1e-8, atol=0)
        torch.testing.assert_close(plan.sum(-2), torch.full((3, 50), 1 / 50, dtype=torch.float64), rtol=1e-8, atol=0)
    assert 1 <= sinkhorn_iterations(100.0) <= sinkhorn_iterations(0.5) <= sinkhorn_iterations(1e-3) <= 2000


def test_single_precision_is_enough_wherever_the_log_domain_begins():
    cost = costs(50, 50)
    for reg in (0.0199, 0.02, 0.5):
        single = sinkhorn_plan(cost.float(), reg).double()
        torch.testing.assert_close(single, sinkhorn_plan(cost, reg), rtol=2e-4, atol=1e-9)


def test_logarithms_are_for_small_regs_alone(monkeypatch):
    monkeypatch.setattr(module, "_iterate_logarithms", lambda *_: pytest.fail("three times the time for nothing"))
    cost = torch.rand(1, 3, 4, generator=torch.Generator().manual_seed(0))
    assert sinkhorn_plan(cost, 0.02).sum() == pytest.approx(1, abs=1e-5)
    with pytest.raises(pytest.fail.Exception):
        sinkhorn_plan(cost, 0.019)


@pytest.mark.parametrize("reg", [0.1, 0.5])
def test_implicit_gradient_is_the_numerical_one(reg):
    cost = costs(4, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: differentiable_plan(c, reg), (cost,), atol=1e-6)


def test_adjacent_key_value_reads_even_tokens_as_keys_and_odd_ones_as_values():
    torch.manual_seed(0)
    attention = SelfAttention(16, 0.0, adjacent=True).double()
    tokens = torch.randn(2, 6, 16, dtype=torch.float64)
    kv, q = attention.kv(tokens), attention.q(tokens)
    expected = torch.zeros_like(tokens)
    for head in range(8):
        part = slice(2 * head, 2 * head + 2)
        for i in range(6):
            scores = torch.stack([(q[:, i, part] * kv[:, j, part]).sum(1) for j in (0, 2, 4)], 1) / math.sqrt(2)
            weights = scores.softmax(1)
            expected[:, i, part] = sum(weights[:, n, None] * kv[:, j, part] for n, j in enumerate((1, 3, 5)))
    torch.testing.assert_close(attention(tokens), attention.proj(expected))


def test_released_plan_is_detached_and_n_times_smaller():
    torch.manual_seed(0)
    released, trained = TransportAttention(8, 0.5, 0.0, detached=True), TransportAttention(8, 0.5, 0.0)
    trained.load_state_dict(released.state_dict())
    tokens, context = torch.randn(2, 6, 8), torch.randn(2, 4, 8)
    torch.testing.assert_close(6 * released(tokens, context, "query"), trained(tokens, context, "query"))
    released(tokens, context, "query").sum().backward()
    trained(tokens, context, "query").square().sum().backward()
    assert released.q_fc.weight.grad is None and released.k_fc.weight.grad is None
    assert trained.q_fc.weight.grad.any() and trained.k_fc.weight.grad.any()


def test_token_grid_keeps_proportions():
    assert token_grid(49, (28, 28)) == (7, 7)
    assert token_grid(50, (40, 50)) == (6, 8)
    assert token_grid(400, (4, 8)) == (4, 8)


def test_rows_are_means_of_the_flattened_map():
    config = make_config("mini", tokens="rows", token_count=4)
    module = HeterogeneousTransport(config, (4, 4))
    x = torch.randn(1, 64, 4, 4)
    torch.testing.assert_close(module.tokens(x), x.mean(dim=3).transpose(1, 2))


def test_residuals_differ_between_the_branches():
    middle = torch.randn(1, 3, 4, 4)
    support, query = residual_map(middle, (8, 8), "support"), residual_map(middle, (8, 8), "query")
    large = torch.nn.functional.interpolate(middle, size=(16, 16), mode="bilinear", align_corners=True)
    patches = large.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
    torch.testing.assert_close(support, patches.amax(-1))
    torch.testing.assert_close(query, patches.mean(-1))


def test_adjacent_keys_and_values_take_an_odd_number_of_tokens():
    """The unpaired last token is asked for, but neither key nor value: changing it moves its own answer alone."""
    attention = SelfAttention(16, 0.0, adjacent=True).eval()
    tokens = torch.randn(1, 5, 16)
    other = tokens.clone()
    other[:, -1] += 1
    before, after = attention(tokens), attention(other)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4], after[:, 4])


def test_a_plan_beyond_the_cap_goes_on_until_its_rows_fit_or_says_so(monkeypatch):
    cost = torch.rand(3, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    reg = 0.01
    assert module.sinkhorn_iterations(reg) == module.MOST_ITERATIONS
    monkeypatch.setattr(module, "MOST_ITERATIONS", 20)  # of what the rows need, far too few
    monkeypatch.setattr(module, "ROUNDS", 400)
    plan = module.sinkhorn_plan(cost, reg)
    assert (7 * plan.sum(-1) - 1).abs().max() <= module.WORST_ROW
    monkeypatch.setattr(module, "ROUNDS", 0)
    with pytest.warns(UserWarning, match="transport_reg=0.01: after 20 iterations a row"):
        module.sinkhorn_plan(cost, reg)


def test_the_look_is_at_the_rows_which_the_last_step_has_not_set():
    """Columns are exact after every step; rows of this cost need several rounds, and no warning is due."""
    cost = torch.rand(1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plan, _ = module._iterate_logarithms(-cost / 0.005, module.MOST_ITERATIONS, None)
    assert (6 * plan.sum(-1) - 1).abs().max() > 3 * module.WORST_ROW > (6 * plan.sum(-2) - 1).abs().max()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = module.sinkhorn_plan(cost, 0.005)
    assert (6 * found.sum(-1) - 1).abs().max() <= module.WORST_ROW


def test_the_warning_tells_how_far_off_a_row_is(monkeypatch):
    monkeypatch.setattr(module, "ROUNDS", 0)
    cost = torch.rand(1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.warns(UserWarning) as told:
        plan = module.sinkhorn_plan(cost, 0.005)
    said = float(re.search(r"off by ([0-9.e-]+)%", str(told[0].message))[1])
    assert said == pytest.approx(100 * float((6 * plan.sum(-1) - 1).abs().max()), rel=0.06)
