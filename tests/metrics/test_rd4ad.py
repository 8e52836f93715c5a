"""RD4AD's rule against its loop over thresholds and regions, and where it has no value."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from anomaly_bench.metrics.rd4ad import DegenerateImageError, aupro_rd4ad, image_aupro_rd4ad
from anomaly_bench.metrics.regions import find_regions

REFERENCE = runpy.run_path(str(Path(__file__).parents[2] / "experiments" / "performance" / "reference_metrics.py"))

SIZES = [(13, 9), (24, 24), (8, 30), (5, 5)]


def evaluation(levels: int, dtype: type) -> tuple[list[NDArray], list[NDArray]]:
    """Four images of different sizes, the third normal; regions of one pixel, at borders and across corners."""
    rng = np.random.default_rng(levels)
    masks = [rng.random(size) < share for size, share in zip(SIZES, (0.04, 0.2, 0.0, 0.3), strict=True)]
    maps = [np.floor((rng.random(mask.shape) + 0.3 * mask) * levels) / levels for mask in masks]
    return [anomaly_map.astype(dtype) for anomaly_map in maps], masks


def rule(maps: list[NDArray], masks: list[NDArray]) -> float:
    return aupro_rd4ad(maps, [find_regions(mask) for mask in masks], [f"image {index}" for index in range(len(maps))])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("levels", [8, 200, 10**6])
def test_rule_equals_its_loop(levels: int, dtype: type) -> None:
    maps, masks = evaluation(levels, dtype)
    assert rule(maps, masks) == pytest.approx(REFERENCE["rd4ad_aupro"](maps, masks), abs=1e-12)


def test_a_score_on_a_threshold_is_not_above_it() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((20, 20)) < 0.2
    anomaly_map = rng.integers(0, 201, mask.shape).astype(np.float64)
    anomaly_map[0, :2] = 0, 200  # so the thresholds are 0, 1, 2 ... 199, and every score is one
    assert rule([anomaly_map], [mask]) == pytest.approx(REFERENCE["rd4ad_aupro"]([anomaly_map], [mask]), abs=1e-12)


def test_thresholds_are_float64_whatever_the_dtype() -> None:
    maps, masks = evaluation(10**6, np.float32)
    assert rule(maps, masks) == rule([anomaly_map.astype(np.float64) for anomaly_map in maps], masks)


def test_rule_is_not_mvtecs_aupro() -> None:
    maps, masks = evaluation(10**6, np.float64)
    assert abs(rule(maps, masks) - REFERENCE["mvtec_aupro"](maps, masks)) > 0.01


def with_pixels(values: dict[tuple[int, int], float]) -> NDArray[np.float64]:
    anomaly_map = np.zeros((4, 5))
    for position, value in values.items():
        anomaly_map[position] = value
    return anomaly_map


CORNER = with_pixels({(0, 0): 1}) > 0
DEGENERATE = {
    "constant": (np.full((4, 5), 0.25), CORNER, "spans no range"),
    "too wide for float64": (with_pixels({(0, 0): 1.5e308, (1, 1): -1.5e308}), CORNER, "spans no range"),
    "range that no step divides": (with_pixels({(0, 0): 5e-324}), CORNER, "spans no range"),
    "no normal pixel": (with_pixels({(0, 0): 1.0}), np.ones((4, 5), dtype=bool), "no normal pixel"),
    "no rate below the bound": (1.0 - CORNER, CORNER, "0 of its thresholds"),
    "no rate above zero": (with_pixels({(0, 0): 1.0}), CORNER, "the largest such rate being 0.0"),
    "one kept threshold": (
        np.array([0.0, *[0.9949] * 9, 0.9951, 1.0]).reshape(3, 4),
        np.arange(12).reshape(3, 4) == 0,
        "1 of its thresholds",
    ),
}


@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.filterwarnings("error")
def test_degenerate_image_is_named(case: str) -> None:
    anomaly_map, mask, reason = DEGENERATE[case]
    with pytest.raises(DegenerateImageError, match=reason):
        image_aupro_rd4ad(anomaly_map, find_regions(mask))
    maps, masks = evaluation(200, np.float64)
    with pytest.raises(DegenerateImageError, match=rf"no value for image 4: .*{reason}"):
        rule([*maps, anomaly_map], [*masks, mask])
