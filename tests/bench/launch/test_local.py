"""Failures stay in their cell."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from anomaly_bench.bench.launch import local
from anomaly_bench.bench.launch.local import gpu_share
from anomaly_bench.bench.store import Failure, Store
from anomaly_bench.cli import main
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


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def raise_an_error(*_: object) -> None:
    raise RuntimeError("this worker cannot begin")


@pytest.mark.parametrize("begin", [die, raise_an_error])
def test_workers_that_end_before_their_first_run_are_one_sentence_and_no_failure_of_a_run(
    begin: Callable[..., None],
    data_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(local, "_begin", begin)
    where = ["--data-root", str(data_root), "--results", str(tmp_path / "results")]
    assert main(["table", "fmm_scsatt/table5", "--profile", "smoke", "--workers", "2", *where]) == 2
    said = capsys.readouterr()
    assert "error: a worker ended before its first run (killed, perhaps for want of memory, or unable to" in said.err
    assert "Traceback" not in said.err
    assert list(Store(tmp_path / "results")) == []


def test_workers_share_gpus_evenly() -> None:
    assert [gpu_share(slot, 1, 4) for slot in range(4)] == [(0, 0.95 / 4)] * 4
    assert [gpu_share(slot, 2, 3) for slot in range(3)] == [(0, 0.475), (1, 1.0), (0, 0.475)]
    assert [gpu_share(slot, 4, 2) for slot in range(2)] == [(0, 1.0), (1, 1.0)]
    assert isinstance(gpu_share(0, 1, 1)[1], float)  # PyTorch takes no other 1
