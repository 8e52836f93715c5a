"""The variance loss: how far the features of a batch lie from their mean."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Distance = Literal["cosine", "l1", "l2"]
Reduction = Literal["sum", "mean"]


def variance_loss(features: Tensor, distance: Distance, reduction: Reduction, *, detach_mean: bool) -> Tensor:
    """L_var = 1/N sum_i d(F_i, 1/N sum_j F_j), F_i image i's features as one vector (variance-loss paper, eq. 2-5).

    The mean is of the vectors as they are: an image of large features weighs more.

    Args:
        features: one output of the decoder, (N, C, H, W); a single image has no variance, and gives 0.
        distance: d, 1 - cos (eq. 4-5), or the L1 or L2 norm of the difference (Table III).
        reduction: "sum" for the norm as it is; "mean" for that of the mean absolute or mean squared element.
        detach_mean: whether the gradient stops at the mean.

    Returns:
        A scalar.
    """
    vectors = features.float().flatten(1)  # (N, C*H*W)
    mean = vectors.mean(dim=0, keepdim=True)
    if detach_mean:
        mean = mean.detach()
    if distance == "cosine":
        return (1 - F.cosine_similarity(vectors, mean, dim=1)).mean()
    order = 1 if distance == "l1" else 2
    norms = (vectors - mean).norm(p=order, dim=1)  # (N,)
    size = vectors.shape[1] ** (1 / order) if reduction == "mean" else 1
    return norms.mean() / size
