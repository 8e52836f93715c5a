"""Cosine distances between teacher and student features.

All are computed in float32 whatever the features' type: under mixed precision the angle between
nearly parallel vectors would otherwise drown in bfloat16's eight bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

LossForm = Literal["global", "pixel"]
SMALLEST_SQUARE = 1e-12


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


def unit_l2_map(a: Tensor, b: Tensor, *, squared: bool) -> Tensor:
    """D_L2(i, j) = 1/2 |a/|a| - b/|b||^2 at every position (AST-MFR paper, eq. 3).

    Equal to `cosine_map` but where a vector is 0, for unit vectors' 1/2 |u - v|^2 is 1 - u.v.

    Args:
        a: features, (N, C, H, W).
        b: features of the same shape.
        squared: without it, 1/2 |u - v|, in case the printed square, whose braces do not match, is none.

    Returns:
        (N, H, W), values in [0, 2], or [0, 1] without the square.
    """
    squares = (F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).square().sum(dim=1)
    # The root's slope is infinite at 0.
    return squares / 2 if squared else (squares + SMALLEST_SQUARE).sqrt() / 2


STAGE_DISTANCES: dict[LossForm, Callable[[Tensor, Tensor], Tensor]] = {"global": global_cosine, "pixel": pixel_cosine}


def stage_sum(teacher_features: Sequence[Tensor], student_features: Sequence[Tensor], loss_form: LossForm) -> Tensor:
    """sum_k distance(T_k, S_k) in the form that `loss_form` names; a scalar."""
    distance = STAGE_DISTANCES[loss_form]
    return torch.stack([distance(t, s) for t, s in zip(teacher_features, student_features, strict=True)]).sum()
