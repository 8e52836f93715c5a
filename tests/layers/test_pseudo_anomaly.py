"""DLKD's noise against its statistics, eq. 9 and eq. 10 position by position, and what neither of them may be."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from anomaly_bench.layers.distance import LossForm
from anomaly_bench.layers.pseudo_anomaly import NoiseMode, add_noise, contrast_loss, noisy_count, similarity_loss

SIZES = [((3, 5, 4), (5, 3, 2), (7, 1, 3)), ((2, 7, 5), (3, 4, 3), (4, 2, 1))]  # C, H, W of three stages
MODES: list[NoiseMode] = ["absolute", "relative"]
FORMS: list[LossForm] = ["global", "pixel"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stages(sizes: Sequence[tuple[int, int, int]], seed: int, count: int = 3) -> list[Tensor]:
    generator = seeded(seed)
    return [torch.randn(count, *size, dtype=torch.float64, generator=generator) for size in sizes]


def shallow(count: int = 4, dtype: torch.dtype = torch.float32) -> Tensor:
    """Features (N, 16, 24, 20) whose samples differ in mean and in deviation (1, 2, 3, ...)."""
    factors = torch.arange(1, count + 1).view(-1, 1, 1, 1)
    return (factors * (torch.randn(count, 16, 24, 20, generator=seeded(9)) + 2)).to(dtype)


@pytest.mark.parametrize(
    ("samples", "share", "count"),
    [(8, 1.0, 8), (8, 0.5, 4), (7, 0.5, 4), (1, 0.5, 1), (1, 0.01, 1), (3, 0.3, 1), (10, 0.3, 3)],
)
def test_the_noisy_share_of_a_batch_is_rounded_up(samples: int, share: float, count: int) -> None:
    assert noisy_count(samples, share) == count


@pytest.mark.parametrize("mode", MODES)
def test_noise_has_mean_0_and_the_stated_deviation_within_statistical_bounds(mode: NoiseMode) -> None:
    features = shallow()
    noise = (add_noise(features, 0.2, mode, 1.0, seeded()) - features).double()
    size = features[0].numel()
    for sample, values in enumerate(noise):
        deviation = 0.2 * (features[sample].double().std().item() if mode == "relative" else 1)
        assert abs(values.mean().item()) < 4 * deviation / math.sqrt(size)
        assert abs(values.std().item() / deviation - 1) < 4 / math.sqrt(2 * size)
        kurtosis = (values / deviation).pow(4).mean().item()  # 3 for a Gaussian, 1.8 for a uniform distribution
        assert abs(kurtosis - 3) < 4 * math.sqrt(96 / size)


@pytest.mark.parametrize("mode", MODES)
def test_noise_is_drawn_anew_for_every_sample_channel_and_position(mode: NoiseMode) -> None:
    features = torch.randn(3, 32, 16, 16, generator=seeded(9))
    noise = add_noise(features, 0.2, mode, 1.0, seeded()) - features
    for axis in range(3):
        moved = noise.roll(1, dims=axis)
        correlation = (noise * moved).mean() / noise.square().mean()
        assert abs(correlation.item()) < 5 / math.sqrt(noise.numel())


def test_relative_noise_is_louder_where_a_sample_is_and_absolute_noise_is_not() -> None:
    features = shallow(2)
    for mode, expected in (("absolute", 1.0), ("relative", 2.0)):
        noise = add_noise(features, 0.2, mode, 1.0, seeded()) - features  # type: ignore[arg-type]
        assert (noise[1].std() / noise[0].std()).item() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_the_share_gets_noise_and_the_input_is_left_as_it_was(mode: NoiseMode, dtype: torch.dtype) -> None:
    features = shallow(4, dtype)
    kept = features.clone()
    noisy = add_noise(features, 0.2, mode, 0.5, seeded())
    assert noisy.dtype == dtype
    assert noisy.shape == features.shape
    assert torch.equal(noisy[2:], features[2:])
    assert ((noisy[:2] != features[:2]).float().mean(dim=(1, 2, 3)) > 0.9).all()
    assert torch.equal(features, kept)


def test_intensity_0_is_no_noise() -> None:
    assert torch.equal(add_noise(shallow(), 0.0, "absolute", 1.0, seeded()), shallow())


def test_noise_comes_from_the_given_generator_alone() -> None:
    state, generator = torch.get_rng_state(), seeded()
    first, second = (add_noise(shallow(), 0.2, "absolute", 1.0, generator) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first, second)
    assert torch.equal(add_noise(shallow(), 0.2, "absolute", 1.0, seeded()), first)


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / (math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b)))


def contrast(anomalous: list[Tensor], student: list[Tensor], margin: float, form: LossForm) -> float:
    """L_con = 1/K sum_k max(0, cos(F_E^k, F_PS^k) - f), of whole samples or of single positions (eq. 9)."""
    total = 0.0
    for a, b in zip(anomalous, student, strict=True):
        n, _, height, width = a.shape
        if form == "global":
            hinges = [max(0.0, cosine(a[i].flatten().tolist(), b[i].flatten().tolist()) - margin) for i in range(n)]
        else:
            places = itertools.product(range(n), range(height), range(width))
            hinges = [max(0.0, cosine(a[i, :, h, w].tolist(), b[i, :, h, w].tolist()) - margin) for i, h, w in places]
        total += sum(hinges) / len(hinges)
    return total / len(anomalous)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("margin", [-0.3, 0.05, 0.5])
def test_contrast_loss_is_eq_9(sizes: tuple[tuple[int, int, int], ...], form: LossForm, margin: float) -> None:
    anomalous, other = stages(sizes, 1), stages(sizes, 2)
    student = [b + 0.4 * a for a, b in zip(anomalous, other, strict=True)]
    loss = contrast_loss(anomalous, student, margin, form)
    expected = contrast(anomalous, student, margin, form)
    assert expected > 0 or (form, margin) == ("global", 0.5)
    assert loss.item() == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_the_hinge_is_of_every_position_and_not_of_their_mean() -> None:
    alike = torch.ones(1, 2, 1, 2)
    half_opposite = alike.clone()
    half_opposite[..., 1] *= -1  # cosines 1 and -1, whose mean is under the margin
    assert contrast_loss([alike], [half_opposite], 0.5, "pixel").item() == pytest.approx(0.25)
    assert contrast_loss([alike], [half_opposite], 0.5, "global").item() == 0


@pytest.mark.parametrize("form", FORMS)
def test_contrast_loss_pushes_the_student_off_the_pseudo_anomaly_and_leaves_alone_what_is_far_from_it(
    form: LossForm,
) -> None:
    anomalous = stages(SIZES[0], 1)
    close = [(b + 3 * a).requires_grad_() for a, b in zip(anomalous, stages(SIZES[0], 2), strict=True)]
    loss = contrast_loss(anomalous, close, 0.5, form)
    gradients = torch.autograd.grad(loss, close)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    moved = [features - gradient for features, gradient in zip(close, gradients, strict=True)]
    assert contrast_loss(anomalous, moved, 0.5, form) < loss
    far = [(b / 9 - a).requires_grad_() for a, b in zip(anomalous, stages(SIZES[0], 2), strict=True)]
    loss = contrast_loss(anomalous, far, 0.5, form)
    assert loss.item() == 0
    assert not any(gradient.any() for gradient in torch.autograd.grad(loss, far))


def bilinear(values: Tensor, height: int, width: int, *, aligned: bool = True) -> Tensor:
    """A map (H, W) read at height x width places; aligned corners lie on each other, else cells cover each other."""
    rows, columns = values.shape

    def place(index: int, target: int, source: int) -> tuple[int, int, float]:
        if aligned:
            position = index * (source - 1) / (target - 1) if target > 1 else 0.0
        else:
            position = max((index + 0.5) * source / target - 0.5, 0.0)
        low = min(int(position), source - 1)
        return low, min(low + 1, source - 1), position - low

    result = torch.empty(height, width, dtype=torch.float64)
    for y, x in itertools.product(range(height), range(width)):
        top, bottom, v = place(y, height, rows)
        left, right, u = place(x, width, columns)
        upper = (1 - u) * values[top, left].item() + u * values[top, right].item()
        lower = (1 - u) * values[bottom, left].item() + u * values[bottom, right].item()
        result[y, x] = (1 - v) * upper + v * lower
    return result


def similarity(maps: list[Tensor], pairs: Sequence[tuple[int, int]], *, aligned: bool = True) -> float:
    """L_AS = sum over (i, j) of 1/HW sum_hw (M_i upsampled to M_j's size - M_j)^2, mean over samples (eq. 10)."""
    total = 0.0
    for i, j in pairs:
        n, height, width = maps[j].shape
        for sample in range(n):
            upsampled = bilinear(maps[i][sample], height, width, aligned=aligned)
            for h, w in itertools.product(range(height), range(width)):
                total += (upsampled[h, w].item() - maps[j][sample, h, w].item()) ** 2 / (n * height * width)
    return total


SMALL_TO_LARGE = [(1, 0), (2, 0), (2, 1)]


def made_maps(sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    return [torch.rand(2, *size, dtype=torch.float64, generator=seeded(k)) for k, size in enumerate(sizes)]


@pytest.mark.parametrize("sizes", [((9, 7), (5, 3), (3, 2)), ((8, 8), (4, 4), (2, 2)), ((5, 5), (3, 3), (1, 1))])
def test_similarity_loss_is_eq_10_summed_over_all_three_pairs(sizes: tuple[tuple[int, int], ...]) -> None:
    maps = made_maps(sizes)
    assert similarity_loss(maps).item() == pytest.approx(similarity(maps, SMALL_TO_LARGE), rel=1e-6)


def test_similarity_loss_is_none_of_what_it_might_be_taken_for() -> None:
    maps = made_maps([(9, 7), (5, 3), (3, 2)])
    loss = similarity_loss(maps).item()
    for other in (
        similarity(maps, SMALL_TO_LARGE, aligned=False),
        similarity(maps, [(0, 1), (0, 2), (1, 2)]),  # the larger map brought to the smaller one's size
        similarity(maps, SMALL_TO_LARGE) / 3,
        *(similarity(maps, [pair for pair in SMALL_TO_LARGE if pair != left_out]) for left_out in SMALL_TO_LARGE),
    ):
        assert abs(loss - other) > 0.01


def test_equal_constant_maps_are_similar_and_every_map_feels_a_difference() -> None:
    maps = [torch.full((2, size, size), 0.3, requires_grad=True) for size in (8, 4, 2)]
    assert similarity_loss(maps).item() == pytest.approx(0, abs=1e-12)
    for changed in range(3):
        parts = [part + 0.1 * (k == changed) for k, part in enumerate(maps)]
        gradients = torch.autograd.grad(similarity_loss(parts), maps)
        assert all(gradient.abs().sum() > 0 for gradient in gradients)
