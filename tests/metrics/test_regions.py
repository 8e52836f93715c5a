"""Regions are 8-connected, and AUPRO is MVTec's curve without the curve."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import label

from anomaly_bench.metrics.pixels import pool_pixels
from anomaly_bench.metrics.ranking import rank_scores
from anomaly_bench.metrics.regions import aupro, find_regions, overlap_weights

REFERENCE = runpy.run_path(str(Path(__file__).parents[2] / "experiments" / "performance" / "reference_metrics.py"))


def drawn(*rows: str) -> NDArray[np.bool_]:
    return np.array([[pixel == "#" for pixel in row] for row in rows])


MASKS = {
    "one pixel": (drawn("....", ".#..", "...."), [1]),
    "corner pixels": (drawn("#..#", "....", "#..#"), [1, 1, 1, 1]),
    "touching at a corner": (drawn("#...", ".##.", "...#"), [4, 4, 4, 4]),
    "two regions": (drawn("##..", "...#", "...#"), [2, 2, 2, 2]),
    "along all borders": (drawn("####", "#..#", "####"), [10] * 10),
    "everything": (drawn("###", "###"), [6] * 6),
    "empty": (drawn("...", "..."), []),
}


@pytest.mark.parametrize("dtype", [bool, np.uint8])
@pytest.mark.parametrize("case", MASKS)
def test_regions_are_8_connected(case: str, dtype: type) -> None:
    mask, sizes = MASKS[case]
    regions = find_regions(mask.astype(dtype) * dtype(255))
    assert regions.pixels.tolist() == np.flatnonzero(mask).tolist()
    assert regions.sizes.tolist() == sizes
    assert regions.count == label(mask, structure=np.ones((3, 3)))[1]


def measured_aupro(maps: list[NDArray], masks: list[NDArray], fpr_limit: float) -> float:
    regions = [find_regions(mask) for mask in masks]
    return aupro(rank_scores(*pool_pixels(maps, regions)), overlap_weights(regions), fpr_limit=fpr_limit)


@pytest.mark.parametrize("fpr_limit", [0.01, 0.3, 1.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("levels", [1, 3, 20, 10**6])
def test_aupro_equals_the_curve_that_mvtec_describes(levels: int, dtype: type, fpr_limit: float) -> None:
    rng = np.random.default_rng(levels)
    sizes = [(9, 14), (20, 17), (11, 11), (16, 5)]
    masks = [rng.random(size) < share for size, share in zip(sizes, (0.05, 0.2, 0.0, 0.1), strict=True)]
    maps = [np.floor((rng.random(mask.shape) + 0.4 * mask) * levels).astype(dtype) / dtype(levels) for mask in masks]
    expected = REFERENCE["mvtec_aupro"](maps, masks, fpr_limit=fpr_limit)
    assert measured_aupro(maps, masks, fpr_limit) == pytest.approx(expected, abs=1e-12)


def test_aupro_is_the_sum_of_ramps_in_its_docstring() -> None:
    limit, mask = 0.3, drawn("##...#", "......", ".#....")
    anomaly_map = np.array([[5, 2, 1, 3, 0, 3], [2, 2, 4, 0, 0, 1], [0, 2, 0, 1, 1, 0]], dtype=float)
    region_size = {(0, 0): 2, (0, 1): 2, (0, 5): 1, (2, 1): 1}
    normal, area = anomaly_map[~mask], 0.0
    for pixel, size in region_size.items():
        a, b = np.mean(normal > anomaly_map[pixel]), np.mean(normal >= anomaly_map[pixel])
        if b <= limit:
            area += ((limit - b) + (b - a) / 2) / (3 * size)
        elif a < limit:
            area += (limit - a) ** 2 / (2 * (b - a)) / (3 * size)
    assert measured_aupro([anomaly_map], [mask], limit) == pytest.approx(area / limit, abs=1e-15)


@pytest.mark.parametrize(
    ("above", "tied", "expected"),
    [
        (2, 4, 0.1**2 / (2 * 0.4) / 0.3),  # the tie straddles the limit: the ramp from 0.2 to 0.6 is cut at 0.3
        (0, 10, 0.3 / 2),  # a constant map: the diagonal
        (1, 2, (0.0 + 0.2 / 2) / 0.3),  # the ramp ends at the limit
        (3, 0, 0.0),  # a step at the limit
        (3, 5, 0.0),
        (0, 0, 1.0),
    ],
)
def test_aupro_of_one_pixel_that_ties_with_normal_ones(above: int, tied: int, expected: float) -> None:
    normal = np.repeat([0.0, 1.0, 2.0], [10 - above - tied, tied, above])
    ranking = rank_scores(normal, np.array([1.0]))
    assert aupro(ranking, np.array([1.0]), fpr_limit=0.3) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("limit", [0.0, -0.1, 1.1, float("nan")])
def test_the_limit_is_a_share(limit: float) -> None:
    with pytest.raises(ValueError, match="fpr_limit must be above 0 and at most 1"):
        aupro(rank_scores(np.zeros(2), np.zeros(1)), np.ones(1), fpr_limit=limit)
