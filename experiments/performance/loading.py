"""How long does a category take to load, beside a loop that opens one image after the other with Pillow?

Compared in this run, in turn, on the same files, which the system has in its cache: the loop in one thread, a first
start (decoding on all cores and filling an empty cache), and a second start (from that cache). All three load the
training images, the test images and their masks. Peak memory is what the process grows by, each in a process of its
own. Exit status 1 if a pixel differs from the loop's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
import torch
from machine import process_peak_mib
from metrics_panel import timed
from numpy.typing import NDArray
from PIL import Image
from rows import publish

from anomaly_bench.bench.catalog import load_dataset
from anomaly_bench.bench.processor import cpu_name
from anomaly_bench.data.base import AnomalyDataModule

Arrays = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]


def main() -> int:
    """Compare, print the row, write the CSV if asked; 1 if a pixel differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path(os.environ.get("ANOMALY_BENCH_DATA", "datasets")))
    parser.add_argument("--dataset", default="synthetic", help="one with masks")
    parser.add_argument("--category", default="brick")
    parser.add_argument("--size", type=int, default=256, help="height and width to resize to in pixels")
    parser.add_argument("--repeats", type=int, default=7, help="runs of each; medians are reported")
    parser.add_argument("--only", choices=["loop", "decode", "cached"], help="one of them, and print its peak memory")
    parser.add_argument("--cache", type=Path, help="for --only cached")
    parser.add_argument("--out", type=Path, help="folder of the CSV; none is written without")
    options = parser.parse_args()
    open_category = partial(load_dataset(options.dataset), options.data_root, options.category, image_size=options.size)
    if options.only:
        print(
            peak_mib(
                lambda: loop(open_category()) if options.only == "loop" else load(open_category(cache=options.cache))
            )
        )
        return 0
    with tempfile.TemporaryDirectory() as cache:
        row = compare(open_category, Path(cache), options)
    publish("loading_cpu", [row], options.out)
    return int(row["max_abs_difference"] > 0)


def compare(
    open_category: Callable[..., AnomalyDataModule], cache: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """One row: seconds and peak memory of the loop, of the first and of the second start."""

    def first_start() -> Arrays:
        shutil.rmtree(cache)
        return load(open_category(cache=cache))

    calls: dict[str, Callable[[], Arrays]] = {
        "loop": lambda: loop(open_category()),
        "decode": lambda: load(open_category()),
        "first_start": first_start,
        "second_start": lambda: load(open_category(cache=cache)),
    }
    results = {name: call() for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(options.repeats):
        for name, call in calls.items():
            timed(seconds[name], call)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    train, test, masks = results["loop"]
    memory = {name: own_process(name, cache, options) for name in ("loop", "decode", "cached")}
    return {
        "data": f"{options.dataset}/{options.category}",
        "train_images": len(train),
        "test_images": len(test),
        "masks": int(masks.any(axis=(1, 2)).sum()),
        "file_pixels": " ".join("{1}x{0}".format(*size) for size in open_category().image_sizes()),
        "size_px": options.size,
        **{f"seconds_median_{name}": round(value, 4) for name, value in medians.items()},
        "ratio_loop_to_decode": round(medians["loop"] / medians["decode"], 2),
        "ratio_first_to_second_start": round(medians["first_start"] / medians["second_start"], 1),
        "max_abs_difference": max(difference(results["loop"], result) for result in results.values()),
        **{f"peak_mib_{name}": value for name, value in memory.items()},
        "result_mib": round(sum(array.nbytes for array in results["loop"]) / 2**20, 1),
        "pillow": PIL.__version__,
        "torch": torch.__version__,
        "cpu": cpu_name(),
        "threads": os.cpu_count(),
    }


def load(data: AnomalyDataModule) -> Arrays:
    """As a run does it."""
    data.setup()
    assert data.train_pixels is not None
    assert data.test_pixels is not None
    assert data.ground_truth is not None
    assert data.ground_truth.masks is not None
    return data.train_pixels.numpy(), data.test_pixels.numpy(), data.ground_truth.masks


def loop(data: AnomalyDataModule) -> Arrays:
    """As a script would do it: one file after the other."""

    def resized(path: Path, mode: str) -> NDArray[np.uint8]:
        image = Image.open(path).convert(mode)
        return np.asarray(image.resize((data.image_size, data.image_size), Image.Resampling.BILINEAR))

    masks = np.zeros((len(data.samples["test"]), data.image_size, data.image_size), dtype=bool)
    for index, sample in enumerate(data.samples["test"]):
        if sample.mask is not None:
            masks[index] = resized(sample.mask, "L") > 127
    train, test = (np.stack([resized(s.path, "RGB") for s in data.samples[split]]) for split in ("train", "test"))
    return train, test, masks


def difference(one: Arrays, other: Arrays) -> int:
    """The largest one of any pixel."""
    return max(int(cv2.absdiff(a.view(np.uint8), b.view(np.uint8)).max()) for a, b in zip(one, other, strict=True))


def own_process(name: str, cache: Path, options: argparse.Namespace) -> float:
    chosen = {"data-root": options.data_root, "dataset": options.dataset, "category": options.category}
    chosen |= {"size": options.size, "only": name} | ({"cache": cache} if name == "cached" else {})
    arguments = [str(part) for key, value in chosen.items() for part in (f"--{key}", value)]
    command = [sys.executable, __file__, *arguments]
    return float(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)


def peak_mib(call: Callable[[], object]) -> float:
    """What the process grows by at most; Linux only."""
    before = process_peak_mib()
    call()
    return round(process_peak_mib() - before, 1)


if __name__ == "__main__":
    sys.exit(main())
