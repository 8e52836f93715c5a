"""DLKD's pseudo-anomalies and the two losses that go with them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_bench.layers.distance import LossForm

NoiseMode = Literal["absolute", "relative"]


def noisy_count(samples: int, share: float) -> int:
    """How many of a batch get noise: the share rounded up, so that a batch of one gets it."""
    return math.ceil(round(share * samples, 6))  # 0.28 * 25 is a little more than 7 in binary


def add_noise(features: Tensor, std: float, mode: NoiseMode, share: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise on the first samples of a batch, all channels and positions (DLKD paper, sec. 2.1).

    Args:
        features: a shallow layer's output, (N, C, H, W).
        std: of the noise ("absolute"), or in units of each sample's own standard deviation ("relative").
        mode: see `std`.
        share: of the samples that get noise, see `noisy_count`; batches come shuffled, so that any may.
        generator: where the noise comes from, on the features' device.

    Returns:
        (N, C, H, W), of the features' type.
    """
    count = noisy_count(len(features), share)
    chosen = features[:count].float()
    noise = std * torch.randn(chosen.shape, generator=generator, device=features.device)
    if mode == "relative":
        noise = noise * chosen.std(dim=(1, 2, 3), keepdim=True)
    return torch.cat([(chosen + noise).to(features.dtype), features[count:]])


def contrast_loss(
    pseudo_anomalous: Sequence[Tensor], student_features: Sequence[Tensor], margin: float, loss_form: LossForm
) -> Tensor:
    """L_con = 1/K sum_k max(0, cos(F_E^k, F_PS^k) - f), averaged over samples (DLKD paper, eq. 9).

    Args:
        pseudo_anomalous: F_E, features of noisy samples, K tensors (N, C, H, W).
        student_features: F_PS, of the same shapes.
        margin: f.
        loss_form: "global" for one angle a sample, "pixel" for one a position, whose hinges are averaged. The paper
            does not say; under the pixel form of the other losses norms are free, and the angle of a whole map idle.

    Returns:
        A scalar.
    """
    hinges = []
    for anomalous, student in zip(pseudo_anomalous, student_features, strict=True):
        a, b = anomalous.float(), student.float()
        if loss_form == "global":
            a, b = a.flatten(1), b.flatten(1)
        hinges.append(F.relu(F.cosine_similarity(a, b, dim=1) - margin).mean())
    return torch.stack(hinges).mean()


def similarity_loss(maps: Sequence[Tensor]) -> Tensor:
    """L_AS = sum over pairs of mean_hw (M_i upsampled to M_j's size - M_j)^2 (DLKD paper, eq. 10).

    The paper does not say which pairs: all of them, the smaller map upsampled, corners aligned as in the anomaly map.

    Args:
        maps: K maps (N, H_k, W_k), the largest first.

    Returns:
        A scalar, a mean over samples as well.
    """
    terms = []
    for large, small in itertools.combinations(maps, 2):
        upsampled = F.interpolate(small[:, None], large.shape[1:], mode="bilinear", align_corners=True)
        terms.append(F.mse_loss(upsampled[:, 0], large))
    return torch.stack(terms).sum()
