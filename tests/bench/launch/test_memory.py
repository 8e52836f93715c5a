"""A training that really finds too little memory, and its second chance at half the batch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from anomaly_bench.bench.store import Failure, Record, Store
from tests.bench.launch.limited import IMAGES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to its limit"),
]
HALF = IMAGES // 2
# The allocator of C takes every tensor from the system and gives it back at once, so that a run takes what it needs.
PLAIN_ALLOCATOR = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}
SPARE = 80  # MiB beside what half the batch needs; the whole batch needs 240 more than that


def table(results: Path, data_root: Path, batch: int, limit: int, *options: str) -> tuple[int, str]:
    """How the command ended, and what it said."""
    places = {"ANOMALY_BENCH_RESULTS": str(results), "ANOMALY_BENCH_DATA": str(data_root)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.launch.limited", str(batch), str(limit), *options],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | PLAIN_ALLOCATOR | places,
    )
    return done.returncode, done.stdout + done.stderr


def taken(output: str) -> int:
    """MiB that the command took at most."""
    found = re.search(r"took (\d+) MiB", output)
    assert found is not None, output
    return int(found[1])


def test_a_run_that_finds_too_little_memory_says_so_and_fits_at_half_the_batch(data_root: Path, tmp_path: Path) -> None:
    status, output = table(tmp_path / "measured", data_root, HALF, 0)
    assert status == 0, output
    limit, results = taken(output) + SPARE, tmp_path / "results"

    status, output = table(results, data_root, IMAGES, limit)
    assert status == 1
    assert "| baseline+FMM | — [1] |" in output
    assert f"1. failed: out of memory at batch size {IMAGES}" in output
    failures = [entry for entry in Store(results) if isinstance(entry, Failure)]
    assert {failure.final for failure in failures} == {True}  # that of the lighter row may have fitted

    status, output = table(results, data_root, IMAGES, limit, "--halve-batch")
    assert status == 1, "a final failure is left alone"
    assert f"0 are to do, {len(failures)} failed before (--retry-failed tries them again)" in output

    status, output = table(results, data_root, IMAGES, limit, "--retry-failed", "--halve-batch")
    assert status == 0, output
    assert "at HALF THE BATCH for want of memory (brick)" in output
    batches = {entry.spec.protocol.batch_size for entry in Store(results) if isinstance(entry, Record)}
    assert HALF in batches
    assert not re.search(r"\| baseline.*—", output)

    status, output = table(results, data_root, IMAGES, limit)
    assert status == 0, output
    assert "HALF THE BATCH" in output
