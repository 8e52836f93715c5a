"""From stage maps to metrics: fuse, smooth, score, measure. Nothing here trains, and nothing is chosen on test data."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from anomaly_bench.bench.spec import EvalSpec
from anomaly_bench.data.base import GroundTruth
from anomaly_bench.metrics import Panel, anomaly_panel


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: the eight metrics, and the score of every image."""

    spec: EvalSpec
    panel: Panel
    scores: str  # CSV

    def as_json(self) -> dict[str, Any]:
        """The entry of `record.json`."""
        return {"spec": self.spec.as_json(), "metrics": self.panel.values, "undefined": self.panel.undefined}


def fuse_maps(stage_maps: Sequence[NDArray[np.float16]], size: int, spec: EvalSpec) -> NDArray[np.float32]:
    """One anomaly map an image, as RD4AD makes it: upsample, add the stages up, smooth.

    Args:
        stage_maps: K arrays (N, h_k, w_k).
        size: height and width of the result, in pixels.
        spec: fusion and smoothing.

    Returns:
        (N, size, size).
    """
    large = [
        F.interpolate(
            torch.from_numpy(stage.astype(np.float32))[:, None], (size, size), mode="bilinear", align_corners=True
        )
        for stage in stage_maps
    ]
    stacked = torch.cat(large, dim=1)  # (N, K, size, size)
    maps: NDArray[np.float32] = (stacked.sum(dim=1) if spec.fusion == "sum" else stacked.prod(dim=1)).numpy()
    # SciPy's defaults (mirrored borders, cut at four sigma) are what the authors' code ran with.
    return np.stack([gaussian_filter(image, sigma=spec.sigma) for image in maps]) if spec.sigma else maps


def score_images(maps: NDArray[np.float32], spec: EvalSpec) -> NDArray[np.float32]:
    """(N, H, W) to (N,)."""
    flat = maps.reshape(len(maps), -1)
    return flat.max(axis=1) if spec.image_score == "max" else flat.mean(axis=1)


def evaluate(
    stage_maps: Sequence[NDArray[np.float16]], ground_truth: GroundTruth, size: int, spec: EvalSpec
) -> Evaluation:
    """All metrics of one run under one rule.

    Args:
        stage_maps: K arrays (N, h_k, w_k), in the order of `ground_truth`.
        ground_truth: labels and masks.
        size: height and width at which pixels are compared.
        spec: the rule.

    Raises:
        NonFiniteError: a map holds NaN or infinity; names the image.
    """
    maps = fuse_maps(stage_maps, size, spec)
    scores = score_images(maps, spec)
    names = [sample.name for sample in ground_truth.samples]
    panel = anomaly_panel(maps, scores, ground_truth.labels, ground_truth.masks, names=names)
    return Evaluation(spec, panel, _scores_csv(ground_truth, scores))


def _scores_csv(ground_truth: GroundTruth, scores: NDArray[np.float32]) -> str:
    """One line an image; `share` is the anomalous part of the pixels, at original and at evaluated size."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "defect", "label", "score", "share_original", "share_evaluated"])
    for index, sample in enumerate(ground_truth.samples):
        small = float(ground_truth.masks[index].mean()) if ground_truth.masks is not None else ""
        shares = (float(ground_truth.shares[index]), small)
        writer.writerow([sample.name, sample.defect, int(sample.anomalous), float(scores[index]), *shares])
    return text.getvalue()
