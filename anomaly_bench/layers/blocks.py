"""Residual blocks of RD4AD's bottleneck and decoder: a stage halves (encoder) or doubles (decoder) the map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

Resampling = Literal["down", "same", "up"]


@dataclass(frozen=True)
class MirrorPlan:
    """How the student mirrors a teacher: RD4AD builds bottleneck and decoder from the teacher's own block type.

    Attributes:
        block: "basic" (two 3x3) or "bottleneck" (1x1, 3x3, 1x1 with expansion 4).
        decoder_depths: blocks of the decoder's stages in the order of execution, deepest first.
        embedding_depth: blocks of the one-class embedding.
        base_width: channels of a bottleneck's 3x3 per 64 planes (128 in WideResNet50-2).
    """

    block: Literal["basic", "bottleneck"]
    decoder_depths: tuple[int, int, int]
    embedding_depth: int
    base_width: int = 64


MIRROR_PLANS = {
    "resnet18": MirrorPlan("basic", (2, 2, 2), 2),
    "resnet34": MirrorPlan("basic", (3, 4, 6), 3),
    "resnet50": MirrorPlan("bottleneck", (3, 4, 6), 3),
    "resnet50_caffe": MirrorPlan("bottleneck", (3, 4, 6), 3),
    "wide_resnet50_2": MirrorPlan("bottleneck", (3, 4, 6), 3, base_width=128),
}


def mirror_plan(architecture: str) -> MirrorPlan:
    """The plan for a teacher; one that is not in `MIRROR_PLANS` (an EfficientNet, say) gets ResNet18's.

    Its basic blocks at the widths of another bottleneck network (ResNet101) are several times as heavy as bottlenecks.
    Every block ends in ReLU, as a ResNet's do; an EfficientNet's stages do not, and their negative half stays unlearnt.
    """
    return MIRROR_PLANS.get(architecture, MIRROR_PLANS["resnet18"])


def resampling_conv(in_channels: int, out_channels: int, resampling: Resampling) -> nn.Module:
    """3x3 convolution that keeps or halves the map, or the 2x2 transposed one that doubles it; never a bias."""
    if resampling == "up":
        return nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2, bias=False)
    stride = 2 if resampling == "down" else 1
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)


def shortcut(in_channels: int, out_channels: int, resampling: Resampling) -> nn.Module:
    """Identity where shapes agree, else a projection + BN that resamples like the block."""
    if resampling == "same" and in_channels == out_channels:
        return nn.Identity()
    if resampling == "up":
        projection: nn.Module = resampling_conv(in_channels, out_channels, "up")
    else:
        stride = 2 if resampling == "down" else 1
        projection = nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)
    return nn.Sequential(projection, nn.BatchNorm2d(out_channels))


def pointwise(in_channels: int, out_channels: int) -> nn.Sequential:
    """1x1 convolution, BN, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class ResidualBlock(nn.Module):
    """ReLU(f(x) + shortcut(x)), f as the plan says; the first convolution (basic) or the 3x3 (bottleneck) resamples."""

    def __init__(self, in_channels: int, out_channels: int, resampling: Resampling, plan: MirrorPlan) -> None:
        super().__init__()
        layers = self._basic if plan.block == "basic" else self._bottleneck
        self.residual = layers(in_channels, out_channels, resampling, plan)
        self.shortcut = shortcut(in_channels, out_channels, resampling)
        self.activation = nn.ReLU(inplace=True)

    @staticmethod
    def _basic(in_channels: int, out_channels: int, resampling: Resampling, plan: MirrorPlan) -> nn.Sequential:
        return nn.Sequential(
            resampling_conv(in_channels, out_channels, resampling),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            resampling_conv(out_channels, out_channels, "same"),
            nn.BatchNorm2d(out_channels),
        )

    @staticmethod
    def _bottleneck(in_channels: int, out_channels: int, resampling: Resampling, plan: MirrorPlan) -> nn.Sequential:
        width = out_channels // 4 * plan.base_width // 64
        return nn.Sequential(
            nn.Conv2d(in_channels, width, kernel_size=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            resampling_conv(width, width, resampling),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, out_channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, H', W'), H' = H/2, H or 2H."""
        return self.activation(self.residual(x) + self.shortcut(x))


def residual_stage(
    in_channels: int, out_channels: int, depth: int, resampling: Resampling, plan: MirrorPlan
) -> nn.Sequential:
    """`depth` blocks, of which the first resamples."""
    first = ResidualBlock(in_channels, out_channels, resampling, plan)
    rest = [ResidualBlock(out_channels, out_channels, "same", plan) for _ in range(depth - 1)]
    return nn.Sequential(first, *rest)


def initialise(module: nn.Module) -> None:
    """RD4AD's initialisation: Kaiming-normal (fan out) convolutions; transposed ones and BN keep PyTorch's own."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
