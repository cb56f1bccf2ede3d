"""HT, the paper's heterogeneous transfer: attention over a few tokens, its matrix an optimal plan (paper, III).

The idea: a map is pooled to N tokens. Attention lets every token spread its unit of attention as it likes, so some
tokens are asked by all and others by none. Transport asks for balance: of all plans P >= 0 with rows that sum to 1/N
and columns to 1/M it takes the one of least cost, where the cost is 1 - attention and an entropy term of weight reg
keeps P smooth: P = argmin <P, 1 - A> - reg H(P), found by Sinkhorn's scaling of exp(-cost / reg). The tokens of one
image so ask those of the other; the answers are spread back over the map and added to it.
Read on in this order: HeterogeneousTransport, TransportAttention, sinkhorn_plan; docs/design.md, 3.1 and 3.2.
"""

from __future__ import annotations

import math
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .aggregation import resize
from .capture import record
from .config import Network
from .layers import BatchNorm

HEADS = 8
TOLERANCE = 1e-9  # on the logarithm of the scaling vectors
MOST_ITERATIONS = 2000  # without a look at the numbers
ROUNDS = 10  # of as many again, where theory asks for more
WORST_ROW = 1e-4  # relative error of a row's sum up to which a plan counts as reached
SMALL_REG = 0.02  # exp(-1 / reg), the kernel's smallest value, is then 2e-22; below it logarithms are needed


# HT's share at the start where it is added to what HA found (token_skip): a layer scale (Touvron et al., CaiT, ICCV
# 2021). At 1, what untrained attention says drowns HA's map: on mini, folds 0 and 2, seeds 1 and 2, without late
# fusion, 63.9 mIoU against 65.4 with 0.1 and 65.1 without HT and HC.
SMALL_GAIN = 0.1


class HeterogeneousTransport(nn.Module):
    """Pool a map to tokens, attend, spread back, add a residual that differs between the branches.

    The tokens are a grid, spread bilinearly; as released (rows) runs of the flattened map, ``token_count`` of them,
    spread by a learned matrix. Args: size -- (H8, W8) of the map.
    """

    def __init__(self, config: Network, size: tuple[int, int]):
        super().__init__()
        width, released = config.width, config.as_released
        self.size, self.rows = size, "tokens" in released
        self.across = "second_attention" not in released
        self.grid = (1, config.token_count) if self.rows else token_grid(config.token_count, size)
        if self.rows:
            self.spread = nn.Linear(config.token_count, size[0] * size[1], bias=False)
        self.self_attention = SelfAttention(width, config.dropout, adjacent="key_value" in released)
        self.cross_attention = TransportAttention(
            width, config.transport_reg, config.dropout, detached="transport" in released
        )
        self.norm = BatchNorm(width)
        if config.token_skip:  # the caller adds gain * HT(h) to h
            self.gain = nn.Parameter(torch.full((width, 1, 1), SMALL_GAIN))

    def tokens(self, x: Tensor) -> Tensor:
        """[B, C, H8, W8] -> [B, N, C]."""
        if self.rows:
            pooled = F.adaptive_avg_pool1d(x.flatten(2), self.grid[1])  # [B, C, N]
        else:
            pooled = F.adaptive_avg_pool2d(x, self.grid).flatten(2)  # [B, C, N]
        return pooled.transpose(1, 2)

    def forward(self, x: Tensor, context: Tensor, residual: Tensor, branch: str) -> Tensor:
        """x, context [B, C, H8, W8]; residual [B, C, H8, W8] -> [B, C, H8, W8].

        ``context`` gives the keys and values of the second attention: x itself ("within") or the other
        branch's aggregated map ("across").
        """
        b = branch[0]
        tokens = self.tokens(x)  # [B, N, C]
        record(f"attn/{b}_tokens", tokens.mT)
        attended = self.self_attention(tokens)
        record(f"attn/{b}_self", attended)
        crossed = self.cross_attention(attended, self.tokens(context) if self.across else tokens, branch)
        record(f"attn/{b}_cross", crossed)
        if self.rows:
            spread = self.spread(crossed.mT)  # [B, C, H8*W8]
        else:
            spread = crossed.mT.unflatten(2, self.grid)  # [B, C, rows, columns]
            spread = F.interpolate(spread, size=self.size, mode="bilinear", align_corners=False).flatten(2)
        record(f"attn/{b}_proj", spread)
        normed = self.norm(spread.unflatten(2, self.size))  # [B, C, H8, W8]
        record(f"ht/{b}_bn", normed)
        record(f"ht/{b}_res", residual)
        out = F.relu(normed + residual)
        record(f"ht/{b}_out", out)
        return out


