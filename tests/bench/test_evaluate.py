"""Fusion, smoothing and score against METHODS' description of RD4AD's evaluation, position by position."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from anomaly_bench.bench.evaluate import evaluate, fuse_maps, score_images
from anomaly_bench.bench.spec import EvalSpec
from anomaly_bench.data.base import GroundTruth
from anomaly_bench.data.layout import Sample
from anomaly_bench.metrics import METRIC_KEYS, NonFiniteError


def random_stages(seed: int = 0) -> list[NDArray[np.float16]]:
    rng = np.random.default_rng(seed)
    return [rng.random((3, size, size)).astype(np.float16) for size in (8, 4, 2)]


def upsampled(image: NDArray[np.float16], size: int) -> NDArray[np.float64]:
    """Bilinear with aligned corners: output position y reads y * (h - 1) / (size - 1)."""
    height = len(image)
    result = np.zeros((size, size))
    for y in range(size):
        for x in range(size):
            v, u = y * (height - 1) / (size - 1), x * (height - 1) / (size - 1)
            top, left = min(int(v), height - 2), min(int(u), height - 2)
            b, a = v - top, u - left
            corners = image[top : top + 2, left : left + 2].astype(float)
            result[y, x] = (1 - b) * ((1 - a) * corners[0, 0] + a * corners[0, 1])
            result[y, x] += b * ((1 - a) * corners[1, 0] + a * corners[1, 1])
    return result


def smoothed(image: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """A Gaussian cut at four sigma, the image mirrored at its borders (d c b a | a b c d | d c b a)."""
    radius, size = int(4 * sigma + 0.5), len(image)
    weights = [math.exp(-(offset**2) / (2 * sigma**2)) for offset in range(-radius, radius + 1)]
    mirror = [position if position < size else 2 * size - 1 - position for position in range(2 * size)]
    result = np.zeros_like(image)
    for y in range(size):
        for x in range(size):
            for i, v in enumerate(weights):
                for j, u in enumerate(weights):
                    row, column = (y + i - radius) % (2 * size), (x + j - radius) % (2 * size)
                    result[y, x] += v * u * image[mirror[row], mirror[column]]
    return result / sum(weights) ** 2


@pytest.mark.parametrize("fusion", ["sum", "product"])
@pytest.mark.parametrize("sigma", [0.0, 1.5])
def test_maps_are_upsampled_fused_and_smoothed(fusion: str, sigma: float) -> None:
    stages, size = random_stages(), 12
    fused = fuse_maps(stages, size, EvalSpec(fusion=fusion, sigma=sigma))  # type: ignore[arg-type]
    for index in range(3):
        large = [upsampled(stage[index], size) for stage in stages]
        expected = sum(large) if fusion == "sum" else np.prod(large, axis=0)
        np.testing.assert_allclose(fused[index], smoothed(expected, sigma) if sigma else expected, rtol=1e-5, atol=1e-6)


def test_the_image_score_is_the_highest_pixel_or_the_mean() -> None:
    maps = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    np.testing.assert_array_equal(score_images(maps, EvalSpec()), [3, 7])
    np.testing.assert_array_equal(score_images(maps, EvalSpec(image_score="mean")), [1.5, 5.5])


def three_images() -> GroundTruth:
    samples = [Sample(Path(name), name, defect) for name, defect in (("a", "good"), ("b", "hole"), ("c", "good"))]
    masks = np.zeros((3, 16, 16), dtype=bool)
    masks[1, 4:8, 4:8] = True
    return GroundTruth(samples, masks, np.array([0.0, 0.0625, 0.0]))


def test_every_image_gets_a_line_with_its_label_from_the_folder() -> None:
    evaluation = evaluate(random_stages(), three_images(), 16, EvalSpec())
    lines = evaluation.scores.splitlines()
    assert lines[0] == "path,defect,label,score,share_original,share_evaluated"
    assert [line.split(",")[:3] for line in lines[1:]] == [["a", "good", "0"], ["b", "hole", "1"], ["c", "good", "0"]]
    assert lines[2].split(",")[4:] == ["0.0625", "0.0625"]
    assert list(evaluation.panel.values) == list(METRIC_KEYS)


def test_a_map_that_is_not_finite_is_an_error_that_names_the_image() -> None:
    stages = random_stages()
    stages[0][1, 0, 0] = np.nan
    with pytest.raises(NonFiniteError, match="b"):
        evaluate(stages, three_images(), 16, EvalSpec())
