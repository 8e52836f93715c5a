"""SCConv: a cheap stand-in for a convolution that thins out spatial, then channel redundancy.

Paper       FMM+SCSAtt paper, sec. 3.5, eq. 2-8; after Li et al., "SCConv: Spatial and Channel Reconstruction
            Convolution for Feature Redundancy", CVPR 2023.
Flow        x -> spatial reconstruction unit (SRU, eq. 2-5) -> channel reconstruction unit (CRU, eq. 6-8)
Shapes      all (N, C, H, W) -> (N, C, H, W); 1.90 M parameters at C = 1024, a 3x3 convolution has 9.44 M
Departures  both halves of the channels are squeezed by a 1x1 convolution, which SCConv's authors have and this paper
            does not mention. The sum in eq. 3 is kept away from zero. Eq. 7 is taken as printed, a softmax over the
            pair {S1, S2} of each channel; an unofficial implementation takes it over all 2C values, which shrinks Y
            about C-fold. Eq. 4 compares the sigmoid as float32 has it, 0.5 for arguments below about 9e-8: as gammas
            shrink, more positions that are above the threshold on paper are not here (docs/fidelity/fmm_scsatt.md).
Neither normalised nor activated at its end: what follows SCConv is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

Gate = Literal["soft", "hard"]

SMALLEST_SUM = 1e-6  # of the gammas in eq. 3, which training may carry through zero

# The paper states neither, nor that GWC is 3x3: the values of the public implementation of SCConv.
SQUEEZE = 2
CONV_GROUPS = 2


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32 if it was narrower; a float64 tensor stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def soft_gate(relevance: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """W1 = 1, W2 = 0 above the threshold; below it both stay soft, so that gradients reach the gammas."""
    above = relevance > threshold
    return relevance.masked_fill(above, 1), relevance.masked_fill(above, 0)


def hard_gate(relevance: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """W1 = 1 above the threshold and 0 below, W2 = 1 - W1: the paper's words for W1, and no gradient for the gammas."""
    above = relevance > threshold
    return above.to(relevance.dtype), (~above).to(relevance.dtype)


GATES: dict[Gate, Callable[[Tensor, float], tuple[Tensor, Tensor]]] = {"soft": soft_gate, "hard": hard_gate}


class SpatialReconstruction(nn.Module):
    """SRU: part informative from redundant positions and add them crosswise (FMM+SCSAtt paper, eq. 2-5).

    X_out = GroupNorm(x), with gamma and beta (eq. 2); w_c = gamma_c / sum(gamma) (eq. 3); r = sigmoid(w X_out);
    W1, W2 = gate(r) (eq. 4); X1 = W1 x and X2 = W2 x, halved along channels into X11 X12 and X21 X22;
    out = concat(X11 + X22, X12 + X21) (eq. 5).

    Args:
        channels: C, even and a multiple of `groups`.
        gate: what the weights are below the threshold; see `soft_gate` and `hard_gate`.
        groups: of the normalisation; not stated in the paper, 4 is what the public SCConv passes.
        threshold: of the gate, stated as 0.5.

    Raises:
        ValueError: the channels do not divide.
    """

    def __init__(self, channels: int, *, gate: Gate, groups: int = 4, threshold: float = 0.5) -> None:
        super().__init__()
        if channels % 2 or channels % groups:
            raise ValueError(f"SRU needs channels that divide by 2 and by its {groups} groups, not {channels}")
        self.norm = nn.GroupNorm(groups, channels)
        self.norm.requires_grad_(gate != "hard")  # which lets no gradient through; several devices would wait for it
        self.gate = GATES[gate]
        self.threshold = threshold

    def relevance(self, x: Tensor) -> Tensor:
        """r of eq. 4, (N, C, H, W), values in [0, 1]."""
        gamma: Tensor = self.norm.weight
        total = gamma.sum()
        total = torch.where(total < 0, total.clamp(max=-SMALLEST_SUM), total.clamp(min=SMALLEST_SUM))
        return torch.sigmoid(self.norm(x) * (gamma / total).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W), of x's type."""
        # With all gammas equal, r is within about 1/C of 0.5: bfloat16 would round it onto the threshold.
        wide = at_least_float32(x)
        informative, redundant = self.gate(self.relevance(wide), self.threshold)
        x11, x12 = (informative * wide).chunk(2, dim=1)  # (N, C/2, H, W)
        x21, x22 = (redundant * wide).chunk(2, dim=1)
        return torch.cat([x11 + x22, x12 + x21], dim=1).to(x.dtype)


def pairwise_weights(y1: Tensor, y2: Tensor) -> tuple[Tensor, Tensor]:
    """beta_m = exp(S_m) / (exp(S_1) + exp(S_2)), S_m = mean_hw Y_m (FMM+SCSAtt paper, eq. 6-7).

    Args:
        y1: features, (N, C, H, W).
        y2: features of the same shape.

    Returns:
        beta_1 and beta_2, (N, C, 1, 1), at least float32; they sum to 1 in every channel.
    """
    pooled = [at_least_float32(y).mean(dim=(2, 3), keepdim=True) for y in (y1, y2)]
    beta1, beta2 = torch.stack(pooled).softmax(dim=0)
    return beta1, beta2


class ChannelReconstruction(nn.Module):
    """CRU: split the channels, transform one half richly and one cheaply, fuse (FMM+SCSAtt paper, sec. 3.5, eq. 6-8).

    u and l are the upper and lower half of the channels, each squeezed by a 1x1 convolution; Y1 = GWC(u) + PWC1(u),
    Y2 = concat(PWC2(l), l); Y = beta_1 Y1 + beta_2 Y2 (eq. 8) with the betas of `pairwise_weights`.
    GWC is a grouped 3x3 convolution, PWC a 1x1 one; only GWC has a bias.

    Args:
        channels: C, a multiple of 8.

    Raises:
        ValueError: the channels do not divide.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels % (2 * SQUEEZE * CONV_GROUPS):
            raise ValueError(f"CRU needs channels that divide by {2 * SQUEEZE * CONV_GROUPS}, not {channels}")
        half = channels // 2
        squeezed = half // SQUEEZE
        self.squeeze_upper = nn.Conv2d(half, squeezed, kernel_size=1, bias=False)
        self.squeeze_lower = nn.Conv2d(half, squeezed, kernel_size=1, bias=False)
        self.gwc = nn.Conv2d(squeezed, channels, kernel_size=3, padding=1, groups=CONV_GROUPS)
        self.pwc1 = nn.Conv2d(squeezed, channels, kernel_size=1, bias=False)
        self.pwc2 = nn.Conv2d(squeezed, channels - squeezed, kernel_size=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W), of the type that the convolutions give."""
        upper, lower = x.chunk(2, dim=1)
        upper, lower = self.squeeze_upper(upper), self.squeeze_lower(lower)  # (N, C/4, H, W)
        y1 = self.gwc(upper) + self.pwc1(upper)  # (N, C, H, W)
        y2 = torch.cat([self.pwc2(lower), lower], dim=1)
        beta1, beta2 = pairwise_weights(y1, y2)
        return (beta1 * y1 + beta2 * y2).to(y1.dtype)


class SCConv(nn.Sequential):
    """CRU(SRU(x)) (FMM+SCSAtt paper, sec. 3.5): (N, C, H, W) to (N, C, H, W).

    Args:
        channels: C, a multiple of 8.
        gate: of the SRU.

    Raises:
        ValueError: the channels do not divide.
    """

    def __init__(self, channels: int, *, gate: Gate) -> None:
        super().__init__(SpatialReconstruction(channels, gate=gate), ChannelReconstruction(channels))
