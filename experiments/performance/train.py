"""How fast does a run train, and how long does all of it take, beside anomalib and beside a loop written by hand?

Every contender is a process of its own, all in turn, and again for each repeat, on the same files: some training and
test images of one category, copied into a folder of their own. Weights are random, which changes no speed.

ours            `execute`: decode, train, evaluate, write; also without the cache of teacher's features, and in float32
plain loop      the same network in eager PyTorch: a DataLoader with two workers that opens files, PyTorch's defaults,
                the teacher in every step, library metrics one image at a time
anomalib        its ReverseDistillation by its Engine: at its defaults (batch 32, eight workers, float32), at our batch
                with two workers, and so in our precision; only for --method rd
bare step       our step on one batch in memory and nothing around it: the limit

images_per_second and step_seconds are of the epochs after the first. whole_run_seconds is the process from its start
to its end, imports included. peak_mib is the GPU's, or without one the process's, which has no workers in it. Rows of
a CSV that is there already and that this call does not measure stay.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from metrics_panel import cpu_name, write_csv

from anomaly_bench.bench.catalog import load_dataset
from anomaly_bench.data.base import AnomalyDataModule, spaced, stratified

HERE = Path(__file__).parent
KEY = ("method", "teacher", "size_px", "contender")
# What each adds to its script's common arguments.
OURS = {
    "ours": ["ours"],
    "ours without feature cache": ["ours", "--no-feature-cache"],
    "ours in float32": ["ours", "--precision=32-true"],
    "plain loop in float32": ["plain", "--precision=32-true"],
    "plain loop": ["plain"],
    "bare step": ["bare"],
}
ANOMALIB = {
    "anomalib at its defaults": [],
    "anomalib, batch 16, 2 workers": ["--batch=16", "--workers=2"],
    "anomalib, batch 16, 2 workers, bf16": ["--batch=16", "--workers=2", "--precision=bf16-mixed"],
}


def main() -> int:
    """Measure, print a line for each contender, write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path(os.environ.get("ANOMALY_BENCH_DATA", "datasets")))
    parser.add_argument("--dataset", default="synthetic", help="one in MVTec AD's layout")
    parser.add_argument("--category", default="brick")
    parser.add_argument("--method", default="rd")
    parser.add_argument("--teacher", default="resnet18.random")
    parser.add_argument("--train-images", type=int, default=64)
    parser.add_argument("--test-images", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3, help="processes of each; medians are reported")
    parser.add_argument("--only", nargs="+", help="contenders by name, with `ours` always among them")
    parser.add_argument("--anomalib-python", default=sys.executable, help="an interpreter that has anomalib")
    parser.add_argument("--out", type=Path, default=Path("results/performance"), help="folder of the CSV")
    options = parser.parse_args()
    names = [name for name in contenders(options.method) if not options.only or name in {"ours", *options.only}]
    with tempfile.TemporaryDirectory() as folder:
        copy_category(load_dataset(options.dataset)(options.data_root, options.category), Path(folder), options)
        measured = measure(names, Path(folder), options)
    rows = [row(name, measured, options) for name in names]
    for line in rows:
        print(", ".join(f"{key} {value}" for key, value in line.items()))
    device = torch.cuda.get_device_name().lower().replace(" ", "-") if torch.cuda.is_available() else "cpu"
    path = options.out / f"train_{device}_bf16-mixed.csv"
    write_csv(path, merged(path, rows))
    return 0


def contenders(method: str) -> list[str]:
    """Their names; anomalib has RD alone."""
    return [*OURS, *(ANOMALIB if method == "rd" else [])]


def copy_category(data: AnomalyDataModule, root: Path, options: argparse.Namespace) -> None:
    """Some images and masks of a category in MVTec AD's layout, for all contenders alike; anomalib refuses links."""
    folder = root / options.category
    for split, samples in (
        ("train", spaced(data.samples["train"], options.train_images)),
        ("test", stratified(data.samples["test"], options.test_images)),
    ):
        for sample in samples:
            copy(sample.path, folder / split / sample.defect / sample.path.name)
            if sample.mask is not None:
                copy(sample.mask, folder / "ground_truth" / sample.defect / sample.mask.name)


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def measure(names: list[str], root: Path, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Medians of what every contender reports; an empty dict for one that is not installed."""
    reports: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    present = [name for name in names if name in OURS or has_anomalib(options.anomalib_python)]
    for _ in range(options.repeats):
        for name in present:
            start = time.perf_counter()
            done = subprocess.run(command(name, root, options), stdout=subprocess.PIPE, check=True, text=True)
            seconds = time.perf_counter() - start
            reports[name].append({**json.loads(done.stdout.splitlines()[-1]), "whole_run_seconds": seconds})
            print(f"{name}: {reports[name][-1]}", file=sys.stderr, flush=True)
    return {
        name: {key: statistics.median(report[key] for report in found) for key in found[0]} if found else {}
        for name, found in reports.items()
    }


def has_anomalib(python: str) -> bool:
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('anomalib') is None)"
    return subprocess.run([python, "-c", code], check=False).returncode == 0


def command(name: str, root: Path, options: argparse.Namespace) -> list[str]:
    """The process of one contender."""
    common = [f"--root={root}", f"--category={options.category}", f"--epochs={options.epochs}"]
    common.append(f"--images={options.train_images}")
    if name in ANOMALIB:
        backbone = f"--backbone={options.teacher.partition('.')[0]}"
        return [options.anomalib_python, str(HERE / "anomalib_run.py"), *common, backbone, *ANOMALIB[name]]
    own = [f"--method={options.method}", f"--teacher={options.teacher}"]
    return [sys.executable, str(HERE / "contenders.py"), *OURS[name], *common, *own]


def row(name: str, measured: dict[str, dict[str, float]], options: argparse.Namespace) -> dict[str, Any]:
    """One line of the CSV; a contender that is not installed has empty cells and a note."""
    own, ours = measured[name], measured["ours"]
    keys = ("images_per_second", "step_seconds", "first_epoch_seconds", "peak_mib", "whole_run_seconds")
    return {
        "method": options.method,
        "teacher": options.teacher,
        "size_px": 256,
        "contender": name,
        **{key: round(own[key], 4) if own else "" for key in keys},
        "ours_over_it_images_per_second": ratio(ours, own, "images_per_second"),
        "it_over_ours_whole_run": ratio(own, ours, "whole_run_seconds") if name != "bare step" else "",
        "data": f"{options.dataset}/{options.category}",
        "train_images": options.train_images,
        "test_images": options.test_images,
        "epochs": options.epochs,
        "repeats": options.repeats,
        "note": "" if own else "anomalib is not installed",
        "torch": torch.__version__,
        "anomalib": anomalib_version(options.anomalib_python) if name in ANOMALIB and own else "",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name(),
        "threads": torch.get_num_threads(),
    }


def ratio(above: dict[str, float], below: dict[str, float], key: str) -> float | str:
    return round(above[key] / below[key], 2) if above and below else ""


def anomalib_version(python: str) -> str:
    code = "import importlib.metadata as m; print('anomalib', m.version('anomalib'), 'torch', m.version('torch'))"
    return subprocess.run([python, "-c", code], stdout=subprocess.PIPE, check=True, text=True).stdout.strip()


def merged(path: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the file at `path` that are not measured anew, and `rows`."""
    new = {tuple(str(row[key]) for key in KEY) for row in rows}
    old = list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []
    kept: list[dict[str, Any]] = [dict(row) for row in old if tuple(row[key] for key in KEY) not in new]
    return [*kept, *rows]


if __name__ == "__main__":
    sys.exit(main())
