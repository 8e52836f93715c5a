"""From stage maps to metrics: fuse, smooth, score, measure. Nothing here trains, and nothing is chosen on test data."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from anomaly_bench.bench.foreground import foreground_masks, require_sam
from anomaly_bench.bench.spec import EvalSpec, RunSpec
from anomaly_bench.data.base import AnomalyDataModule, GroundTruth
from anomaly_bench.metrics import Panel, anomaly_panel
from anomaly_bench.weights import WeightsFile


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: the eight metrics, and the score of every image.

    Attributes:
        spec: the rule.
        panel: the metrics.
        scores: of every image, as CSV.
        evidence: what else the numbers rest on: in how many images no background was found, and by which weights.
    """

    spec: EvalSpec
    panel: Panel
    scores: str
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The entry of `record.json`."""
        entry = {"spec": self.spec.as_json(), "metrics": self.panel.values, "undefined": self.panel.undefined}
        return entry | ({"evidence": dict(self.evidence)} if self.evidence else {})


StageMaps = Mapping[str, NDArray[np.float16]]
# Which maps `score_from` fuses, by the beginning of their names.
FUSED = {"precise": ("stage",), "coarse": ("coarse",), "both": ("stage", "coarse")}


def fuse_maps(stage_maps: Mapping[str, NDArray[np.floating]], size: int, spec: EvalSpec) -> NDArray[np.float32]:
    """One anomaly map an image, as RD4AD makes it: upsample, add the stages up, smooth.

    Args:
        stage_maps: K arrays (N, h_k, w_k) by name, see `DistillationMethod.stage_maps`.
        size: height and width of the result, in pixels.
        spec: fusion and smoothing.

    Returns:
        (N, size, size).
    """
    stages = {name: torch.from_numpy(stage.astype(np.float32)) for name, stage in stage_maps.items()}
    maps: NDArray[np.float32] = fuse_stages(stages, size, spec).numpy()
    # SciPy's defaults (mirrored borders, cut at four sigma) are what the authors' code ran with.
    if spec.sigma:
        maps = np.stack([gaussian_filter(image, sigma=spec.sigma) for image in maps])
    return mean_filter(maps, spec.mean_kernel) if spec.mean_kernel > 1 else maps


def fuse_stages(stage_maps: Mapping[str, Tensor], size: int, spec: EvalSpec) -> Tensor:
    """The stages that `spec` names, (N, h_k, w_k) each, upsampled and added or multiplied up; (N, size, size)."""
    large = [
        F.interpolate(stage[:, None], (size, size), mode="bilinear", align_corners=True)
        for name, stage in stage_maps.items()
        if name.startswith(FUSED[spec.score_from])
    ]
    stacked = torch.cat(large, dim=1)  # (N, K, size, size)
    return stacked.sum(dim=1) if spec.fusion == "sum" else stacked.prod(dim=1)


def mean_filter(maps: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """The mean of the `side` x `side` pixels around each, at the borders of those that exist; (N, H, W) kept."""
    pooled = F.avg_pool2d(torch.from_numpy(maps)[:, None], side, stride=1, padding=side // 2, count_include_pad=False)
    filtered: NDArray[np.float32] = pooled[:, 0].numpy()
    return filtered


def score_images(maps: NDArray[np.float32], spec: EvalSpec) -> NDArray[np.float32]:
    """(N, H, W) to (N,)."""
    flat = maps.reshape(len(maps), -1)
    return flat.max(axis=1) if spec.image_score == "max" else flat.mean(axis=1)


def evaluate(
    stage_maps: StageMaps,
    ground_truth: GroundTruth,
    size: int,
    spec: EvalSpec,
    *,
    images: NDArray[np.uint8] | None = None,
    weights_dir: Path | None = None,
) -> Evaluation:
    """All metrics of one run under one rule.

    Args:
        stage_maps: K arrays (N, h_k, w_k) by name, in the order of `ground_truth`.
        ground_truth: labels and masks.
        size: height and width at which pixels are compared.
        spec: the rule.
        images: (N, size, size, 3), in which a rule that leaves the background out looks for it.
        weights_dir: where that rule's weights are, if it has any.

    Raises:
        NonFiniteError: a map holds NaN or infinity; names the image.
        UserError: the background's rule lacks its weights or its package.
    """
    maps = fuse_maps(stage_maps, size, spec)
    evidence: dict[str, Any] = {}
    if spec.background == "none":
        scores = score_images(maps, spec)
    else:
        assert images is not None
        checkpoint = require_sam(weights_dir) if spec.background == "sam" else None
        foreground = foreground_masks(images, spec.background, sam_checkpoint=checkpoint)
        # After smoothing, so that nothing leaks past the mask; the pixel metrics stay those of the whole map.
        scores = score_images(maps * foreground.masks, spec)
        evidence = {"images_without_background": len(foreground.fallbacks), "images": len(maps)}
        evidence |= {"weights": WeightsFile(checkpoint, "folder").evidence} if checkpoint else {}
    names = [sample.name for sample in ground_truth.samples]
    panel = anomaly_panel(maps, scores, ground_truth.labels, ground_truth.masks, names=names)
    return Evaluation(spec, panel, _scores_csv(ground_truth, scores), evidence)


def evaluate_maps(
    spec: RunSpec, stage_maps: StageMaps, data: AnomalyDataModule, evaluation: EvalSpec, *, weights_dir: Path | None
) -> Evaluation:
    """One evaluation of a run's maps."""
    assert data.ground_truth is not None
    assert data.test_pixels is not None
    images = data.test_pixels.cpu().numpy()  # (N, H, W, 3)
    size = spec.protocol.image_size
    return evaluate(stage_maps, data.ground_truth, size, evaluation, images=images, weights_dir=weights_dir)


def _scores_csv(ground_truth: GroundTruth, scores: NDArray[np.float32]) -> str:
    """One line an image; `share` is the anomalous part of the pixels, at original and at evaluated size."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "defect", "label", "score", "share_original", "share_evaluated"])
    for index, sample in enumerate(ground_truth.samples):
        small = float(ground_truth.masks[index].mean()) if ground_truth.masks is not None else ""
        share = float(ground_truth.shares[index])
        shares = ("" if math.isnan(share) else share, small)
        writer.writerow([sample.name, sample.defect, int(sample.anomalous), float(scores[index]), *shares])
    return text.getvalue()
