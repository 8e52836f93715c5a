"""The variance loss against eq. 2-5 of its paper, element by element, and its gradient against differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from anomaly_bench.layers.variance import Distance, Reduction, variance_loss

SHAPES = [(3, 2, 5, 3), (4, 3, 1, 7)]
KINDS: list[tuple[Distance, Reduction]] = [
    ("cosine", "sum"),
    ("l1", "sum"),
    ("l1", "mean"),
    ("l2", "sum"),
    ("l2", "mean"),
]


def made(*shape: int, seed: int = 0) -> Tensor:
    """Features of images that differ in size by the factors 1, 2, 3, ..."""
    features = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.5
    return features * torch.arange(1, shape[0] + 1).view(-1, 1, 1, 1)


def vectors_of(features: Tensor) -> list[list[float]]:
    """F_i = flatten(f_i), eq. 2."""
    n, channels, height, width = features.shape
    places = [(c, h, w) for c in range(channels) for h in range(height) for w in range(width)]
    return [[features[(i, *place)].item() for place in places] for i in range(n)]


def mean_of(vectors: list[list[float]]) -> list[float]:
    """F_mean = 1/N sum_i F_i, eq. 3."""
    return [sum(vector[p] for vector in vectors) / len(vectors) for p in range(len(vectors[0]))]


def distance_of(a: list[float], b: list[float], distance: Distance, reduction: Reduction) -> float:
    """1 - cos of eq. 4-5, or Table III's norms of the whole vector or of its mean element."""
    if distance == "cosine":
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return 1 - dot / (math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b)))
    parts = [abs(x - y) if distance == "l1" else (x - y) ** 2 for x, y in zip(a, b, strict=True)]
    total = sum(parts) / len(parts) if reduction == "mean" else sum(parts)
    return total if distance == "l1" else math.sqrt(total)


def formula(features: Tensor, distance: Distance, reduction: Reduction, mean: list[float] | None = None) -> float:
    """L_var = 1/N sum_i d(F_i, F_mean), eq. 5; `mean` stands in for F_mean."""
    vectors = vectors_of(features)
    centre = mean_of(vectors) if mean is None else mean
    return sum(distance_of(vector, centre, distance, reduction) for vector in vectors) / len(vectors)


@pytest.mark.parametrize(("distance", "reduction"), KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("detach", [True, False])
def test_loss_is_eq_2_to_5_with_each_distance(
    shape: tuple[int, ...], distance: Distance, reduction: Reduction, detach: bool
) -> None:
    features = made(*shape)
    loss = variance_loss(features, distance, reduction, detach_mean=detach)
    assert loss.item() == pytest.approx(formula(features, distance, reduction), rel=1e-6)


def differences(features: Tensor, function: Callable[[Tensor], float], step: float = 1e-4) -> Tensor:
    """The gradient of a function of the features, by central differences."""
    gradient = torch.empty_like(features)
    for place in torch.cartesian_prod(*map(torch.arange, features.shape)).tolist():
        shifted = [features.clone(), features.clone()]
        shifted[0][tuple(place)] += step
        shifted[1][tuple(place)] -= step
        gradient[tuple(place)] = (function(shifted[0]) - function(shifted[1])) / (2 * step)
    return gradient


@pytest.mark.parametrize(("distance", "reduction"), KINDS)
@pytest.mark.parametrize("detach", [True, False])
def test_gradient_passes_through_the_mean_unless_it_is_detached(
    distance: Distance, reduction: Reduction, detach: bool
) -> None:
    features = made(3, 2, 1, 3)
    mean = mean_of(vectors_of(features))
    still = differences(features, lambda shifted: formula(shifted, distance, reduction, mean))
    moving = differences(features, lambda shifted: formula(shifted, distance, reduction))
    leaf = features.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(variance_loss(leaf, distance, reduction, detach_mean=detach), leaf)
    torch.testing.assert_close(gradient, still if detach else moving, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(still, moving, rtol=1e-2, atol=1e-3)


def test_reduction_means_nothing_to_the_cosine_and_much_to_the_norms() -> None:
    features = made(3, 2, 5, 3)

    def ratio(distance: Distance) -> float:
        summed, averaged = (variance_loss(features, distance, r, detach_mean=False) for r in ("sum", "mean"))
        return (summed / averaged).item()

    assert ratio("cosine") == 1
    assert ratio("l1") == pytest.approx(30, rel=1e-6)
    assert ratio("l2") == pytest.approx(math.sqrt(30), rel=1e-6)


def test_the_mean_is_of_the_vectors_as_they_are_so_that_a_large_image_weighs_more() -> None:
    features = made(3, 2, 5, 3)
    unit = features / features.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    printed, scaled, of_directions = (
        variance_loss(given, "cosine", "sum", detach_mean=False).item() for given in (features, 7 * features, unit)
    )
    assert abs(printed - of_directions) > 0.01
    assert scaled == pytest.approx(printed, rel=1e-6)


def test_one_angle_is_taken_of_a_whole_image_and_none_of_a_single_position() -> None:
    features = made(3, 2, 5, 3)
    loss = variance_loss(features, "cosine", "sum", detach_mean=False)
    columns = [features[:, :, h : h + 1, w : w + 1] for h in range(5) for w in range(3)]
    positions = torch.stack([variance_loss(column, "cosine", "sum", detach_mean=False) for column in columns])
    assert abs(loss - positions.mean()) > 0.01


@pytest.mark.parametrize(("distance", "reduction"), KINDS)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("detach", [True, False])
def test_a_batch_of_one_or_of_equal_images_has_no_variance_and_a_finite_gradient(
    distance: Distance, reduction: Reduction, count: int, detach: bool
) -> None:
    features = made(1, 2, 5, 3).expand(count, -1, -1, -1).clone().requires_grad_()
    loss = variance_loss(features, distance, reduction, detach_mean=detach)
    (gradient,) = torch.autograd.grad(loss, features)
    assert loss.item() == pytest.approx(0, abs=2e-6)
    assert gradient.isfinite().all()


@pytest.mark.parametrize(("distance", "reduction"), KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_are_compared_in_float32(
    distance: Distance, reduction: Reduction, dtype: torch.dtype
) -> None:
    features = made(3, 16, 5, 3).to(dtype)
    loss = variance_loss(features, distance, reduction, detach_mean=False)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, variance_loss(features.float(), distance, reduction, detach_mean=False))
