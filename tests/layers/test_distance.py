"""Cosine distances against their formulas, written out position by position in Python's own float64."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from anomaly_bench.layers.distance import cosine_map, global_cosine, pixel_cosine, stage_sum, unit_l2_map

SHAPES = [(2, 3, 4, 5), (1, 7, 3, 1)]
FLOAT32 = {"rtol": 1e-5, "atol": 2e-6}  # what float32 leaves of a cosine


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / (math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b)))


def channels(features: Tensor, n: int, h: int, w: int) -> list[float]:
    return [features[n, c, h, w].item() for c in range(features.shape[1])]


def random_pair(shape: tuple[int, int, int, int]) -> tuple[Tensor, Tensor]:
    """Two float32 maps whose positions differ in norm by about a thousand, as features of object and background do."""
    generator = torch.Generator().manual_seed(0)
    n, _, h, w = shape
    scale = 10 ** (3 * torch.rand(2, n, 1, h, w, generator=generator) - 1.5)
    a, b = torch.randn(2, *shape, generator=generator) * scale
    return a, b + 0.5 * a


@pytest.mark.parametrize("shape", SHAPES)
def test_cosine_map_is_eq_12_at_every_position(shape: tuple[int, int, int, int]) -> None:
    a, b = random_pair(shape)
    n, _, h, w = shape
    expected = torch.empty(n, h, w)
    for i, y, x in torch.cartesian_prod(*map(torch.arange, (n, h, w))).tolist():
        expected[i, y, x] = 1 - cosine(channels(a, i, y, x), channels(b, i, y, x))
    torch.testing.assert_close(cosine_map(a, b), expected, **FLOAT32)


@pytest.mark.parametrize("shape", SHAPES)
def test_pixel_cosine_is_the_mean_over_positions_and_images_of_eq_13(shape: tuple[int, int, int, int]) -> None:
    a, b = random_pair(shape)
    n, _, h, w = shape
    total = 0.0
    for i in range(n):
        for y in range(h):
            for x in range(w):
                total += (1 - cosine(channels(a, i, y, x), channels(b, i, y, x))) / (h * w)
    torch.testing.assert_close(pixel_cosine(a, b), torch.tensor(total / n), **FLOAT32)


@pytest.mark.parametrize("shape", SHAPES)
def test_global_cosine_takes_one_angle_for_each_whole_map(shape: tuple[int, int, int, int]) -> None:
    a, b = random_pair(shape)
    expected = sum(1 - cosine(a[i].flatten().tolist(), b[i].flatten().tolist()) for i in range(shape[0])) / shape[0]
    torch.testing.assert_close(global_cosine(a, b), torch.tensor(expected), **FLOAT32)


def weights(a: Tensor, b: Tensor) -> list[float]:
    """w_p = |a_p| |b_p| / (sqrt(sum |a|^2) sqrt(sum |b|^2)), for maps of one image, positions row by row."""
    _, _, h, w = a.shape
    norms = [
        [math.sqrt(sum(v * v for v in channels(features, 0, y, x))) for y in range(h) for x in range(w)]
        for features in (a, b)
    ]
    whole_a, whole_b = (math.sqrt(sum(norm * norm for norm in positions)) for positions in norms)
    return [norm_a * norm_b / (whole_a * whole_b) for norm_a, norm_b in zip(*norms, strict=True)]


def test_global_cosine_is_the_pixel_cosine_weighted_by_feature_norms() -> None:
    a, b = random_pair((1, 3, 5, 7))
    cosines = (1 - cosine_map(a, b)).flatten().tolist()
    weighted = sum(weight * value for weight, value in zip(weights(a, b), cosines, strict=True))
    assert 1 - global_cosine(a, b).item() == pytest.approx(weighted, abs=2e-6)
    assert sum(weights(a, b)) < 0.99


def test_the_weights_sum_to_one_only_when_the_norm_maps_are_proportional() -> None:
    a, _ = random_pair((1, 3, 5, 7))
    b = -4 * a.roll(1, dims=1)  # other directions, the same norms but for a factor
    assert sum(weights(a, b)) == pytest.approx(1, abs=1e-6)
    b[:, :, 0, 0] *= 100
    assert sum(weights(a, b)) < 0.99


def test_pixel_and_global_forms_are_not_the_same_loss() -> None:
    a, b = random_pair((2, 3, 4, 5))
    assert abs(pixel_cosine(a, b) - global_cosine(a, b)) > 0.05


def test_only_the_global_form_sees_the_map_of_norms() -> None:
    a, _ = random_pair((2, 3, 4, 5))
    louder = a.clone()
    louder[:, :, 1, 2] *= 50
    assert pixel_cosine(a, louder).item() == pytest.approx(0, abs=1e-6)
    assert global_cosine(a, louder).item() > 0.1


@pytest.mark.parametrize(("factor", "distance"), [(3.0, 0.0), (-0.5, 2.0)])
def test_distances_run_from_0_where_parallel_to_2_where_opposite(factor: float, distance: float) -> None:
    a, _ = random_pair((2, 5, 3, 4))
    torch.testing.assert_close(cosine_map(a, factor * a), torch.full((2, 3, 4), distance), rtol=0, atol=2e-6)
    for form in (pixel_cosine, global_cosine):
        assert form(a, factor * a).item() == pytest.approx(distance, abs=2e-6)


@pytest.mark.parametrize("function", [cosine_map, pixel_cosine, global_cosine])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_are_compared_in_float32(function: object, dtype: torch.dtype) -> None:
    assert callable(function)
    a, b = (features.to(dtype) for features in random_pair((2, 64, 3, 5)))
    result = function(a, b)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, function(a.float(), b.float()), rtol=0, atol=0)


def half_distance(a: Sequence[float], b: Sequence[float], *, squared: bool) -> float:
    """1/2 |a/|a| - b/|b||^2, or without its square (AST-MFR paper, eq. 3)."""
    norm_a, norm_b = (math.sqrt(sum(value * value for value in vector)) for vector in (a, b))
    square = sum((x / norm_a - y / norm_b) ** 2 for x, y in zip(a, b, strict=True))
    return (square if squared else math.sqrt(square)) / 2


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("squared", [True, False])
def test_unit_l2_map_is_eq_3_at_every_position(shape: tuple[int, int, int, int], squared: bool) -> None:
    a, b = random_pair(shape)
    n, _, h, w = shape
    expected = torch.empty(n, h, w)
    for i, y, x in torch.cartesian_prod(*map(torch.arange, (n, h, w))).tolist():
        expected[i, y, x] = half_distance(channels(a, i, y, x), channels(b, i, y, x), squared=squared)
    torch.testing.assert_close(unit_l2_map(a, b, squared=squared), expected, rtol=1e-5, atol=2e-6)


def test_the_squared_distance_is_the_cosine_distance_and_the_other_the_root_of_its_half() -> None:
    a, b = random_pair((2, 7, 5, 3))
    cosines = cosine_map(a, b)
    torch.testing.assert_close(unit_l2_map(a, b, squared=True), cosines, rtol=1e-5, atol=2e-6)
    unsquared = unit_l2_map(a, b, squared=False)
    torch.testing.assert_close(unsquared, (cosines / 2).sqrt(), rtol=1e-4, atol=1e-5)
    assert (unsquared - cosines).abs().mean() > 0.05


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("apart", [0.0, 1e-7, 1e-3])
def test_unit_l2_map_has_a_finite_gradient_where_features_agree_or_nearly_do(squared: bool, apart: float) -> None:
    a, other = random_pair((2, 7, 5, 3))
    b = (a + apart * other).requires_grad_()
    distances = unit_l2_map(a, b, squared=squared)
    (gradient,) = torch.autograd.grad(distances.sum(), b)
    assert gradient.isfinite().all()
    # |grad| of 1/2 |u - b/|b|| is at most 1 / (2 |b|), of its square at most 1 / |b|.
    assert (gradient.norm(dim=1) * b.norm(dim=1)).max() <= 1.001
    assert distances.min() >= 0


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_are_normalised_in_float32(squared: bool, dtype: torch.dtype) -> None:
    a, b = (features.to(dtype) for features in random_pair((2, 64, 3, 5)))
    result = unit_l2_map(a, b, squared=squared)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, unit_l2_map(a.float(), b.float(), squared=squared), rtol=0, atol=0)


def test_the_per_pixel_form_says_nothing_of_a_vectors_length_and_less_the_longer_it_is() -> None:
    """So a length that has run away stays: what a student without FMM did (`docs/fidelity/fmm_scsatt.md`)."""
    a, b = random_pair((1, 16, 2, 3))
    for scale in (1.0, 100.0):
        long = (scale * b).requires_grad_()
        [pixel] = torch.autograd.grad(pixel_cosine(a, long), long)
        [whole] = torch.autograd.grad(global_cosine(a, long), long)
        along = (pixel * long).sum(dim=1).abs() / (pixel.norm(dim=1) * long.norm(dim=1))
        assert along.max() < 1e-3
        if scale == 1.0:
            short, towards = pixel, (whole * long).sum(dim=1).abs() / (whole.norm(dim=1) * long.norm(dim=1))
    torch.testing.assert_close(short, 100 * pixel, rtol=1e-3, atol=1e-8)
    assert towards.max() > 0.05


def test_stage_sum_adds_the_named_distance_of_every_stage() -> None:
    pairs = [random_pair(shape) for shape in ((2, 3, 4, 5), (2, 7, 3, 1), (2, 5, 1, 2))]
    teacher, student = ([pair[k] for pair in pairs] for k in (0, 1))
    pixel = global_ = 0.0
    for a, b in pairs:
        n, _, h, w = a.shape
        for i in range(n):
            global_ += (1 - cosine(a[i].flatten().tolist(), b[i].flatten().tolist())) / n
            for y, x in torch.cartesian_prod(torch.arange(h), torch.arange(w)).tolist():
                pixel += (1 - cosine(channels(a, i, y, x), channels(b, i, y, x))) / (n * h * w)
    assert stage_sum(teacher, student, "pixel").item() == pytest.approx(pixel, rel=1e-6)
    assert stage_sum(teacher, student, "global").item() == pytest.approx(global_, rel=1e-6)
    assert abs(pixel - global_) > 0.05
    with pytest.raises(ValueError, match="zip"):
        stage_sum(teacher, student[:2], "pixel")
