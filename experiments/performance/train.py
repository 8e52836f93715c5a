"""How fast does a run train, and how long does all of it take, beside anomalib and beside a loop written by hand?

Every contender is a process of its own, all in turn, and again for each repeat, on the same files: some training and
test images of one category, copied into a folder of their own. Weights are random, which changes no speed.

ours            `execute`: decode, train, evaluate, write; also without the cache of teacher's features, and in float32
plain loop      the same network in eager PyTorch: a DataLoader with two workers that opens files, PyTorch's defaults,
                the teacher in every step, library metrics one image at a time; also with the images decoded once into
                the device's memory, which is what that technique brings alone
anomalib        its ReverseDistillation by its Engine: at its defaults (batch 32, eight workers, float32), at our batch
                with two workers, and so in our precision; only for --method rd
bare step       our step on one batch in memory and nothing around it: the limit

Columns are medians over the repeats, with the least and the most of images_per_second. That and step_seconds are of
the epochs after the first. whole_run_seconds is the process from its start to its end, imports included; anomalib's
has what its Engine does by default, a look at the test set after every epoch and pictures at the end, and other
metrics than ours. peak_mib is the GPU's, or without one the process's, which has no workers in it, and of the bare
step no evaluation. Exit status 1 where a contender fails; its note says so.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import device, device_slug
from rows import Row, publish

from anomaly_bench.bench.catalog import load_dataset
from anomaly_bench.data.base import AnomalyDataModule
from anomaly_bench.data.subset import spaced, stratified

HERE = Path(__file__).parent
COMPARISON = ("method", "teacher", "data", "train_images", "test_images", "epochs")
MEDIANS = ("images_per_second", "step_seconds", "first_epoch_seconds", "peak_mib", "whole_run_seconds")
# What each adds to its script's common arguments.
OURS = {
    "ours": ["ours"],
    "ours without feature cache": ["ours", "--no-feature-cache"],
    "ours in float32": ["ours", "--precision=32-true"],
    "plain loop in float32": ["plain", "--precision=32-true"],
    "plain loop": ["plain"],
    "plain loop in float32, images in memory": ["plain", "--precision=32-true", "--resident"],
    "bare step": ["bare"],
}
ANOMALIB = {
    "anomalib at its defaults": [],
    "anomalib, batch 16, 2 workers": ["--batch=16", "--workers=2"],
    "anomalib, batch 16, 2 workers, bf16": ["--batch=16", "--workers=2", "--precision=bf16-mixed"],
}


def main() -> int:
    """Measure, print a line for each contender, write the CSV; 1 if one failed."""
    gpu = device().type == "cuda"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path(os.environ.get("ANOMALY_BENCH_DATA", "datasets")))
    parser.add_argument("--dataset", default="synthetic", help="one in MVTec AD's layout")
    parser.add_argument("--category", default="brick")
    parser.add_argument("--method", default="rd")
    parser.add_argument("--teacher", default="resnet18.random")
    parser.add_argument("--train-images", type=int, default=10**6 if gpu else 64, help="at most; on a GPU all")
    parser.add_argument("--test-images", type=int, default=20, help="at most")
    parser.add_argument("--epochs", type=int, default=20 if gpu else 3, help="at least 2; the first is not counted")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each; medians are reported")
    parser.add_argument("--only", nargs="+", help="contenders by name, with `ours` always among them")
    parser.add_argument("--anomalib-python", default=sys.executable, help="an interpreter that has anomalib")
    parser.add_argument("--out", type=Path, default=Path("results/performance"), help="folder of the CSV")
    options = parser.parse_args()
    if options.epochs < 2:
        parser.error("--epochs must be at least 2: the first is not counted.")
    names = [name for name in contenders(options.method) if not options.only or name in {"ours", *options.only}]
    with tempfile.TemporaryDirectory() as folder:
        data = load_dataset(options.dataset)(options.data_root, options.category)
        options.train_images, options.test_images = copy_category(data, Path(folder), options)
        reports = measure(names, Path(folder), options)
    rows = [row(name, reports, options) for name in names]
    publish(f"train_{device_slug()}_bf16-mixed", rows, options.out, comparison=COMPARISON)
    return int(any(len(reports[name]) < options.repeats for name in present(names, options)))


def contenders(method: str) -> list[str]:
    """Their names; anomalib has RD alone."""
    return [*OURS, *(ANOMALIB if method == "rd" else [])]


def copy_category(data: AnomalyDataModule, root: Path, options: argparse.Namespace) -> tuple[int, int]:
    """Some images and masks of a category in MVTec AD's layout, for all contenders alike; anomalib refuses links.

    Returns:
        How many training and test images there are now.
    """
    folder = root / options.category
    train = spaced(data.samples["train"], options.train_images)
    test = stratified(data.samples["test"], options.test_images)
    for split, samples in (("train", train), ("test", test)):
        for sample in samples:
            copy(sample.path, folder / split / sample.defect / sample.path.name)
            if sample.mask is not None:
                copy(sample.mask, folder / "ground_truth" / sample.defect / sample.mask.name)
    return len(train), len(test)


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def measure(names: list[str], root: Path, options: argparse.Namespace) -> dict[str, list[Row]]:
    """What every contender reports, once a repeat; nothing where it is not installed or fails."""
    reports: dict[str, list[Row]] = {name: [] for name in names}
    turns = present(names, options)
    for repeat in range(options.repeats):
        first = repeat % len(turns)  # another one each time, for a machine grows warm
        for name in turns[first:] + turns[:first]:
            start = time.perf_counter()
            words, variables = command(name, root, options), environment(name)
            done = subprocess.run(words, env=variables, stdout=subprocess.PIPE, check=False, text=True)
            seconds = time.perf_counter() - start
            if done.returncode == 0:
                reports[name].append({**json.loads(done.stdout.splitlines()[-1]), "whole_run_seconds": seconds})
                print(f"{name}: {reports[name][-1]}", file=sys.stderr, flush=True)
    return reports


def present(names: list[str], options: argparse.Namespace) -> list[str]:
    """Those of `names` that can be measured here."""
    return [name for name in names if name in OURS or has_anomalib(options.anomalib_python)]


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


def environment(name: str) -> dict[str, str]:
    """Its variables: anomalib's interpreter finds this package too, for the machine's name; ours and the bare step have
    the command line's way of waiting."""
    path = os.pathsep.join(filter(None, [str(HERE.parents[1]), os.environ.get("PYTHONPATH")]))
    waiting = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"}
    return (waiting if name.startswith(("ours", "bare")) else {}) | dict(os.environ) | {"PYTHONPATH": path}


