"""AUPRO by the rule of RD4AD's evaluation code, for comparison with tables that used it.

Code        the evaluation that Deng and Li published with "Anomaly Detection via Reverse Distillation from One-Class
            Embedding", CVPR 2022. It is not MVTec's AUPRO: each image is a data set of its own.
Rule        For each image whose mask has R >= 1 regions, its map alone, with scores from lo to hi:
            thresholds t = lo, lo + d, ... below hi, d = (hi - lo) / 200
            pro(t) = mean over regions of the share of the region with score > t
            fpr(t) = share of the image's normal pixels with score > t
            keep the t with fpr(t) < 0.3; divide each fpr by the largest kept one; trapezoids under (fpr, pro).
            The metric is the mean over these images.
Precision   thresholds are float64 whatever the maps' dtype, as that code's maps were: a float32 map and its exact
            float64 copy give the same number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from anomaly_bench.metrics.pixels import pool_pixels
from anomaly_bench.metrics.ranking import Scores
from anomaly_bench.metrics.regions import Regions, overlap_weights

THRESHOLDS = 200
FPR_BOUND = 0.3


class DegenerateImageError(ValueError):
    """The rule has no value for an image: it would divide zero by zero or integrate over a single point."""


def aupro_rd4ad(maps: Sequence[Scores], regions: Sequence[Regions], names: Sequence[str]) -> float:
    """Mean of `image_aupro_rd4ad` over the images that have a region; at least one must.

    Raises:
        DegenerateImageError: with the name of the first image for which the rule has no value.
    """
    values = []
    for anomaly_map, found, name in zip(maps, regions, names, strict=True):
        if found.count:
            try:
                values.append(image_aupro_rd4ad(anomaly_map, found))
            except DegenerateImageError as reason:
                raise DegenerateImageError(f"RD4AD's rule has no value for {name}: {reason}") from None
    return float(np.mean(values))


def image_aupro_rd4ad(anomaly_map: Scores, regions: Regions) -> float:
    """The rule's value for one image with at least one region; the map is (H, W), the regions those of its mask.

    Raises:
        DegenerateImageError: no normal pixel, no range of scores, or fewer than two kept thresholds with a largest
            kept false positive rate above 0.
    """
    normal, anomalous = (scores.astype(np.float64) for scores in pool_pixels([anomaly_map], [regions]))
    if not normal.size:
        raise DegenerateImageError("its mask leaves no normal pixel")
    thresholds = _thresholds(float(anomaly_map.min()), float(anomaly_map.max()))
    fpr = (normal.size - np.searchsorted(normal, thresholds, side="right")) / normal.size
    pro = _mean_overlap(anomalous, regions, thresholds)
    kept = fpr < FPR_BOUND
    return _scaled_area(fpr[kept], pro[kept])


def _thresholds(lowest: float, highest: float) -> NDArray[np.float64]:
    """(T,) ascending; arange's rounding decides whether T is 200 or one more, as in the rule."""
    step = (highest - lowest) / THRESHOLDS
    if not 0 < step < math.inf:
        raise DegenerateImageError(f"its map spans no range to divide by {THRESHOLDS} (from {lowest} to {highest})")
    return np.arange(lowest, highest, step)


def _mean_overlap(
    anomalous: NDArray[np.float64], regions: Regions, thresholds: NDArray[np.float64]
) -> NDArray[np.float64]:
    """pro(t) at each of the (T,) thresholds: the sum of 1 / (R |region|) over the anomalous pixels above t."""
    order = np.argsort(anomalous)
    weights = overlap_weights([regions])[order]
    from_top = np.append(np.cumsum(weights[::-1])[::-1], 0.0)  # (P + 1,): what pixel i and all above it add
    return from_top[np.searchsorted(anomalous[order], thresholds, side="right")]


def _scaled_area(fpr: NDArray[np.float64], pro: NDArray[np.float64]) -> float:
    """Trapezoids under the kept points, whose rates fall along the thresholds, after scaling the largest rate to 1."""
    if fpr.size < 2 or fpr[0] == 0:
        raise DegenerateImageError(
            f"{fpr.size} of its thresholds have a false positive rate below {FPR_BOUND}, "
            f"the largest such rate being {fpr[0] if fpr.size else None}"
        )
    return float(np.trapezoid(pro[::-1], fpr[::-1] / fpr[0]))
