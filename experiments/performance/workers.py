"""How much faster is a suite with two workers than with one, and what does it cost around a run?

Compared in this run, in turn: the command line trains the same smoke table into an empty folder, with one worker
(which is the command itself, with all cores) and with more. The overhead is what a worker spends on a run beside
training and evaluation: how much longer twelve runs take than two, less their own seconds. So the start of the
processes, which a suite pays once, is not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import device_slug, hardware
from rows import publish

TABLE = "fmm_scsatt/table5"
FEW, ALL = ["--seeds", "0", "--categories", "brick"], ["--seeds", "0,1,2"]  # two runs, and twelve


def main() -> None:
    """Compare, print a row for each number of workers, write the CSV if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers of workers to compare")
    parser.add_argument("--repeats", type=int, default=2, help="suites of each; medians are reported")
    parser.add_argument("--out", type=Path, help="folder of the CSV; none is written without")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        suite(Path(folder) / "warm", Path(folder), 1, ALL)  # generates the images, fills the caches
        seconds: dict[int, list[tuple[float, float]]] = {workers: [] for workers in options.workers}
        for turn in range(options.repeats):
            for workers in options.workers:
                seconds[workers].append(measure(Path(folder) / f"{turn}-{workers}", Path(folder), workers))
    rows = []
    for workers, measured in seconds.items():
        whole, overhead = (statistics.median(values) for values in zip(*measured, strict=True))
        one = statistics.median(values[0] for values in seconds[options.workers[0]])
        rows.append(
            {
                **hardware(),
                "cores": os.cpu_count(),
                "table": TABLE,
                "workers": workers,
                "suite_seconds": round(whole, 1),
                "overhead_seconds_per_run": round(overhead, 2),
                "times_faster": round(one / whole, 2),
            }
        )
    publish(f"workers_{device_slug()}", rows, options.out)


def measure(results: Path, folder: Path, workers: int) -> tuple[float, float]:
    """Seconds of the whole command for twelve runs, and of a worker beside the work itself, a run."""
    few, few_work, few_runs = suite(results / "few", folder, workers, FEW)
    whole, work, runs = suite(results / "all", folder, workers, ALL)
    return whole, ((whole - few) * workers - (work - few_work)) / (runs - few_runs)


def suite(results: Path, folder: Path, workers: int, asked: list[str]) -> tuple[float, float, int]:
    """Seconds of the whole command, seconds of work in all its runs, and their number."""
    words = ["table", TABLE, "--profile", "smoke", *asked, "--workers", str(workers)]
    places = ["--results", str(results), "--data-root", str(folder / "data"), "--cache-dir", str(folder / "cache")]
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "anomaly_bench", *words, *places], check=True, capture_output=True)
    whole = time.perf_counter() - start
    costs = [json.loads(path.read_text())["cost"] for path in results.glob("runs/*/record.json")]
    return whole, sum(cost["seconds_train"] + cost["seconds_evaluate"] for cost in costs), len(costs)


if __name__ == "__main__":
    main()
