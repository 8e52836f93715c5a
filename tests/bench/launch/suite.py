"""A smoke table of twelve runs, through the real command line in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

TABLE = "fmm_scsatt/table1"  # two methods on two categories
SEEDS = "0,1,2"
RUNS = 12


def start(results: Path, data_root: Path, *options: str, seeds: str = SEEDS) -> subprocess.Popen[str]:
    """The command that trains and builds the table; a process group of its own, as a terminal gives it one."""
    words = ["table", TABLE, "--profile", "smoke", "--seeds", seeds, "--checkpoint-seconds", "0"]
    return subprocess.Popen(
        [sys.executable, "-m", "anomaly_bench", *words, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
        env=os.environ | {"ANOMALY_BENCH_RESULTS": str(results), "ANOMALY_BENCH_DATA": str(data_root)},
    )


def table(results: Path) -> bytes:
    """The table as it was written, in all its forms."""
    folder = results / "tables" / "smoke"
    return b"".join((folder / f"{TABLE}.{suffix}").read_bytes() for suffix in ("csv", "html", "md", "tex"))


def records(results: Path) -> dict[str, bytes]:
    """Every record there is, by the run's id."""
    return {path.parent.name: path.read_bytes() for path in results.glob("runs/*/record.json")}


def processes(results: Path) -> list[int]:
    """Every living process of a command that `start` began: they all inherit where its results are."""
    told = f"ANOMALY_BENCH_RESULTS={results}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended just now
            if told in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found
