"""The selective scan as one loop over its steps: the form that can be exported, for a graph has no other.

Of all the forms it has the smallest graph (one `Scan` in ONNX) and holds one state at a time. It has no backward.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch._higher_order_ops import scan  # PyTorch's only loop that its exporter knows; no public module has it yet


def looped_scan(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """`h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t, y_t = <C_t, h_t>`: `selective_scan` without D u.

    Args:
        u: the sequences, (N, G, L, R).
        delta: step sizes, of u's shape.
        a: diagonal of the state matrix, (G, R, S).
        b: input weights, (N, G, L, S).
        c: output weights, (N, G, L, S).

    Returns:
        y, (N, G, L, R).
    """
    rates = a.mT.contiguous()  # (G, S, R)

    def step(state: Tensor, now: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        inflow, delta_t, b_t, c_t = now  # (N, G, R), (N, G, R), (N, G, S), (N, G, S)
        state = torch.exp(delta_t.unsqueeze(2) * rates) * state + b_t.unsqueeze(3) * inflow.unsqueeze(2)
        return state.contiguous(), (c_t.unsqueeze(3) * state).sum(dim=2)

    start = u.new_zeros(u.shape[0], *rates.shape)  # (N, G, S, R)
    _, y = scan(step, start, tuple(x.permute(2, 0, 1, 3) for x in (delta * u, delta, b, c)))
    return y.permute(1, 2, 0, 3)
