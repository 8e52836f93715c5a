"""Feature refinement feed-forward network, the FRFN of DLKD's global and local blocks.

Paper       DLKD, eq. 1-2; the paper names the block and cites AST (Zhou et al., CVPR 2024) for its inside.
Formula     x' = Concat(Conv3x3(x[:C/4]), x[C/4:])
            a = GELU(Linear_a(x')), b = GELU(Linear_b(x'))           AST's one C -> 2h layer, cut into its halves
            FRFN(x) = Linear_out(GELU(DWConv3x3(a)) * b)             h -> C
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FRFN(nn.Module):
    """Refine a quarter of the channels, then let one half of the hidden features gate the other.

    Neither norm nor skip inside: the blocks around it have theirs. A 1x1 convolution is the Linear of AST's code; in
    channels_last memory it runs as one matrix product without any transposition.

    Args:
        channels: C; the first C // 4 pass the partial convolution.
        hidden: h, channels of either half.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.partial_channels = channels // 4
        self.partial = nn.Conv2d(self.partial_channels, self.partial_channels, kernel_size=3, padding=1, bias=False)
        # Two layers in place of one and a cut: slices of a channels_last map have to be copied before they are used.
        self.to_a = nn.Conv2d(channels, hidden, kernel_size=1)
        self.to_b = nn.Conv2d(channels, hidden, kernel_size=1)
        self.depthwise = nn.Conv2d(hidden, hidden, kernel_size=3, padding=1, groups=hidden)
        self.out = nn.Conv2d(hidden, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        refined = self.partial(x[:, : self.partial_channels])  # (N, C // 4, H, W)
        x = torch.cat([refined, x[:, self.partial_channels :]], dim=1)
        a, b = F.gelu(self.to_a(x)), F.gelu(self.to_b(x))  # (N, h, H, W)
        return self.out(F.gelu(self.depthwise(a)) * b)
