"""Failures stay in their cell."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from anomaly_bench.bench.launch.local import gpu_share
from anomaly_bench.bench.store import Failure, Store
from tests.bench.launch.suite import RUNS, processes, records, start


@pytest.mark.slow
def test_a_killed_worker_costs_its_run_alone_and_the_next_start_makes_up_for_it(
    data_root: Path, tmp_path: Path
) -> None:
    process = start(tmp_path, data_root, "--workers", "2")
    while not list(tmp_path.glob("runs/.*.ckpt")):
        time.sleep(0.05)
    worker = max(processes(tmp_path))
    os.kill(worker, signal.SIGKILL)
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 1
    failures = [entry for entry in Store(tmp_path) if isinstance(entry, Failure)]
    assert [failure.reason for failure in failures] == ["its process was killed by SIGKILL, perhaps for want of memory"]
    assert "its process was killed by SIGKILL" in output
    assert len(records(tmp_path)) == RUNS - 1
    again = start(tmp_path, data_root, "--workers", "2")
    output, _ = again.communicate(timeout=500)
    assert again.returncode == 0, output
    assert "[1 of 1]" in output
    assert len(records(tmp_path)) == RUNS


def test_workers_share_gpus_evenly() -> None:
    assert [gpu_share(slot, 1, 4) for slot in range(4)] == [(0, 0.25)] * 4
    assert [gpu_share(slot, 2, 3) for slot in range(3)] == [(0, 0.5), (1, 1.0), (0, 0.5)]
    assert [gpu_share(slot, 4, 2) for slot in range(2)] == [(0, 1.0), (1, 1.0)]
