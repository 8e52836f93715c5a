"""The selective scan of state-space models (Mamba's recurrence), in PyTorch operations with a backward of its own.

    h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t        h_{-1} = 0
    y_t = <C_t, h_t> + D u_t

No state outlives its block: the forward keeps its inputs and the state with which every chunk of T steps begins, and
the backward computes the states between anew. With the adjoint G_t = C_t dy_t + exp(delta_{t+1} A) G_{t+1},

    dC_t = sum_r dy_t h_t     dB_t = sum_r delta_t u_t G_t     d(delta u)_t = sum_n B_t G_t
    d(delta A)_t = G_t exp(delta_t A) h_{t-1}

Every factor is a decay, in [0, 1] for A <= 0: nothing can overflow, and what underflows is rightly 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, reduce
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# PyTorch gives a further CPU thread to an element-wise operation only for every 32768 elements.
CPU_GRAIN = 32768
# A chunk of 16 steps keeps the work arrays in the cache, and the saved states at 1/16 of all of them.
CPU_STEPS = 16
# Elements of one work array on a GPU (256 MiB in float32), where few large launches count more than the cache.
GPU_BLOCK = 2**26


def selective_scan(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Scan G directions of L steps, each of R channels with S states, for N samples.

    Works in float32, or in float64 where an argument is of it, with autocast off. On a GPU the kernel of `mamba-ssm`
    is used where that package is installed (but not for float64, which it does not know).

    Args:
        u: the sequences, (N, G, L, R).
        delta: step sizes after the softplus, of u's shape; any value >= 0.
        a: diagonal of the state matrix, (G, R, S), not above 0.
        b: input weights, (N, G, L, S).
        c: output weights, (N, G, L, S).
        d: weight of the skip connection, (G, R).

    Returns:
        y, (N, G, L, R).

    Raises:
        ValueError: the shapes do not belong together.
    """
    n, g, steps, r = u.shape
    expected = [(n, g, steps, r), (g, r, a.shape[-1]), (n, g, steps, a.shape[-1]), (n, g, steps, a.shape[-1]), (g, r)]
    given = [tuple(tensor.shape) for tensor in (delta, a, b, c, d)]
    if given != expected:
        raise ValueError(f"delta, a, b, c, d are of shapes {given}, but u of {tuple(u.shape)} needs {expected}")
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in (u, delta, a, b, c, d)), torch.float32)
    with torch.autocast(u.device.type, enabled=False):
        u, delta, a, b, c, d = (tensor.to(dtype) for tensor in (u, delta, a, b, c, d))
        if torch.compiler.is_exporting():
            from anomaly_bench.layers.looped_scan import looped_scan

            return looped_scan(u, delta, a, b, c) + d.unsqueeze(1) * u
        kernel = fused_kernel(u.device, dtype)
        if kernel is not None:
            return scan_with_kernel(kernel, u, delta, a, b, c, d)
        plan = make_plan(u.device.type, n, g * r * a.shape[-1], steps)
        return chunked_scan(u, delta, a, b, c, plan) + d.unsqueeze(1) * u


def fused_kernel(device: torch.device, dtype: torch.dtype) -> Callable[..., Any] | None:
    """`mamba-ssm`'s kernel if tensors of that kind can go through it; a broken installation raises ImportError."""
    if device.type != "cuda" or dtype == torch.float64 or find_spec("mamba_ssm") is None:
        return None
    try:
        return import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
    except ImportError as error:  # built for another torch, mostly
        raise ImportError(
            f"mamba-ssm cannot be imported ({error}); reinstall it for this torch, or remove it"
        ) from error


def scan_with_kernel(
    kernel: Callable[..., Any], u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor
) -> Tensor:
    """`selective_scan` by a kernel of layout `u, delta (N, G*R, L), A (G*R, S), B, C (N, G, S, L), D (G*R)`."""
    sequences = [tensor.transpose(2, 3).flatten(1, 2).contiguous() for tensor in (u, delta)]
    weights = [tensor.transpose(2, 3).contiguous() for tensor in (b, c)]
    y: Tensor = kernel(*sequences, a.flatten(0, 1).contiguous(), *weights, d.flatten(), delta_softplus=False)
    n, g, steps, r = u.shape
    return y.reshape(n, g, r, steps).transpose(2, 3)