def row(name: str, reports: dict[str, list[Row]], options: argparse.Namespace) -> Row:
    """One line of the CSV; a contender without a report has empty cells and a note."""
    found, note = reports[name], ""
    if len(found) < options.repeats:
        note = f"{len(found)} of {options.repeats} runs" if name in present([name], options) else "not installed"
    rates = [report["images_per_second"] for report in found]
    given = found[0] if found else {}
    return {
        "method": options.method,
        "teacher": options.teacher,
        "size_px": 256,
        "contender": name,
        **{key: given.get(key, "") for key in ("precision", "batch")},
        **{key: round(median(found, key), 4) if found else "" for key in MEDIANS},
        "images_per_second_least": round(min(rates), 4) if found else "",
        "images_per_second_most": round(max(rates), 4) if found else "",
        "ours_over_it_images_per_second": ratio(reports["ours"], found, "images_per_second"),
        "it_over_ours_whole_run": ratio(found, reports["ours"], "whole_run_seconds") if name != "bare step" else "",
        "data": f"{options.dataset}/{options.category}",
        "train_images": options.train_images,
        "test_images": options.test_images,
        "epochs": options.epochs,
        "repeats": options.repeats,
        "note": note,
        **{key: given.get(key, "") for key in ("device", "threads", "torch")},
        "anomalib": anomalib_version(options.anomalib_python) if name in ANOMALIB and found else "",
    }


def median(reports: list[Row], key: str) -> float:
    return statistics.median(report[key] for report in reports)


def ratio(above: list[Row], below: list[Row], key: str) -> float | str:
    return round(median(above, key) / median(below, key), 2) if above and below else ""


def anomalib_version(python: str) -> str:
    code = "import importlib.metadata as m; print(m.version('anomalib'))"
    return subprocess.run([python, "-c", code], stdout=subprocess.PIPE, check=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