class TransportAttention(nn.Module):
    """Single-head attention whose matrix A is replaced by the transport plan of cost 1 - A.

    The plan has its exact gradient and is taken times N, so that its rows sum to 1. detached, as released: it has
    none and rows of 1/N, so the output is N times smaller than attention's and query and key maps never learn.
    """

    def __init__(self, width: int, reg: float, dropout: float, detached: bool = False):
        super().__init__()
        self.q_fc = nn.Linear(width, width, bias=False)
        self.k_fc = nn.Linear(width, width, bias=False)
        self.v_fc = nn.Linear(width, width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)
        self.detached, self.reg = detached, reg
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, context: Tensor, branch: str) -> Tensor:
        """tokens [B, N, C] ask, context [B, M, C] answers. -> [B, N, C]."""
        q, k, v = self.q_fc(tokens), self.k_fc(context), self.v_fc(context)
        # The plan is computed in 32 bits under autocast: exp(-cost / reg) needs the digits.
        with torch.autocast(q.device.type, enabled=False):
            q, k = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (q, k))
            a = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1)  # [B, N, M]
            cost = 1 - a
            record(f"ot/{branch[0]}_cost", cost)
            if self.detached:
                plan = sinkhorn_plan(cost.detach(), self.reg)
                weights = plan
            else:
                plan = differentiable_plan(cost, self.reg)
                weights = plan * plan.shape[-2]
            record(f"ot/{branch[0]}_plan", plan)
        return self.dropout(self.proj(weights.to(v.dtype) @ v))


class SelfAttention(nn.Module):
    """Eight-head self-attention among tokens [B, N, C], output projection and dropout.

    adjacent, as released: one linear map's output is read as pairs of neighbouring tokens, the even ones as keys,
    the odd ones as values (a reshape that was meant to split channels). Else two maps.
    """

    def __init__(self, width: int, dropout: float, adjacent: bool = False):
        super().__init__()
        self.q = nn.Linear(width, width, bias=False)
        if adjacent:
            self.kv = nn.Linear(width, width, bias=False)
        else:
            self.k = nn.Linear(width, width, bias=False)
            self.v = nn.Linear(width, width, bias=False)
        self.adjacent = adjacent
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        if self.adjacent:
            kv = self.kv(tokens)
            even = kv.shape[1] // 2 * 2  # a last token without a partner is neither key nor value
            k, v = kv[:, 0:even:2], kv[:, 1:even:2]  # [B, N // 2, C] each
        else:
            k, v = self.k(tokens), self.v(tokens)  # [B, N, C] each
        q, k, v = (x.unflatten(2, (HEADS, -1)).transpose(1, 2) for x in (self.q(tokens), k, v))  # [B, 8, N, C/8]
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # [B, N, C]
        return self.dropout(self.proj(mixed))


def differentiable_plan(cost: Tensor, reg: float) -> Tensor:
    """As sinkhorn_plan, and gradients flow to ``cost`` (once, not twice). [B, N, M] -> [B, N, M]."""
    return _DifferentiablePlan.apply(cost, reg)


def sinkhorn_plan(cost: Tensor, reg: float, iterations: int = 0) -> Tensor:
    """Entropic transport plan between uniform weights, without gradient.

    Args: cost [B, N, M] in 0..1; reg > 0; iterations -- 0 means as many as convergence needs.
    Returns [B, N, M], rows summing to 1/N and columns to 1/M. Source: Cuturi, NIPS 2013.
    """
    with torch.no_grad():
        score = -cost / reg
        n, m = cost.shape[-2:]
        count = iterations or sinkhorn_iterations(reg)
        iterate = _iterate if reg >= SMALL_REG else _iterate_logarithms  # the first takes a third of the time
        plan, state = iterate(score, count, None)
        if iterations or count < MOST_ITERATIONS:
            return plan
        for _ in range(ROUNDS):  # theory promises nothing after the cap: look, and go on
            worst = float((n * plan.sum(-1) - 1).abs().max())
            if worst <= WORST_ROW:
                return plan
            plan, state = iterate(score, count, state)
        worst = float((n * plan.sum(-1) - 1).abs().max())
        if worst > WORST_ROW:
            warnings.warn(
                f"transport_reg={reg}: after {(ROUNDS + 1) * MOST_ITERATIONS:,} iterations a row of the transport plan "
                f"is off by {100 * worst:.2g}%: take a larger transport_reg",
                stacklevel=2,
            )
        return plan


def _iterate(score: Tensor, count: int, v: Tensor | None) -> tuple[Tensor, Tensor]:
    """(plan [B, N, M], scaling of the columns [B, M, 1]) after ``count`` more iterations from v."""
    n, m = score.shape[-2:]
    kernel = score.exp()  # [B, N, M]
    v = kernel.new_ones(*score.shape[:-2], m, 1) if v is None else v
    if kernel.device.type == "cpu":
        for _ in range(count):
            u = (n * (kernel @ v)).reciprocal_()  # [B, N, 1]
            v = (m * (kernel.mT @ u)).reciprocal_()  # [B, M, 1]
    else:  # where starting a kernel takes longer than running it: half as many, and other roundings
        rows, columns = n * kernel, m * kernel.mT
        for _ in range(count):
            u = (rows @ v).reciprocal_()
            v = (columns @ u).reciprocal_()
    return u * kernel * v.mT, v


