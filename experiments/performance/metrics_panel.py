"""How much faster than scikit-learn plus the naive AUPRO rules is the exact panel, and are the numbers the same?

Both run in this process, in turn, on the same synthetic maps: three quarters of the images are anomalous, with round
defects over a few percent of their pixels. Exit status 1 if a metric differs by more than 1e-9 or is undefined.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from reference_metrics import reference_panel
from rows import publish
from scipy.ndimage import gaussian_filter

from anomaly_bench.bench.processor import cpu_name
from anomaly_bench.metrics import anomaly_panel

TOLERANCE = 1e-9
LIBRARIES = ("numpy", "scikit-learn", "scipy", "opencv-python")

Array = NDArray[Any]
Data = tuple[Array, Array, Array, Array]
Result = TypeVar("Result")


def main() -> int:
    """Compare both panels, print a line for each, write the CSV if asked; 1 if numbers differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[83, 441])
    parser.add_argument("--size", type=int, default=256, help="height and width of a map in pixels")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side; medians are reported")
    parser.add_argument("--out", type=Path, help="folder of the CSV; none is written without")
    options = parser.parse_args()
    rows = []
    for images, name in itertools.product(options.images, ("without aupro_rd4ad", "all")):
        data = synthetic_evaluation(images, options.size)
        rows.append(compare(name, data, options.repeats, rd4ad=name == "all"))
    publish("metrics_panel_cpu", rows, options.out)
    return int(not all(row["max_abs_difference"] <= TOLERANCE for row in rows))


def synthetic_evaluation(images: int, size: int) -> Data:
    """Maps (N, H, W) float32, image scores (N,), labels (N,) and masks (N, H, W) bool, the same on every call."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size]
    labels = np.arange(images) >= images - round(images * 63 / 83)
    masks = np.zeros((images, size, size), dtype=bool)
    maps = np.empty((images, size, size), dtype=np.float32)
    for index, anomalous in enumerate(labels):
        for _ in range(generator.integers(1, 4) if anomalous else 0):
            row, column = generator.integers(0, size, 2)
            radius = generator.uniform(0.04, 0.12) * size
            masks[index] |= (rows - row) ** 2 + (columns - column) ** 2 < radius**2
        texture = gaussian_filter(generator.random((size, size)), size / 64)
        maps[index] = texture + 0.1 * gaussian_filter(masks[index].astype(float), size / 64)
    return maps, maps.max(axis=(1, 2)), labels, masks


def compare(name: str, data: Data, repeats: int, *, rd4ad: bool) -> dict[str, Any]:
    """One row: median seconds of both sides, run in turn, their ratio and the largest difference of any metric."""
    maps, image_scores, labels, masks = data
    seconds: dict[str, list[float]] = {"ours": [], "reference": []}
    for _ in range(repeats):
        panel = timed(seconds["ours"], lambda: anomaly_panel(maps, image_scores, labels, masks, rd4ad=rd4ad))
        reference = timed(
            seconds["reference"], lambda: reference_panel(list(maps), image_scores, labels, list(masks), rd4ad=rd4ad)
        )
    ours, theirs = statistics.median(seconds["ours"]), statistics.median(seconds["reference"])
    measured = np.array([panel.values[key] for key in reference], dtype=np.float64)  # NaN where undefined
    return {
        "panel": name,
        "images": len(maps),
        "size_px": maps.shape[1],
        "seconds_median_ours": round(ours, 5),
        "seconds_median_reference": round(theirs, 4),
        "ratio": round(theirs / ours, 1),
        "max_abs_difference": float(np.max(np.abs(measured - list(reference.values())))),
        **{library.replace("-", "_"): version(library) for library in LIBRARIES},
        "cpu": cpu_name(),
        "threads": cv2.getNumThreads(),
    }


def timed(seconds: list[float], call: Callable[[], Result]) -> Result:
    """What `call` returns; the time it took is appended to `seconds`."""
    start = time.perf_counter()
    result = call()
    seconds.append(time.perf_counter() - start)
    return result


if __name__ == "__main__":
    sys.exit(main())
