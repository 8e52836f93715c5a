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


class MultiScaleFusion(nn.Module):
    """concat(down4 T1, down2 T2, T3), or of some of them: all brought to the size of T3 (MFF, MSFF, MFFM).

    The authors' unused 1x1 convolution after the concatenation (8.39 M parameters, never called) is not built.

    Args:
        widths: channels C1, C2, C3 of the teacher's stages.
        stages: which of them are fused, counted from 1.
    """

    def __init__(self, widths: Sequence[int], stages: Sequence[int] = (1, 2, 3)) -> None:
        super().__init__()
        shallow, middle, deep = widths
        steps = {1: [(shallow, middle), (middle, deep)], 2: [(middle, deep)], 3: []}
        self.stages = tuple(stages)
        self.reduce = nn.ModuleList(nn.Sequential(*(halving(*step) for step in steps[stage])) for stage in stages)
        self.out_channels = deep * len(self.stages)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """T1 (N, C1, H, W), T2 (N, C2, H/2, W/2), T3 (N, C3, H/4, W/4) to (N, K*C3, H/4, W/4) of K fused stages."""
        pairs = zip(self.reduce, self.stages, strict=True)
        return torch.cat([reduce(features[stage - 1]) for reduce, stage in pairs], dim=1)


def one_class_embedding(in_channels: int, out_channels: int, plan: MirrorPlan) -> nn.Sequential:
    """OCE: what a teacher's fourth stage would be, on the fused features."""
    return residual_stage(in_channels, out_channels, plan.embedding_depth, "down", plan)


class OneClassBottleneck(nn.Module):
    """z = OCE(concat(down4 T1, down2 T2, T3)): all that the decoder is told about the image.

    Args:
        widths: channels C1, C2, C3 of the teacher's stages.
        plan: block type and depth of the embedding.
    """

    def __init__(self, widths: Sequence[int], plan: MirrorPlan) -> None:
        super().__init__()
        self.fusion = MultiScaleFusion(widths)
        self.embedding = one_class_embedding(self.fusion.out_channels, 2 * widths[-1], plan)
        initialise(self)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """T1 (N, C1, H, W), T2 (N, C2, H/2, W/2), T3 (N, C3, H/4, W/4) to z (N, 2*C3, H/8, W/8)."""
        return self.embedding(self.fusion(features))