def _iterate_logarithms(score: Tensor, count: int, g: Tensor | None) -> tuple[Tensor, Tensor]:
    """As ``_iterate`` with logarithms g [B, 1, M] of the columns' scaling, for kernels that underflow."""
    n, m = score.shape[-2:]
    g = score.new_zeros(*score.shape[:-2], 1, m) if g is None else g
    for _ in range(count):
        f = -math.log(n) - torch.logsumexp(score + g, dim=-1, keepdim=True)  # [B, N, 1]
        g = -math.log(m) - torch.logsumexp(score + f, dim=-2, keepdim=True)  # [B, 1, M]
    return torch.exp(score + f + g), g


def sinkhorn_iterations(reg: float) -> int:
    """Iterations after which the scaling vectors are within TOLERANCE, for costs in 0..1.

    Each half step contracts Hilbert's metric by tanh(osc / (4 reg)) with osc <= 2 (Birkhoff's theorem; Peyre and
    Cuturi, Computational Optimal Transport, section 4.2). A count from theory needs no look at the numbers,
    which on a GPU would be a synchronisation at every check.
    """
    rate = math.tanh(1 / (2 * reg)) ** 2
    start = 2 / reg
    if rate >= 1:  # reg so small that tanh rounds to 1: theory promises nothing, the cap decides
        return MOST_ITERATIONS
    if start <= TOLERANCE:
        return 1
    return min(MOST_ITERATIONS, max(1, math.ceil(math.log(TOLERANCE / start) / math.log(rate))))


class _DifferentiablePlan(torch.autograd.Function):
    """sinkhorn_plan with its exact gradient, by the implicit function theorem.

    At the fixed point both marginals of P = exp(S + f 1' + 1 g') stay put, which ties df and dg to dS. For a
    gradient G with respect to P the one with respect to S is P * (G - x 1' - 1 y'), where (x, y) solves
    [diag(P 1), P; P', diag(P' 1)] (x, y) = ((G * P) 1, (G * P)' 1). Nothing of the iterations is stored.
    """

    @staticmethod
    def forward(ctx, cost: Tensor, reg: float) -> Tensor:
        plan = sinkhorn_plan(cost, reg)
        ctx.save_for_backward(plan)
        ctx.reg = reg
        return plan

    @staticmethod
    def backward(ctx, grad: Tensor):
        (plan,) = ctx.saved_tensors
        m = plan.shape[-1]
        rows, columns = plan.sum(-1, keepdim=True), plan.sum(-2)  # [B, N, 1], [B, M]
        weighted = grad * plan
        r, c = weighted.sum(-1, keepdim=True), weighted.sum(-2)  # [B, N, 1], [B, M]
        scaled = plan / rows  # [B, N, M]
        # Eliminate x. The system leaves a common constant of y open (x takes its negative); 1/m fixes it.
        system = torch.diag_embed(columns) - plan.mT @ scaled + 1 / (m * m)  # [B, M, M]
        right = c.unsqueeze(-1) - scaled.mT @ r  # [B, M, 1]
        y = torch.linalg.solve_ex(system, right)[0]  # [B, M, 1]; ``solve`` would wait for a GPU, to look for errors
        x = (r - plan @ y) / rows  # [B, N, 1]
        return -(weighted - plan * (x + y.mT)) / ctx.reg, None


def token_grid(count: int, size: tuple[int, int]) -> tuple[int, int]:
    """The grid of about ``count`` tokens with the proportions of a map of ``size``, no finer than the map."""
    height, width = size
    rows = min(height, max(1, round(math.sqrt(count * height / width))))
    return rows, min(width, max(1, round(count / rows)))


def residual_map(middle: Tensor, size: tuple[int, int], branch: str) -> Tensor:
    """The residual of HT from a reduced middle layer: [B, C, H16, W16] -> [B, C, H8, W8].

    Resized to twice the low grid, then pooled 2x2: maximum for the support, average for the query. The 1x1
    reduction was applied before the resize, with which it commutes.
    """
    if branch == "support":
        return F.max_pool2d(resize(middle, (2 * size[0], 2 * size[1])), 2)
    # Resize and average are linear along each axis, so two small matrices do both.
    rows, columns = (_resized_means(n, m, middle) for n, m in zip(middle.shape[-2:], size))
    return rows.mT @ (middle @ columns)


def _resized_means(length: int, size: int, like: Tensor) -> Tensor:
    """[length, size]: the matrix of a linear resize (align_corners) to 2 * size values and the mean of each pair."""
    eye = torch.eye(length, device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))[None]
    resized = F.interpolate(eye, size=2 * size, mode="linear", align_corners=True)  # [1, length, 2 * size]
    return resized.unflatten(2, (size, 2)).mean(-1)[0].to(like.dtype)
