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
        stages: which outputs are given, counted from 1; nothing is built beyond the shallowest of them.
    """

    def __init__(self, widths: Sequence[int], plan: MirrorPlan, stages: Sequence[int] = (1, 2, 3)) -> None:
        super().__init__()
        channels = [*widths, 2 * widths[-1]]
        depths = dict(zip((3, 2, 1), plan.decoder_depths, strict=True))
        self.outputs = tuple(stages)
        # In the order of execution: S3, S2, S1.
        self.blocks = nn.ModuleList(
            residual_stage(channels[stage], channels[stage - 1], depths[stage], "up", plan)
            for stage in range(3, min(stages) - 1, -1)
        )
        initialise(self)

    def forward(self, z: Tensor) -> list[Tensor]:
        """z (N, 2*C3, H/8, W/8) to S1 (N, C1, H, W), S2 (N, C2, H/2, W/2), S3 (N, C3, H/4, W/4), or those asked for."""
        decoded: dict[int, Tensor] = {}
        for stage, block in zip((3, 2, 1), self.blocks, strict=False):
            z = decoded[stage] = block(z)
        return [decoded[stage] for stage in self.outputs]
