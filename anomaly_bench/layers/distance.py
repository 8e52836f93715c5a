"""Cosine distances between teacher and student features.

All are computed in float32 whatever the features' type: under mixed precision the angle between
nearly parallel vectors would otherwise drown in bfloat16's eight bits.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cosine_map(a: Tensor, b: Tensor) -> Tensor:
    """M(h, w) = 1 - cos(a(h, w), b(h, w)), the angle taken over channels (FMM+SCSAtt paper, eq. 12).

    Args:
        a: features, (N, C, H, W).
        b: features of the same shape.

    Returns:
        (N, H, W), values in [0, 2] up to rounding.
    """
    return 1 - F.cosine_similarity(a.float(), b.float(), dim=1)


def pixel_cosine(a: Tensor, b: Tensor) -> Tensor:
    """mean_n mean_hw M(h, w): the form that the papers print (FMM+SCSAtt paper, eq. 13).

    Args:
        a: features, (N, C, H, W).
        b: features of the same shape.

    Returns:
        A scalar.
    """
    return cosine_map(a, b).mean()


def global_cosine(a: Tensor, b: Tensor) -> Tensor:
    """mean_n (1 - cos(flat a, flat b)): one angle for the whole map, the form of RD4AD's code.

    Unlike `pixel_cosine` it weighs a position by its feature norm, and it also teaches the map of norms.

    Args:
        a: features, (N, C, H, W).
        b: features of the same shape.

    Returns:
        A scalar.
    """
    return (1 - F.cosine_similarity(a.float().flatten(1), b.float().flatten(1), dim=1)).mean()
