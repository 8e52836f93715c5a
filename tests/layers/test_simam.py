"""SimAM against eq. 9-10, written out position by position in Python's own float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from anomaly_bench.layers.simam import simam

SHAPES = [(2, 3, 4, 5), (1, 5, 1, 3)]


def features(shape: tuple[int, int, int, int]) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def inverse_energy(target: float, mean: float, variance: float, lam: float) -> float:
    return ((target - mean) ** 2 + 2 * variance + 2 * lam) / (4 * (variance + lam))  # 1 / eq. 9


def transcribed(x: Tensor, lam: float, *, without_target: bool = False) -> Tensor:
    """Eq. 9-10; mean and variance over the whole channel, or without the position in question, as the prose has it."""
    result = torch.empty_like(x)
    for n, c, h, w in torch.cartesian_prod(*map(torch.arange, x.shape)).tolist():
        target = x[n, c, h, w].item()
        channel = x[n, c].flatten().tolist()
        m_minus_1 = len(channel) - 1
        if without_target:
            channel.remove(target)
        mean = sum(channel) / len(channel)
        variance = sum((value - mean) ** 2 for value in channel) / m_minus_1
        result[n, c, h, w] = target / (1 + math.exp(-inverse_energy(target, mean, variance, lam)))  # eq. 10
    return result


@pytest.mark.parametrize("shape", SHAPES)
def test_simam_is_eq_9_and_10_position_by_position(shape: tuple[int, int, int, int]) -> None:
    x = features(shape)
    torch.testing.assert_close(simam(x, lam=0.1), transcribed(x, 0.1), rtol=1e-6, atol=0)


def test_lambda_is_1e_4_unless_given() -> None:
    x = 0.01 * features((2, 3, 4, 5))  # a variance that lambda can be seen beside
    torch.testing.assert_close(simam(x), transcribed(x, 1e-4), rtol=1e-6, atol=0)
    assert not torch.allclose(simam(x), simam(x, lam=1e-3), rtol=1e-3)


def test_the_position_itself_counts_in_mean_and_variance() -> None:
    x = features((2, 3, 4, 5))
    assert not torch.allclose(simam(x), transcribed(x, 1e-4, without_target=True), rtol=1e-3)


def test_every_value_is_scaled_by_a_factor_from_0_62_to_1_and_outliers_most() -> None:
    x = features((2, 3, 4, 5))
    x[0, 1, 2, 3] = 40.0
    factor = simam(x) / x
    assert factor.min() > 0.62
    assert factor.max() <= 1
    assert factor[0, 1].argmax() == 2 * 5 + 3


def test_a_constant_map_is_scaled_by_sigmoid_of_one_half() -> None:
    x = torch.full((1, 2, 3, 3), -7.0)
    torch.testing.assert_close(simam(x), x / (1 + math.exp(-0.5)))


def test_a_map_of_one_position_is_refused() -> None:
    with pytest.raises(ValueError, match="two positions"):
        simam(torch.ones(2, 3, 1, 1))


def test_bfloat16_features_are_computed_in_float32_and_handed_back() -> None:
    x = (features((2, 3, 4, 5)) + 100).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = simam(x)
    torch.testing.assert_close(result, simam(x.float()).bfloat16(), rtol=0, atol=0)
    result.float().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
