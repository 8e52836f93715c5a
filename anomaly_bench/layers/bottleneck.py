"""RD4AD's trainable bottleneck: multi-scale feature fusion (MFF) and one-class embedding (OCE)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anomaly_bench.layers.blocks import MirrorPlan, initialise, resampling_conv, residual_stage


def halving(in_channels: int, out_channels: int) -> nn.Sequential:
    """3x3 stride 2, BN, ReLU."""
    return nn.Sequential(
        resampling_conv(in_channels, out_channels, "down"), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)
    )


class OneClassBottleneck(nn.Module):
    """z = OCE(concat(down4 T1, down2 T2, T3)): all that the decoder is told about the image.

    The authors' unused 1x1 convolution after the concatenation (8.39 M parameters, never called) is not built.

    Args:
        widths: channels C1, C2, C3 of the teacher's stages.
        plan: block type and depth of the embedding.
    """

    def __init__(self, widths: Sequence[int], plan: MirrorPlan) -> None:
        super().__init__()
        shallow, middle, deep = widths
        self.reduce1 = nn.Sequential(halving(shallow, middle), halving(middle, deep))
        self.reduce2 = halving(middle, deep)
        self.embedding = residual_stage(3 * deep, 2 * deep, plan.embedding_depth, "down", plan)
        initialise(self)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """T1 (N, C1, H, W), T2 (N, C2, H/2, W/2), T3 (N, C3, H/4, W/4) to z (N, 2*C3, H/8, W/8)."""
        t1, t2, t3 = features
        fused = torch.cat([self.reduce1(t1), self.reduce2(t2), t3], dim=1)  # (N, 3*C3, H/4, W/4)
        return self.embedding(fused)
