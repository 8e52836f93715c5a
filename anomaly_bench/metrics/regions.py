"""The regions of a mask, and AUPRO: how much of each region is found at few false positives.

Paper       Bergmann et al., "The MVTec Anomaly Detection Dataset: A Comprehensive Real-World Dataset for Unsupervised
            Anomaly Detection", IJCV 2021, sec. 4.2: the per-region overlap (PRO) and the area under its curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from anomaly_bench.metrics.ranking import Counts, Ranking


@dataclass(frozen=True)
class Regions:
    """The 8-connected components of one mask with P anomalous pixels.

    Attributes:
        pixels: (P,) positions of the anomalous pixels in the flattened mask, ascending.
        sizes: (P,) for each of them the number of pixels in its region.
        count: R, the number of regions; 0 for an empty mask.
    """

    pixels: Counts
    sizes: Counts
    count: int


def find_regions(mask: NDArray[Any]) -> Regions:
    """The regions of `mask`, (H, W), where any nonzero value is anomalous; pixels that touch at a corner are joined."""
    binary = np.ascontiguousarray(mask, dtype=bool)
    pixels = np.flatnonzero(binary)
    if not pixels.size:
        return Regions(pixels, sizes=pixels, count=0)
    top, bottom = pixels[0] // mask.shape[1], pixels[-1] // mask.shape[1] + 1
    labels = cv2.connectedComponents(binary[top:bottom].view(np.uint8), connectivity=8)[1]  # 0 is the background
    region = labels.ravel()[pixels - top * mask.shape[1]]
    areas = np.bincount(region)  # (R + 1,)
    return Regions(pixels, sizes=areas[region], count=areas.size - 1)


def overlap_weights(regions: Sequence[Regions]) -> NDArray[np.float64]:
    """What finding each of the (P,) anomalous pixels adds to the mean per-region overlap: 1 / (R |its region|).

    The regions are those of all images together, R in all; pixels are in the order of the images and of their `pixels`.
    """
    sizes = np.concatenate([found.sizes for found in regions])
    return 1.0 / (sizes * sum(found.count for found in regions))


def aupro(ranking: Ranking, overlap: NDArray[np.float64], *, fpr_limit: float = 0.3) -> float:
    """Area under the mean per-region overlap against the false positive rate from 0 to L = `fpr_limit`, over L.

    MVTec's curve joins the points (FPR, PRO) of all distinct scores of all images by straight lines, and is cut at L by
    interpolation. It need not be built. PRO is the sum of w = 1 / (R |region|) over the anomalous pixels found so far,
    and a pixel of score s is found between two neighbouring points: the last with FPR a = #(normal > s) / N, the
    first with FPR b = #(normal >= s) / N. So the curve is a sum of ramps, one for each anomalous pixel, 0 up to a, 1
    from b, straight between (a step where no normal score ties with s), and its area is the sum of theirs:

        AUPRO = sum_s w c / L,   c = (L - b) + (b - a) / 2        if b <= L
                                 c = (L - a)^2 / (2 (b - a))      if a < L < b
                                 c = 0                            if a >= L

    Args:
        ranking: the pixels of all images together.
        overlap: (P,) the w above, by `overlap_weights`, in the order of the anomalous scores that were ranked.
        fpr_limit: L, in (0, 1].

    Raises:
        ValueError: `fpr_limit` is outside (0, 1].
    """
    if not 0 < fpr_limit <= 1:
        raise ValueError(f"fpr_limit must be above 0 and at most 1, not {fpr_limit}")
    end = ranking.false_positives / ranking.normals  # b
    area = np.maximum(fpr_limit - end, 0)  # of the part from b on, the whole of it where a = b
    ties = np.flatnonzero(ranking.false_positives != ranking.false_positives_above)
    start, end = ranking.false_positives_above[ties] / ranking.normals, end[ties]  # a, b
    run = np.minimum(end, fpr_limit) - np.minimum(start, fpr_limit)  # of b - a what is within the limit
    area[ties] += run**2 / (2 * (end - start))
    return float(np.sum(overlap[ranking.order] * area) / fpr_limit)
