"""Heat-map overlays: an image beside itself with its anomaly map over it, all of a run in one scale of colours.

The scale is the run's own, from the maps of its test images: from the 1st percentile of their pixels, where the image
shows through, to their maximum. Pictures made today can so be compared with those of last week, and an image without
a defect does not glow because it was alone.
"""

from __future__ import annotations

from functools import cache
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from anomaly_bench.bench.evaluate import fuse_maps
from anomaly_bench.bench.execute import MAPS
from anomaly_bench.bench.predictor import Predictor
from anomaly_bench.bench.store import Store
from anomaly_bench.errors import UserError

COLOUR_MAP = "inferno"  # even in brightness
LOW_PERCENTILE = 1.0
MOST_OPAQUE = 0.75  # of the map over the image, at the top of the scale

Limits = tuple[float, float]


def colour_limits(predictor: Predictor, store: Store) -> Limits:
    """The ends of the run's colour scale.

    Raises:
        UserError: the maps of its test images are gone.
    """
    path = store.folder(predictor.spec.run_id) / MAPS
    try:
        with np.load(path, allow_pickle=False) as archive:
            stage_maps = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise UserError(
            f"{path} is gone or broken, and the overlays' colours come from it; use --no-overlays, or train the run "
            "anew by `run --again`."
        ) from error
    maps = fuse_maps(stage_maps, predictor.image_size, predictor.evaluation)
    low, high = float(np.percentile(maps, LOW_PERCENTILE)), float(maps.max())
    return low, high if high > low else low + 1  # of constant maps, which no scale makes more of


def overlay(image: NDArray[np.uint8], anomaly_map: NDArray[np.float32], limits: Limits) -> NDArray[np.uint8]:
    """The image, and to its right the same under its map.

    Args:
        image: (H, W, 3) RGB.
        anomaly_map: (H, W).
        limits: values that get the first and the last colour; what lies beyond them gets these too.

    Returns:
        (H, 2*W, 3) RGB.
    """
    low, high = limits
    heat = np.clip((anomaly_map - low) / (high - low), 0, 1)  # (H, W)
    opacity = MOST_OPAQUE * heat[:, :, None]
    colours = _palette()[(heat * 255).round().astype(np.intp)]
    under = (1 - opacity) * image + opacity * colours
    return np.concatenate([image, under.round().astype(np.uint8)], axis=1)


@cache
def _palette() -> NDArray[np.float64]:
    """(256, 3) in [0, 255]."""
    from matplotlib import colormaps

    return colormaps[COLOUR_MAP](np.arange(256))[:, :3] * 255
