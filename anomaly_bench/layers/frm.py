"""Feature reconstruction and precise refinement of DLKD's student.

Paper       DLKD, eq. 1-5 and fig. 1 b-e.
GFRB        X + Embed(FRFN(GFM(X)))                                              eq. 1
LFRB        Y^n' = FRFN(Conv(DWConv3x3(Conv(Y^n)))), n = 1..s                    eq. 2
            F_L = Embed(Concat(Y^1', ..., Y^s'))                                 eq. 3
FRM         F_out = Conv(Concat(F_G, F_L)) + F_in                                eq. 4
Precise     F_PS = Precise(F_CS * (1 - M)) * M + F_CS * (1 - M)                  eq. 5
Unstated    norms and activations, the kind and number of patches, the embedding's layers and the hidden width:
            each choice is named where it is made. Initialisation is PyTorch's own, as the paper gives none.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from anomaly_bench.layers.frfn import FRFN
from anomaly_bench.layers.vss import VSSBlock

Patches = Literal["grid", "channels", "none"]


def embed(channels: int) -> nn.Sequential:
    """Low-dimensional embedding of eq. 1 and 3: 1x1 C -> C/2, 3x3, 1x1 C/2 -> C, each with BN, GELU between.

    The paper says "several convolutional layers"; half the channels is the mildest bottleneck that deserves the name.
    """
    narrow = channels // 2
    return nn.Sequential(
        nn.Conv2d(channels, narrow, kernel_size=1, bias=False),
        nn.BatchNorm2d(narrow),
        nn.GELU(),
        nn.Conv2d(narrow, narrow, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(narrow),
        nn.GELU(),
        nn.Conv2d(narrow, channels, kernel_size=1, bias=False),
        nn.BatchNorm2d(channels),
    )


def split(x: Tensor, patches: Patches) -> Tensor:
    """Fold the s patches of eq. 2 into the batch: (N, C, H, W) to (s*N, C', H', W'), patch after patch.

    Concatenated slices keep the memory format of x, which a reshape across axes would lose.

    Args:
        x: features, (N, C, H, W).
        patches: "grid", 2x2 of (C, H/2, W/2); "channels", 4 of (C/4, H, W); "none", x itself.

    Raises:
        ValueError: a grid of an odd H or W.
    """
    if patches == "none":
        return x
    if patches == "channels":
        return torch.cat(x.chunk(4, dim=1))
    height, width = x.shape[2:]
    if height % 2 or width % 2:
        raise ValueError(f"patches='grid' needs even height and width, not {height}x{width}")
    return torch.cat([patch for band in x.chunk(2, dim=2) for patch in band.chunk(2, dim=3)])


def join(y: Tensor, patches: Patches) -> Tensor:
    """Undo `split` exactly, the Concat of eq. 3: (s*N, C', H', W') to (N, C, H, W)."""
    if patches == "none":
        return y
    parts = y.view(4, -1, *y.shape[1:]).unbind(0)  # of any N: chunk(4) would need to know it, and an export does not
    if patches == "channels":
        return torch.cat(parts, dim=1)
    top_left, top_right, bottom_left, bottom_right = parts
    bands = [torch.cat([top_left, top_right], dim=3), torch.cat([bottom_left, bottom_right], dim=3)]
    return torch.cat(bands, dim=2)


class LFRB(nn.Module):
    """Local feature reconstruction block, eq. 2-3: patches go through one small CNN, then the embedding joins them.

    The paper states neither norm, activation nor sharing. BN and GELU, the FRFN's activation, follow each convolution
    of eq. 2; all patches share the weights, which makes eq. 2 one function of the patch, as it is written. Zero padding
    leaves seams between the patches of a grid, which the embedding's 3x3 bridges.

    Args:
        channels: C.
        patches: what eq. 2 calls patches, see `split`.
        ffn_ratio: hidden channels of the FRFN per channel of a patch.

    Raises:
        ValueError: "channels" where C is no multiple of 4 or under 16, too few for the FRFN's own quarter.
    """

    def __init__(self, channels: int, *, patches: Patches, ffn_ratio: int) -> None:
        super().__init__()
        if patches == "channels" and (channels % 4 or channels < 16):
            raise ValueError(f"patches='channels' needs a multiple of 4 channels, at least 16, not {channels}")
        self.patches = patches
        width = channels // 4 if patches == "channels" else channels
        self.local = nn.Sequential(
            nn.Conv2d(width, width, kernel_size=1, bias=False),
            nn.BatchNorm2d(width),
            nn.GELU(),
            nn.Conv2d(width, width, kernel_size=3, padding=1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.GELU(),
            nn.Conv2d(width, width, kernel_size=1, bias=False),
            nn.BatchNorm2d(width),
            nn.GELU(),
            FRFN(width, ffn_ratio * width),
        )
        self.embed = embed(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W); "grid" raises ValueError where H or W is odd."""
        return self.embed(join(self.local(split(x, self.patches)), self.patches))


class GFRB(nn.Module):
    """Global feature reconstruction block, eq. 1: X + Embed(FRFN(GFM(X))), GFM the visual state-space block.

    Args:
        channels: C.
        d_state: N, state size of the scan.
        expand: inner channels of the scan per channel.
        ffn_ratio: hidden channels of the FRFN per channel.
    """

    def __init__(self, channels: int, *, d_state: int, expand: int, ffn_ratio: int) -> None:
        super().__init__()
        self.gfm = VSSBlock(channels, d_state=d_state, expand=expand)
        self.frfn = FRFN(channels, ffn_ratio * channels)
        self.embed = embed(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        return x + self.embed(self.frfn(self.gfm(x)))


class FRM(nn.Module):
    """Feature reconstruction module, eq. 4, F_out = Conv(Concat(F_G, F_L)) + F_in, F_G = GFRB(F_in), F_L = LFRB(F_in).

    A branch that is off is not built and leaves the concatenation; with both off F_out = F_in. The paper states no norm
    after the 1x1 convolution; BN, as in the embeddings before it.

    Args:
        channels: C.
        gfrb: build the global branch.
        lfrb: build the local branch.
        patches: see `LFRB`.
        ffn_ratio: see `LFRB` and `GFRB`.
        d_state: see `GFRB`.
        expand: see `GFRB`.
    """

    def __init__(
        self, channels: int, *, gfrb: bool, lfrb: bool, patches: Patches, ffn_ratio: int, d_state: int, expand: int
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleDict()
        if gfrb:
            self.branches["gfrb"] = GFRB(channels, d_state=d_state, expand=expand, ffn_ratio=ffn_ratio)
        if lfrb:
            self.branches["lfrb"] = LFRB(channels, patches=patches, ffn_ratio=ffn_ratio)
        self.fuse: nn.Module | None = None
        if self.branches:
            joined = len(self.branches) * channels
            self.fuse = nn.Sequential(nn.Conv2d(joined, channels, kernel_size=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        if self.fuse is None:
            return x
        features = torch.cat([branch(x) for branch in self.branches.values()], dim=1)  # (N, 2*C, H, W)
        return self.fuse(features) + x


class PreciseRefinement(nn.Module):
    """Eq. 5's Precise for one scale: two LFRBs, each with a skip, x + LFRB(x).

    Args:
        channels: C.
        patches: see `LFRB`.
        ffn_ratio: see `LFRB`.
    """

    def __init__(self, channels: int, *, patches: Patches, ffn_ratio: int) -> None:
        super().__init__()
        self.first = LFRB(channels, patches=patches, ffn_ratio=ffn_ratio)
        self.second = LFRB(channels, patches=patches, ffn_ratio=ffn_ratio)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        x = x + self.first(x)
        return x + self.second(x)


def refine(coarse: Tensor, distance_map: Tensor, precise: nn.Module, *, detach: bool) -> Tensor:
    """Eq. 5: F_PS = Precise(F_CS * (1 - M)) * M + F_CS * (1 - M), M one value for all channels of a position.

    Args:
        coarse: F_CS, the coarse decoder's features, (N, C, H, W).
        distance_map: M = 1 - cos, (N, H, W); clamped to [0, 1], as a cosine under 0 would turn features round.
        precise: Precise, from (N, C, H, W) to the same shape.
        detach: keep the gradient out of M; else the loss can also fall by shaping M. The paper does not say.

    Returns:
        F_PS, (N, C, H, W); equal to F_CS where M is 0.
    """
    mask = distance_map.clamp(0, 1).unsqueeze(1)  # (N, 1, H, W)
    if detach:
        mask = mask.detach()
    normal = coarse * (1 - mask)
    return precise(normal) * mask + normal
