"""RD4AD's decoder ("student"): the teacher turned round, transposed 2x2 convolutions in place of strides."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from anomaly_bench.layers.blocks import MirrorPlan, initialise, residual_stage


class ReverseDecoder(nn.Module):
    """z -> S3 -> S2 -> S1, each stage twice the size of the one before.

    Args:
        widths: channels C1, C2, C3 of the teacher's stages, which the outputs take.
        plan: block type and depths.
    """

    def __init__(self, widths: Sequence[int], plan: MirrorPlan) -> None:
        super().__init__()
        shallow, middle, deep = widths
        depth3, depth2, depth1 = plan.decoder_depths
        self.stage3 = residual_stage(2 * deep, deep, depth3, "up", plan)
        self.stage2 = residual_stage(deep, middle, depth2, "up", plan)
        self.stage1 = residual_stage(middle, shallow, depth1, "up", plan)
        initialise(self)

    def forward(self, z: Tensor) -> list[Tensor]:
        """z (N, 2*C3, H/8, W/8) to [S1 (N, C1, H, W), S2 (N, C2, H/2, W/2), S3 (N, C3, H/4, W/4)]."""
        s3 = self.stage3(z)
        s2 = self.stage2(s3)
        return [self.stage1(s2), s2, s3]
