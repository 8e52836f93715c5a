"""Masked feature regeneration: hide positions of a student's features and rebuild them in the teacher's likeness.

Papers      FMM+SCSAtt paper, sec. 3.7, eq. 11 and the unnumbered one after it (there FMM, with the 1x1 alignment);
            AST-MFR paper, sec. 3.2, Algorithm 1 (there MFR, without). Both after Yang et al., "Masked Generative
            Distillation", ECCV 2022.
Flow        F -> A(F) -> times mask -> G = 3x3, ReLU, 3x3 -> compared with the teacher
Shapes      F (N, C_in, H, W), mask (N, 1, H, W), out (N, C_out, H, W)
Parameters  three stages of 256, 512 and 1024 channels: 26.15 M with A, 24.78 M without
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def random_mask(features: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """M = 0 where R < rate, else 1, R uniform in [0, 1) (FMM+SCSAtt paper, eq. 11; AST-MFR paper, Algorithm 1).

    Positions that stay are not scaled up, neither paper says so. Algorithm 1 shows no batch axis; we draw for
    every sample anew, as masked generative distillation does.

    Args:
        features: what will be masked, (N, C, H, W).
        rate: share of the positions to hide, in [0, 1].
        generator: where R comes from, on the features' device.

    Returns:
        (N, 1, H, W), zeros and ones of the features' type: one mask for all channels.
    """
    n, _, h, w = features.shape
    # float32 whatever the features' type: bfloat16 knows so few numbers that the rate would be missed.
    r = torch.rand(n, 1, h, w, generator=generator, device=features.device, dtype=torch.float32)
    return (r >= rate).to(features.dtype)


class Regeneration(nn.Module):
    """F_G = G(A(F) M) = W2(ReLU(W1(A(F) M))) (FMM+SCSAtt paper, the equation after eq. 11).

    A is a 1x1 convolution or nothing, W1 and W2 are 3x3 convolutions. The papers do not say whether they are biased,
    normalised or how they start: biased and bare as in masked generative distillation, PyTorch's initialisation.

    Args:
        in_channels: C_in of the student's features.
        out_channels: C_out of the teacher's.
        align: whether A is a convolution (FMM) or the identity (MFR, for which C_in = C_out).

    Raises:
        ValueError: the widths differ and nothing aligns them.
    """

    def __init__(self, in_channels: int, out_channels: int, *, align: bool) -> None:
        super().__init__()
        if not align and in_channels != out_channels:
            raise ValueError(f"features of {in_channels} channels need align=True to become {out_channels}")
        self.align = nn.Conv2d(in_channels, out_channels, kernel_size=1) if align else nn.Identity()
        self.generation = nn.Sequential(
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1),
        )

    def forward(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """(N, C_in, H, W) and a mask (N, 1, H, W), or None to hide nothing, to (N, C_out, H, W)."""
        aligned = self.align(features)
        return self.generation(aligned if mask is None else aligned * mask)
