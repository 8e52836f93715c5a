"""A run belongs to one process at a time, until it is done or dead."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from anomaly_bench.bench.claims import ClaimedElsewhereError, claim

HOLD = """
import sys, time
from pathlib import Path
from anomaly_bench.bench.claims import claim
with claim(Path(sys.argv[1]), "00", wait=True):
    print("held", flush=True)
    time.sleep(600)
"""


def holder(runs: Path) -> subprocess.Popen[str]:
    """Another process that holds the claim."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(runs)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_claim_is_exclusive_and_leaves_nothing(tmp_path: Path) -> None:
    runs = tmp_path / "results" / "runs"
    with claim(runs, "00", wait=False):
        with pytest.raises(ClaimedElsewhereError), claim(runs, "00", wait=False):
            pass
        with claim(runs, "01", wait=False):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_there_stays(tmp_path: Path) -> None:
    with claim(tmp_path / "runs", "00", wait=False):
        pass
    assert tmp_path.is_dir()


def test_a_claim_ends_with_its_owner_however_that_dies(tmp_path: Path) -> None:
    process = holder(tmp_path)
    with pytest.raises(ClaimedElsewhereError), claim(tmp_path, "00", wait=False):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [path.name for path in tmp_path.iterdir()] == [".00.lock"]
    with claim(tmp_path, "00", wait=False):
        pass
    assert list(tmp_path.iterdir()) == []


def test_one_can_wait_for_a_claim(tmp_path: Path) -> None:
    process = holder(tmp_path)
    process.kill()
    with claim(tmp_path, "00", wait=True):
        pass
    process.wait()
