"""How fast and how right are the packages `adeval` and anomalib on the metrics that they share with our panel?

All run in this process, in turn, on the synthetic maps of `metrics_panel.py`. Ours is the whole panel without
`aupro_rd4ad`: image and pixel AUROC, AP and F1-max, and AUPRO, all exact. `adeval` gives AUROC, AP and AUPRO from 1000
strips; anomalib AUROC, AP, F1-max and AUPRO, all exact. A package that is not installed has empty cells. Exit status 1
if anomalib's numbers differ from ours by more than 1e-3.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch
from metrics_panel import Data, synthetic_evaluation, timed
from rows import publish

from anomaly_bench.bench.processor import cpu_name
from anomaly_bench.metrics import anomaly_panel

KEYS = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "aupro")
Values = dict[str, float]


def main() -> int:
    """Compare, print a line for each size, write the CSV if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[83, 441])
    parser.add_argument("--size", type=int, default=256, help="height and width of a map in pixels")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side; medians are reported")
    parser.add_argument("--out", type=Path, help="folder of the CSV; none is written without")
    options = parser.parse_args()
    rows = [row for count in options.images for row in compare(count, options)]
    publish("metrics_peers_cpu", rows, options.out)
    differences = [row["max_abs_difference"] for row in rows if row["panel"] == "anomalib" and row["seconds_median"]]
    return int(any(difference > 1e-3 for difference in differences))


def compare(count: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each side."""
    data = synthetic_evaluation(count, options.size)
    sides: dict[str, Callable[[Data], Values]] = {"anomaly_bench": ours, "adeval": adeval_panel, "anomalib": anomalib}
    present = {name: call for name, call in sides.items() if name == "anomaly_bench" or find_spec(name)}
    seconds: dict[str, list[float]] = {name: [] for name in present}
    values: dict[str, Values] = {}
    for call in present.values():
        call(synthetic_evaluation(8, 64))  # imports and first calls do not count
    for _ in range(options.repeats):
        for name, call in present.items():
            values[name] = timed(seconds[name], lambda call=call: call(data))  # type: ignore[misc]
    exact, medians = values["anomaly_bench"], {name: statistics.median(found) for name, found in seconds.items()}
    return [
        {
            "panel": name,
            "images": count,
            "size_px": options.size,
            "seconds_median": round(medians[name], 4) if name in present else "",
            "ratio_to_ours": round(medians[name] / medians["anomaly_bench"], 2) if name in present else "",
            "max_abs_difference": max(abs(values[name][k] - exact[k]) for k in KEYS) if name in present else "",
            "version": version(name.replace("_", "-")) if name in present else "not installed",
            "numpy": np.__version__,
            "torch": torch.__version__,
            "cpu": cpu_name(),
            "threads": cv2.getNumThreads(),
        }
        for name in sides
    ]


def ours(data: Data) -> Values:
    maps, scores, labels, masks = data
    values = anomaly_panel(maps, scores, labels, masks, rd4ad=False).values
    return {key: float(values[key] or 0.0) for key in KEYS}


def adeval_panel(data: Data) -> Values:
    """By its functions for NumPy arrays, which ask for a function that NumPy has renamed."""
    import adeval

    np.trapz = np.trapezoid  # type: ignore[attr-defined]
    maps, scores, labels, masks = data
    image_auroc, image_ap = adeval.auroc_and_aupr(scores, labels.astype(np.uint8))
    pixel_auroc, pixel_ap, aupro = adeval.auroc_aupr_aupro(list(maps), list(masks.astype(np.uint8)))
    return dict(zip(KEYS, map(float, (image_auroc, image_ap, pixel_auroc, pixel_ap, aupro)), strict=True))


def anomalib(data: Data) -> Values:
    """By its metrics, given all images at once; its F1 is computed too, as in our panel."""
    from anomalib.metrics import AUPR, AUPRO, AUROC, F1Max

    maps, scores, labels, masks = (torch.from_numpy(array) for array in data)
    batch = SimpleNamespace(pred_score=scores, gt_label=labels, anomaly_map=maps, gt_mask=masks)
    image, pixel = ["pred_score", "gt_label"], ["anomaly_map", "gt_mask"]
    metrics = [AUROC(fields=image), AUPR(fields=image), AUROC(fields=pixel), AUPR(fields=pixel), AUPRO(fields=pixel)]
    values = []
    for metric in [*metrics, F1Max(fields=image), F1Max(fields=pixel)]:
        metric.update(batch)
        values.append(float(metric.compute()))
    return dict(zip(KEYS, values, strict=False))


if __name__ == "__main__":
    sys.exit(main())
