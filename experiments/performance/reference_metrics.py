"""The metrics as their definitions read: slow, plain and independent of the package, for tests and benchmarks.

Images are (H, W) arrays in lists; `masks` are bool. Everything must be defined: both kinds of image and of pixel exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score

Array = NDArray[Any]


def reference_panel(
    maps: Sequence[Array], image_scores: Array, labels: Array, masks: Sequence[Array], *, rd4ad: bool = True
) -> dict[str, float]:
    """Every metric by key, AUPRO up to a false positive rate of 0.3."""
    pixel_scores = np.concatenate([anomaly_map.ravel() for anomaly_map in maps])
    pixel_labels = np.concatenate([mask.ravel() for mask in masks])
    panel = ranking_metrics("image", image_scores, labels) | ranking_metrics("pixel", pixel_scores, pixel_labels)
    panel["aupro"] = mvtec_aupro(maps, masks)
    if rd4ad:
        panel["aupro_rd4ad"] = rd4ad_aupro(maps, masks)
    return panel


def ranking_metrics(unit: str, scores: Array, labels: Array) -> dict[str, float]:
    """AUROC, AP and the largest F1 by scikit-learn; scores and labels are (N,)."""
    precision, recall, _ = precision_recall_curve(labels, scores)
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    return {
        f"{unit}_auroc": float(roc_auc_score(labels, scores)),
        f"{unit}_ap": float(average_precision_score(labels, scores)),
        f"{unit}_f1max": float(f1.max()),
    }


def region_pixels(mask: Array) -> list[tuple[Array, ...]]:
    """Row and column indices of every region; pixels that touch at a corner are joined."""
    components, count = label(mask, structure=np.ones((3, 3)))
    return [np.nonzero(components == component) for component in range(1, count + 1)]


def mvtec_aupro(maps: Sequence[Array], masks: Sequence[Array], *, fpr_limit: float = 0.3) -> float:
    """Area under the per-region overlap curve of all pixels, sorted together, up to `fpr_limit`, over `fpr_limit`."""
    false_positive, overlap, count = [], [], 0
    for mask in masks:
        share = np.zeros(mask.shape)
        for pixels in region_pixels(mask):
            share[pixels] = 1 / pixels[0].size
            count += 1
        false_positive.append(~mask.ravel())
        overlap.append(share.ravel())
    scores = np.concatenate([anomaly_map.ravel() for anomaly_map in maps])
    order = np.argsort(scores)[::-1]
    fpr = np.cumsum(np.concatenate(false_positive)[order]) / np.concatenate(false_positive).sum()
    pro = np.cumsum(np.concatenate(overlap)[order]) / count
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    fpr, pro = np.append(0.0, fpr[last_of_tie]), np.append(0.0, pro[last_of_tie])
    return area_up_to(fpr, pro, fpr_limit) / fpr_limit


def area_up_to(x: Array, y: Array, limit: float) -> float:
    """Area under the polygon through the (T,) points, x ascending from 0 to 1, cut at x = limit by interpolation."""
    inside = int(np.sum(x <= limit))
    area = float(np.sum(np.diff(x[:inside]) * (y[1:inside] + y[: inside - 1]) / 2))
    if inside < x.size:
        x0, x1, y0, y1 = x[inside - 1], x[inside], y[inside - 1], y[inside]
        at_limit = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        area += float((limit - x0) * (y0 + at_limit) / 2)
    return area


def rd4ad_aupro(maps: Sequence[Array], masks: Sequence[Array]) -> float:
    """RD4AD's rule: each image with a region by itself, 200 thresholds, the mean over these images."""
    values = []
    for anomaly_map, mask in zip(maps, masks, strict=True):
        if mask.any():
            values.append(rd4ad_aupro_of_image(anomaly_map.astype(np.float64), mask))
    return float(np.mean(values))


def rd4ad_aupro_of_image(anomaly_map: Array, mask: Array) -> float:
    """One image, threshold by threshold and region by region; the map is float64 as in the rule's own code."""
    regions = region_pixels(mask)
    lowest, highest = anomaly_map.min(), anomaly_map.max()
    rates, overlaps = [], []
    for threshold in np.arange(lowest, highest, (highest - lowest) / 200):
        predicted = anomaly_map > threshold
        shares = [predicted[pixels].sum() / pixels[0].size for pixels in regions]
        rate = np.logical_and(predicted, ~mask).sum() / (~mask).sum()
        if rate < 0.3:
            rates.append(rate)
            overlaps.append(np.mean(shares))
    return float(auc(np.array(rates) / max(rates), np.array(overlaps)))
