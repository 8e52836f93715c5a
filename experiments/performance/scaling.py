"""How does the cost of a run grow with image size, batch, training images and number of runs?

Whole runs by `execute` on generated images (decode, train, evaluate, write), one of the four varied at a time and the
rest at the middle of its range; random weights. `seconds` is of all runs of a row together, `train_seconds` what the
records call training. One process, after a run that is not counted. Writes a CSV and, beside it, a plot of each.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import device_slug, hardware
from networks import random_run
from rows import publish

from anomaly_bench.bench.execute import execute
from anomaly_bench.bench.places import Conduct, Places
from anomaly_bench.bench.store import Store

MIDDLE = {"size_px": 128, "batch": 8, "train_images": 32, "runs": 1}
RANGES = {
    "size_px": (64, 128, 192, 256),
    "batch": (2, 4, 8, 16),
    "train_images": (8, 16, 24, 32),
    "runs": (1, 2, 3, 4),
}
EPOCHS, TEST_IMAGES = 3, 12


def main() -> int:
    """Measure, print a line for each point, write CSV and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="rd")
    parser.add_argument("--teacher", default="resnet18.random")
    parser.add_argument("--repeats", type=int, default=2, help="times that each point is measured; the fastest counts")
    parser.add_argument("--out", type=Path, default=Path("results/performance"), help="folder of CSV and plot")
    options = parser.parse_args()
    points = [(name, {**MIDDLE, name: value}) for name, values in RANGES.items() for value in values]
    with tempfile.TemporaryDirectory() as folder:
        whole_runs(MIDDLE, Path(folder), options)
        best: dict[int, dict[str, float]] = {}
        for _ in range(options.repeats):
            for index, (_, point) in enumerate(points):
                seconds = whole_runs(point, Path(folder), options)
                best[index] = min(best.get(index, seconds), seconds, key=lambda found: found["seconds"])
    rows = [row(name, point, best[index], options) for index, (name, point) in enumerate(points)]
    name = f"scaling_{device_slug()}"
    publish(name, rows, options.out)
    plot(rows, options.out / f"{name}.svg")
    return 0


def whole_runs(point: dict[str, int], folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of the runs of one point, by seeds 0, 1 ..., and of their training."""
    settings = {
        "epochs": EPOCHS,
        "image_size": point["size_px"],
        "batch_size": point["batch"],
        "train_images": point["train_images"],
        "test_images": TEST_IMAGES,
    }
    training, start = 0.0, time.perf_counter()
    with tempfile.TemporaryDirectory() as results:
        places = Places(folder, Path(results), conduct=Conduct(show=False))
        for seed in range(point["runs"]):
            spec, _ = random_run(options.method, options.teacher, settings, seed=seed)
            training += execute(spec, places, Store(places.results)).cost["seconds_train"]
    return {"seconds": time.perf_counter() - start, "train_seconds": training}


def row(name: str, point: dict[str, int], seconds: dict[str, float], options: argparse.Namespace) -> dict[str, Any]:
    """One line of the CSV."""
    return {
        "varied": name,
        **point,
        "method": options.method,
        "teacher": options.teacher,
        "epochs": EPOCHS,
        "test_images": TEST_IMAGES,
        **{key: round(value, 3) for key, value in seconds.items()},
        **hardware(),
    }


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """One panel for each of the four, from 0, so that a straight line is a cost in proportion."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "scaling"
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(RANGES), figsize=(13, 3), layout="constrained")
    for panel, name in zip(panels, RANGES, strict=True):
        found = [line for line in rows if line["varied"] == name]
        for key in ("seconds", "train_seconds"):
            panel.plot([line[name] for line in found], [line[key] for line in found], marker="o", label=key)
        panel.set(xlabel=name, ylabel="s", xlim=0, ylim=0)
    panels[0].legend()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
