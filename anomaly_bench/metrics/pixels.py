"""What the pixel metrics take in: maps and masks, checked, and pooled over images."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_bench.metrics.ranking import Scores, side_by_side
from anomaly_bench.metrics.regions import Regions

MOST_PARTS = 4  # each takes some memory for the anomalous pixels' ranks
PART_PIXELS = 2**23  # fewer are not worth a thread


class NonFiniteError(ValueError):
    """A map or an image score holds NaN or infinity, which no ranking can place."""


def check_pixels(
    maps: Sequence[Scores] | None,
    masks: Sequence[NDArray[Any]] | None,
    anomalous: NDArray[np.bool_],
    names: Sequence[str],
) -> None:
    """Refuse maps and masks that cannot be meant; None stands for "there are none".

    Raises:
        NonFiniteError: a map holds NaN or infinity.
        ValueError: a map is not (H, W) with H, W >= 1, its mask has another size, or the mask of a normal image marks
            anomalous pixels. The converse is lawful: small defects vanish when masks are shrunk.
    """
    for anomaly_map, name in zip(maps or [], names, strict=False):
        _check_map(anomaly_map, name)
    for mask, is_anomalous, name in zip(masks or [], anomalous, names, strict=False):
        if not is_anomalous and mask.any():
            raise ValueError(f"{name} is labelled normal, but its mask has {np.count_nonzero(mask)} anomalous pixels")
    for anomaly_map, mask, name in zip(maps or [], masks or [], names, strict=False):
        if anomaly_map.shape != mask.shape:
            sizes = ["x".join(map(str, array.shape)) for array in (anomaly_map, mask)]
            raise ValueError(f"the anomaly map of {name} is {sizes[0]}, but its mask is {sizes[1]}")


def _check_map(anomaly_map: Scores, name: str) -> None:
    if anomaly_map.ndim != 2 or not anomaly_map.size:
        raise ValueError(f"the anomaly map of {name} must have the shape (height, width), not {anomaly_map.shape}")
    if not np.isfinite(anomaly_map).all():
        raise NonFiniteError(f"the anomaly map of {name} holds NaN or infinity")


def pool_side_by_side(maps: Sequence[Scores], regions: Sequence[Regions]) -> tuple[list[Scores], Scores]:
    """As `pool_pixels`, with the normal scores in parts, one a core as far as they are worth a thread."""
    most = min(_cores(), MOST_PARTS, len(maps))
    count = max(1, min(most, sum(anomaly_map.size for anomaly_map in maps) // PART_PIXELS))
    bounds = np.linspace(0, len(maps), count + 1, dtype=int)
    portions = [slice(start, end) for start, end in itertools.pairwise(bounds)]
    pooled = side_by_side(lambda portion: pool_pixels(maps[portion], regions[portion]), portions)
    return [normal for normal, _ in pooled], np.concatenate([anomalous for _, anomalous in pooled])


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pool_pixels(maps: Sequence[Scores], regions: Sequence[Regions]) -> tuple[Scores, Scores]:
    """The scores of all pixels of N >= 1 images, apart by kind.

    Args:
        maps: (H, W) each; sizes may differ.
        regions: those of each map's mask.

    Returns:
        Normal scores, (N,), ascending, and anomalous ones, (P,), in the order of the images and of their
        `regions.pixels`; both in the maps' common dtype, so exact, but at least float32: halves sort slowly.
    """
    dtype = np.result_type(np.float32, *{anomaly_map.dtype for anomaly_map in maps})
    pooled = np.concatenate([anomaly_map.ravel() for anomaly_map in maps], dtype=dtype)
    starts = np.cumsum([0, *(anomaly_map.size for anomaly_map in maps[:-1])])
    positions = np.concatenate([start + found.pixels for start, found in zip(starts, regions, strict=True)])
    anomalous = pooled[positions]
    pooled[positions] = np.inf  # above every normal score, which spares a second array as large as the maps
    pooled.sort()
    return pooled[: pooled.size - anomalous.size], anomalous
