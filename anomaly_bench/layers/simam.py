"""SimAM: attention without weights, which marks the positions that stand out in their channel.

Paper       FMM+SCSAtt paper, sec. 3.6, eq. 9-10; after Yang et al., "SimAM: A Simple, Parameter-Free Attention Module
            for Convolutional Neural Networks", ICML 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def simam(x: Tensor, *, lam: float = 1e-4) -> Tensor:
    """Weight every position by the sigmoid of its inverse energy (FMM+SCSAtt paper, eq. 9-10).

    Per sample and channel, d = (x - mean)^2 and v = sum(d) / (H W - 1); then 1/e = d / (4 (v + lam)) + 1/2 (eq. 9).

    Args:
        x: features, (N, C, H, W), more than one position.
        lam: eq. 9's lambda; not stated in the paper, 1e-4 is the default of SimAM's authors.

    Returns:
        (N, C, H, W), of x's type; every value scaled by a factor in [0.62, 1].

    Raises:
        ValueError: the map is a single position, which has no variance.
    """
    positions = x.shape[2] * x.shape[3]
    if positions < 2:
        raise ValueError("SimAM needs maps of at least two positions, not 1x1")
    # At least float32: in bfloat16 a channel of large mean and small spread would lose its deviations.
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    d = (wide - wide.mean(dim=(2, 3), keepdim=True)).square()
    v = d.sum(dim=(2, 3), keepdim=True) / (positions - 1)  # (N, C, 1, 1)
    # The paper's sentence leaves the position itself out of mean and v, its closed form does not: we follow the form.
    return (wide * torch.sigmoid(d / (4 * (v + lam)) + 0.5)).to(x.dtype)


class SimAM(nn.Module):
    """`simam` with its lambda, where a sequence of layers needs one."""

    def __init__(self, lam: float) -> None:
        super().__init__()
        self.lam = lam

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        return simam(x, lam=self.lam)
