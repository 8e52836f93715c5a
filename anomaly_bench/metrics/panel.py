"""All metrics of one evaluation in one call: `anomaly_panel`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anomaly_bench.metrics.pixels import NonFiniteError, check_pixels, pool_side_by_side
from anomaly_bench.metrics.ranking import Scores, auroc, average_precision, f1_max, rank_among, rank_scores
from anomaly_bench.metrics.rd4ad import DegenerateImageError, aupro_rd4ad
from anomaly_bench.metrics.regions import Regions, aupro, find_regions, overlap_weights

METRICS_REVISION = 1  # part of the identity of every evaluation: raise it when numbers move

IMAGE_KEYS = ("image_auroc", "image_ap", "image_f1max")
POOLED_KEYS = ("pixel_auroc", "pixel_ap", "pixel_f1max", "aupro")
PIXEL_KEYS = (*POOLED_KEYS, "aupro_rd4ad")
METRIC_KEYS = (*IMAGE_KEYS, *PIXEL_KEYS)

Images = Sequence[NDArray[Any]] | NDArray[Any]  # (N, H, W), or N arrays (H, W) with sizes of their own
Outcomes = dict[str, float | str]  # by key the value, or the reason why there is none


@dataclass(frozen=True)
class Panel:
    """The eight metrics of one evaluation.

    Attributes:
        values: by every key of METRIC_KEYS, in that order, a fraction in [0, 1], or None where it is undefined.
        undefined: for each None the reason, one sentence.
    """

    values: dict[str, float | None]
    undefined: dict[str, str]


def anomaly_panel(
    maps: Images | None, image_scores: ArrayLike, labels: ArrayLike, masks: Images | None, *,
    names: Sequence[str] | None = None, fpr_limit: float = 0.3, rd4ad: bool = True,
) -> Panel:  # fmt: skip
    """Every metric of N test images, exact, in float64; higher scores are more anomalous.

    Takes about as much memory again as the maps, plus some 100 bytes for each anomalous pixel.

    Args:
        maps: pixel scores, (N, H, W) or N times (H, W), any float dtype; None where there are no pixel metrics.
        image_scores: (N,).
        labels: (N,), 1 or True for anomalous, 0 or False for normal. They come from the data set, not from the
            masks: the mask of an anomalous image may be empty, and the image then has no region.
        masks: shaped as the maps, bool or integer, nonzero where anomalous; None where the data set has none.
        names: N image names for messages; by default "image 0", "image 1" ...
        fpr_limit: where `aupro` ends, in (0, 1]. `aupro_rd4ad` has a bound of its own.
        rd4ad: False leaves out `aupro_rd4ad`, about a quarter of the time.

    Raises:
        NonFiniteError: a map or an image score is NaN or infinite.
        ValueError: counts differ, a label is not 0 or 1, a map is not as large as its mask, or a normal image's mask
            is not empty.
    """
    scores, label_values = np.asarray(image_scores), np.asarray(labels)
    names = [f"image {index}" for index in range(scores.size)] if names is None else names
    _check_counts(scores, label_values, {"maps": maps, "masks": masks, "names": names})
    anomalous = _check_images(scores, label_values, names)
    map_list, mask_list = (None if images is None else list(images) for images in (maps, masks))  # views, no copies
    check_pixels(map_list, mask_list, anomalous, names)
    outcomes = _image_outcomes(scores, anomalous) | _pixel_outcomes(map_list, mask_list, names, fpr_limit, rd4ad)
    return Panel(
        values={key: value if isinstance(value, float) else None for key, value in outcomes.items()},
        undefined={key: reason for key, reason in outcomes.items() if isinstance(reason, str)},
    )


def _check_counts(scores: NDArray[Any], labels: NDArray[Any], given: Mapping[str, Sized | None]) -> None:
    """Refuse scores and labels that are not (N,), and anything given that is not one for each of them."""
    if scores.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(f"image_scores and labels must both have the shape (N,), not {scores.shape}, {labels.shape}")
    for what, items in given.items():
        if items is not None and len(items) != scores.size:
            raise ValueError(f"there are {scores.size} image scores, but {len(items)} {what}")


def _check_images(scores: NDArray[Any], labels: NDArray[Any], names: Sequence[str]) -> NDArray[np.bool_]:
    """Which images are anomalous, (N,), once every label is known to be 0 or 1 and every score to be finite."""
    for index in np.flatnonzero(~np.isin(labels, (0, 1)))[:1]:
        raise ValueError(f"the label of {names[index]} must be 0 (normal) or 1 (anomalous), not {labels[index]}")
    for index in np.flatnonzero(~np.isfinite(scores))[:1]:
        raise NonFiniteError(f"the image score of {names[index]} is {scores[index]}")
    return labels.astype(bool)


def _image_outcomes(scores: NDArray[Any], anomalous: NDArray[np.bool_]) -> Outcomes:
    normal, abnormal = np.sort(scores[~anomalous]), scores[anomalous]
    if reason := _missing_kind("image", normal.size, abnormal.size):
        return dict.fromkeys(IMAGE_KEYS, reason)
    ranking = rank_scores(normal, abnormal)
    return dict(zip(IMAGE_KEYS, (auroc(ranking), average_precision(ranking), f1_max(ranking)), strict=True))


def _pixel_outcomes(
    maps: Sequence[Scores] | None, masks: Sequence[NDArray[Any]] | None, names: Sequence[str],
    fpr_limit: float, rd4ad: bool,
) -> Outcomes:  # fmt: skip
    if masks is None:
        return dict.fromkeys(PIXEL_KEYS, "The data set has no masks.")
    if maps is None:
        return dict.fromkeys(PIXEL_KEYS, "There are no anomaly maps.")
    regions = [find_regions(mask) for mask in masks]
    rd4ad_outcome = _rd4ad_outcome(maps, regions, names) if rd4ad else "It was not asked for."
    return _pooled_outcomes(maps, regions, fpr_limit) | {"aupro_rd4ad": rd4ad_outcome}


def _pooled_outcomes(maps: Sequence[Scores], regions: Sequence[Regions], fpr_limit: float) -> Outcomes:
    anomalous = sum(found.pixels.size for found in regions)
    normal = sum(anomaly_map.size for anomaly_map in maps) - anomalous
    if reason := _missing_kind("pixel", normal, anomalous):
        return dict.fromkeys(POOLED_KEYS, reason)
    ranking = rank_among(*pool_side_by_side(maps, regions))
    return {
        "pixel_auroc": auroc(ranking),
        "pixel_ap": average_precision(ranking),
        "pixel_f1max": f1_max(ranking),
        "aupro": aupro(ranking, overlap_weights(regions), fpr_limit=fpr_limit),
    }


def _rd4ad_outcome(maps: Sequence[Scores], regions: Sequence[Regions], names: Sequence[str]) -> float | str:
    if not any(found.count for found in regions):
        return "There is no anomalous pixel."
    try:
        return aupro_rd4ad(maps, regions, names)
    except DegenerateImageError as reason:
        return f"{reason}."


def _missing_kind(unit: str, normal: int, anomalous: int) -> str | None:
    """Why scores of so many of each kind cannot be ranked, or None. With one kind alone AP and F1 mean nothing."""
    if not anomalous:
        return f"There is no anomalous {unit}."
    return None if normal else f"There is no normal {unit}."
