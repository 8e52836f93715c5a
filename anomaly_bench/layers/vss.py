"""The visual state-space block: a selective scan over the image in four directions.

Paper       DLKD, eq. 1, where it is GFM ("global feature modeling based on SSM"). Of its inside the paper says "hybrid
            scanning" alone, and cites VM-UNet (Ruan et al., 2024), whose four-way scan, structure and initialisation
            this is, but for in_proj and out_proj, which start as PyTorch's; MambaAD's Hilbert scan is not taken.
GFM         X + SS2D(LN(X))
SS2D        (x, z) = Linear(X); x = SiLU(DWConv3x3(x)); four sequences of x; for each
            (r, B, C) = Linear(x), delta = softplus(Linear(r) + bias), A = -exp(A_log)
            h_t = exp(delta_t A) h_{t-1} + delta_t x_t B_t, y_t = <C_t, h_t> + D x_t
            out = Linear(LN(sum of the four y, each at its place) * SiLU(z))
Shapes      X (N, C, H, W); x z (N, expand*C, H, W); sequences (N, 4, H*W, expand*C)
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_bench.layers.selective_scan import selective_scan

DIRECTIONS = 4  # rows and columns, each forwards and backwards
NORM_EPS = 1e-6  # VM-UNet's
LARGEST_LOG_RATE = math.log(1e4)  # training leaves A_log free
STEP_RANGE = (1e-3, 1e-1)  # of delta at the start, log-uniform, never under the floor: Mamba's
STEP_FLOOR = 1e-4


def cross_scan(x: Tensor) -> Tensor:
    """Four sequences of a map: its rows, its columns, and both from the end; (N, C, H, W) to (N, 4, H*W, C)."""
    rows, columns = x.flatten(2).mT, x.mT.flatten(2).mT  # (N, H*W, C)
    forwards = torch.stack([rows, columns], dim=1)
    return torch.cat([forwards, forwards.flip(2)], dim=1)


def cross_merge(y: Tensor, height: int, width: int) -> Tensor:
    """The sum of four sequences, each step back at its place; (N, 4, H*W, C) to (N, C, H, W)."""
    n, _, _, channels = y.shape
    rows, columns = (y[:, :2] + y[:, 2:].flip(2)).mT.unbind(1)  # (N, C, H*W)
    return rows.reshape(n, channels, height, width) + columns.reshape(n, channels, width, height).mT


class SS2D(nn.Module):
    """Two-dimensional selective scan, see the head of this file.

    `A_log` and `D` carry the attribute `no_weight_decay`, by which an optimiser may tell them, as in Mamba's code; the
    paper's weight decay says nothing of them. Deep copies of a parameter lose it.

    Args:
        channels: C.
        d_state: N, states of every inner channel.
        expand: inner channels per channel.
    """

    def __init__(self, channels: int, *, d_state: int = 16, expand: int = 2) -> None:
        super().__init__()
        inner, rank = expand * channels, math.ceil(channels / 16)
        self.splits = [rank, d_state, d_state]
        self.in_proj = nn.Conv2d(channels, 2 * inner, kernel_size=1, bias=False)
        self.depthwise = nn.Conv2d(inner, inner, kernel_size=3, padding=1, groups=inner)
        # One matrix a direction, as rows of a Linear's weight: (4, out, in).
        self.x_proj = nn.Parameter(self._linear(DIRECTIONS, rank + 2 * d_state, inner))
        self.step_proj = nn.Parameter(torch.empty(DIRECTIONS, inner, rank).uniform_(-(rank**-0.5), rank**-0.5))
        self.step_bias = nn.Parameter(self._step_bias(DIRECTIONS, inner))
        rates = torch.arange(1, d_state + 1, dtype=torch.float32)
        self.A_log = nn.Parameter(rates.log().expand(DIRECTIONS, inner, d_state).clone())
        self.D = nn.Parameter(torch.ones(DIRECTIONS, inner))
        for undecayed in (self.A_log, self.D):
            undecayed.no_weight_decay = True  # type: ignore[attr-defined]
        self.norm = nn.LayerNorm(inner)
        self.out_proj = nn.Conv2d(inner, channels, kernel_size=1, bias=False)

    @staticmethod
    def _linear(count: int, out_features: int, in_features: int) -> Tensor:
        """Weights of `count` Linear layers as PyTorch starts them."""
        bound = in_features**-0.5
        return torch.empty(count, out_features, in_features).uniform_(-bound, bound)

    @staticmethod
    def _step_bias(directions: int, inner: int) -> Tensor:
        """The inverse softplus of log-uniform step sizes."""
        low, high = (math.log(bound) for bound in STEP_RANGE)
        steps = torch.empty(directions, inner).uniform_(low, high).exp().clamp(min=STEP_FLOOR)
        return steps + torch.log(-torch.expm1(-steps))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        height, width = x.shape[2:]
        x, gate = self.in_proj(x).chunk(2, dim=1)  # (N, inner, H, W)
        y = cross_merge(self.scan(cross_scan(F.silu(self.depthwise(x)))), height, width)
        normed = self.norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.out_proj(normed * F.silu(gate))

    def scan(self, sequences: Tensor) -> Tensor:
        """y of four sequences, (N, 4, L, inner) to the same shape, in float32 at least."""
        mixed = torch.einsum("nglr,gor->nglo", sequences, self.x_proj)
        rank, b, c = torch.split(mixed, self.splits, dim=3)
        # Step sizes and decays in float32 whatever the mixed precision: bfloat16 would spoil long products.
        with torch.autocast(sequences.device.type, enabled=False):
            wide = torch.promote_types(self.D.dtype, torch.float32)
            steps = torch.einsum("nglo,gro->nglr", rank.to(wide), self.step_proj) + self.step_bias[:, None]
            decay = -self.A_log.clamp(max=LARGEST_LOG_RATE).exp()
            return selective_scan(sequences, F.softplus(steps), decay, b, c, self.D)


class VSSBlock(nn.Module):
    """X + SS2D(LN(X)), without VM-UNet's drop path; arguments as `SS2D`."""

    def __init__(self, channels: int, *, d_state: int = 16, expand: int = 2) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=NORM_EPS)
        self.scan = SS2D(channels, d_state=d_state, expand=expand)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        return x + self.scan(self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