class Plan(NamedTuple):
    """How the work is cut: a block is `rows` chunks of `steps` steps side by side, for `samples` samples at once."""

    samples: int
    rows: int
    steps: int


def make_plan(device_type: str, samples: int, width: int, steps: int) -> Plan:
    """The plan for sequences of `steps` steps, whose state has `width` elements a sample.

    A CPU takes chunk after chunk, and so many samples at once that every thread has its share of each step. Elsewhere
    a step costs a launch, whatever its size: as many rows as a chunk has steps make the fewest launches.
    """
    if device_type == "cpu":
        together = max(1, torch.get_num_threads() * CPU_GRAIN // width)
        return Plan(min(samples, together), 1, math.ceil(steps / math.ceil(steps / CPU_STEPS)))
    block = min(steps, max(CPU_STEPS, GPU_BLOCK // (samples * width)))
    chunk = math.ceil(math.sqrt(block))
    return Plan(samples, math.ceil(block / chunk), chunk)


def chunked_scan(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, plan: Plan) -> Tensor:
    """`selective_scan` without D u, cut as the plan says."""
    steps = u.shape[2]
    missing = -steps % (plan.rows * plan.steps)
    if missing:  # steps of delta = 0 fill the last block: they change no state
        u, delta, b, c = (F.pad(tensor, (0, 0, 0, missing)) for tensor in (u, delta, b, c))
    y: Tensor = ChunkedScan.apply(u, delta, a.transpose(1, 2), b, c, plan)
    return y[:, :, :steps]


class ChunkedScan(torch.autograd.Function):
    """The scan of whole blocks; a is (G, S, R), for the channels are innermost in all that is large."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, plan: Plan) -> Tensor:
        """y of u's shape (N, G, L, R)."""
        u, delta, a, b, c = (tensor.contiguous() for tensor in (u, delta, a, b, c))
        y = torch.empty_like(u)
        entries = u.new_empty(*u.shape[:2], u.shape[2] // plan.steps, *a.shape[1:])  # (N, G, L/T, S, R)
        for group, blocks in cut(u, plan):
            work = Work(u[group], a, plan)
            carry = torch.zeros_like(entries[group, :, 0])
            for steps, chunks in blocks:
                here = (group, slice(None), steps)
                work.load(u[here], delta[here], b[here])
                entering = work.entering_states(carry)
                entries[group, :, chunks] = entering
                carry = work.run_states(entering)
                y[here] = sum_states(c[here], work.states, out=work.spare)
        ctx.save_for_backward(u, delta, a, b, c, entries)
        ctx.plan = plan
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of u, delta, a, b, c as far as they are needed, from the last block to the first."""
        u, delta, a, b, c, entries = ctx.saved_tensors
        gradients = Gradients.allocate((u, delta, a, b, c), ctx.needs_input_grad[:5])
        # Under the caller's autocast the products below would be taken in half precision.
        with torch.autocast(dy.device.type, enabled=False):
            for group, blocks in cut(u, ctx.plan):
                work = Work(u[group], a, ctx.plan)
                carry = torch.zeros_like(entries[group, :, 0])
                for steps, chunks in reversed(blocks):
                    here = (group, slice(None), steps)
                    entering = entries[group, :, chunks]
                    work.load(u[here], delta[here], b[here])
                    work.run_states(entering)
                    work.load_adjoints(dy[here], c[here])
                    carry = work.run_adjoints(work.entering_adjoints(carry))
                    gradients.write(here, work, dy[here], entering)
        return *gradients, None


def cut(u: Tensor, plan: Plan) -> Iterator[tuple[slice, list[tuple[slice, slice]]]]:
    """Slices of the samples, and with each the blocks as slices of the steps and of the chunks."""
    size = plan.rows * plan.steps
    count = u.shape[2] // size
    blocks = [(slice(k * size, (k + 1) * size), slice(k * plan.rows, (k + 1) * plan.rows)) for k in range(count)]
    for first in range(0, len(u), plan.samples):
        yield slice(first, first + plan.samples), blocks


class Work:
    """The arrays of one block, allocated once: no others hold a state for every step.

    `decays`, `states` and `adjoints` are (n, G, K, T, S, R) for n samples and K rows of T steps. Values "entering" the
    chunks are (n, G, K, S, R), the carry from block to block is (n, G, S, R).
    """

    def __init__(self, u: Tensor, a: Tensor, plan: Plan) -> None:
        self.a = a.unsqueeze(1)
        self.rows = plan.rows
        self.decays = u.new_empty(*u.shape[:2], plan.rows, plan.steps, *a.shape[1:])
        self.states = torch.empty_like(self.decays)
        self.decay_at, self.state_at = self.decays.unbind(3), self.states.unbind(3)
        # Fresh memory for each block's small results would cost more than their arithmetic.
        self.inflow = u.new_empty(*u.shape[:2], plan.rows * plan.steps, u.shape[3])
        self.spare = torch.empty_like(self.inflow)

    @cached_property
    def adjoints(self) -> Tensor:
        """Only the backward has any."""
        return torch.empty_like(self.decays)

    @cached_property
    def adjoint_at(self) -> tuple[Tensor, ...]:
        """The adjoints step by step."""
        return self.adjoints.unbind(3)

    def load(self, u: Tensor, delta: Tensor, b: Tensor) -> None:
        """Set decays to exp(delta A), states to what flows in, delta u B; of (n, G, KT, R) and b (n, G, KT, S)."""
        self.u, self.delta, self.b = u, delta, b
        torch.mul(delta, u, out=self.inflow)
        torch.mul(delta.unsqueeze(3), self.a, out=self.decays.flatten(2, 3)).exp_()
        torch.mul(self.inflow.unsqueeze(3), b.unsqueeze(4), out=self.states.flatten(2, 3))

    def load_adjoints(self, dy: Tensor, c: Tensor) -> None:
        """Set adjoints to what flows in, C dy; of dy (n, G, KT, R) and c (n, G, KT, S)."""
        torch.mul(dy.unsqueeze(3), c.unsqueeze(4), out=self.adjoints.flatten(2, 3))

    def entering_states(self, carry: Tensor) -> Tensor:
        """The states before the chunks' first steps; rows after the first need a pass of their own to know them."""
        if self.rows == 1:
            return carry.unsqueeze(2)
        leaving = run_aside(self.decay_at[1:], self.state_at)
        return hand_on(carry, leaving, self.row_decays(), range(self.rows))

    def entering_adjoints(self, carry: Tensor) -> Tensor:
        """What the chunks' last adjoints have from the chunk after them, exp(delta_{t+1} A) G_{t+1}."""
        if self.rows == 1:
            return carry.unsqueeze(2)
        leaving = run_aside(self.decay_at[:0:-1], self.adjoint_at[::-1]).mul_(self.decay_at[0])
        return hand_on(carry, leaving, self.row_decays(), range(self.rows)[::-1])

    def row_decays(self) -> Tensor:
        """The decays over whole chunks, exp(A sum_t delta_t), (n, G, K, S, R)."""
        n, g, rows, steps, _, r = self.decays.shape
        return torch.exp(self.delta.reshape(n, g, rows, steps, 1, r).sum(3) * self.a)

    def run_states(self, entering: Tensor) -> Tensor:
        """Turn what flows in into states; returns the carry to the next block."""
        self.state_at[0].addcmul_(self.decay_at[0], entering)
        run(self.decay_at[1:], self.state_at)
        return self.state_at[-1][:, :, -1].clone()

    def run_adjoints(self, entering: Tensor) -> Tensor:
        """Turn what flows in into adjoints, last step first; returns the carry to the block before."""
        self.adjoint_at[-1].add_(entering)
        run(self.decay_at[:0:-1], self.adjoint_at[::-1])
        return self.adjoint_at[0][:, :, 0] * self.decay_at[0][:, :, 0]

    def decay_gradients(self, entering: Tensor) -> Tensor:
        """d(delta A)_t = G_t exp(delta_t A) h_{t-1}, in the place of the decays; (n, G, K*T, S, R)."""
        self.decays.mul_(self.adjoints)
        self.decays[:, :, :, 1:].mul_(self.states[:, :, :, :-1])
        self.decays[:, :, :, 0].mul_(entering)
        return self.decays.flatten(2, 3)


def run(decays: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """values[i] += decays[i - 1] * values[i - 1], one after another."""
    for decay, (previous, value) in zip(decays, pairwise(values), strict=True):
        value.addcmul_(decay, previous)


def run_aside(decays: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    """The last value that `run` would leave, with the values left alone."""
    result = values[0].clone()
    for decay, value in zip(decays, values[1:], strict=True):
        torch.addcmul(value, decay, result, out=result)
    return result


def hand_on(carry: Tensor, leaving: Tensor, decays: Tensor, order: range) -> Tensor:
    """What enters each row, (n, G, K, S, R): the carry, then leaving + decays * entering of the row before it."""
    entering = torch.empty_like(leaving)
    for row in order:
        entering[:, :, row] = carry
        carry = torch.addcmul(leaving[:, :, row], decays[:, :, row], carry)
    return entering


def sum_states(weights: Tensor, array: Tensor, *, out: Tensor) -> Tensor:
    """sum_s of weights (n, G, KT, S) times array (n, G, K, T, S, R) to `out`, (n, G, KT, R)."""
    torch.bmm(weights.flatten(0, 2).unsqueeze(1), array.flatten(0, 3), out=out.flatten(0, 2).unsqueeze(1))
    return out


def sum_channels(weights: Tensor, array: Tensor) -> Tensor:
    """sum_r of weights (n, G, KT, R) times array (n, G, K, T, S, R) to (n, G, KT, S)."""
    # Weights as rows: with the array first and weights as columns the same product takes twice the time on a CPU.
    sums = torch.bmm(weights.flatten(0, 2).unsqueeze(1), array.flatten(0, 3).mT)
    return sums.view(*weights.shape[:3], -1)


class Gradients(NamedTuple):
    """The gradients of the scan's arguments, None where not needed."""

    u: Tensor | None
    delta: Tensor | None
    a: Tensor | None
    b: Tensor | None
    c: Tensor | None

    @classmethod
    def allocate(cls, arguments: Sequence[Tensor], needed: Sequence[bool]) -> Self:
        """Empty, but for a's, to which every block adds."""
        u, delta, a, b, c = (torch.empty_like(x) if need else None for x, need in zip(arguments, needed, strict=True))
        return cls(u, delta, None if a is None else a.zero_(), b, c)

    def write(self, here: tuple[slice, slice, slice], work: Work, dy: Tensor, entering: Tensor) -> None:
        """Take one block's gradients from its states and adjoints; the work's arrays are spent afterwards."""
        if self.c is not None:
            self.c[here] = sum_channels(dy, work.states)
        if self.b is not None:
            self.b[here] = sum_channels(work.inflow, work.adjoints)
        inflow_gradient = sum_states(work.b, work.adjoints, out=work.spare)
        if self.u is not None:
            self.u[here] = torch.mul(inflow_gradient, work.delta, out=work.inflow)
        if self.delta is None and self.a is None:
            return
        rates = work.decay_gradients(entering)
        if self.delta is not None:
            product = torch.mul(rates, work.a, out=work.states.flatten(2, 3))
            by_decay = torch.sum(product, 3, out=work.inflow)
            self.delta[here] = by_decay.addcmul_(work.u, inflow_gradient)
        if self.a is not None:
            self.a.add_(rates.mul_(work.delta.unsqueeze(3)).sum(2).sum(0))
