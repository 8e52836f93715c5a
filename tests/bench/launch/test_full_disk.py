"""A results folder that is full or read-only, on a path with spaces: one sentence, and nothing is lost."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.bench.launch.suite import RUNS, records, start

pytestmark = pytest.mark.slow


def mount(*words: str) -> None:
    done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 300 MiB."""
    folder = tmp_path / "a small disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=300m", "tmpfs", str(folder))
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """A file that takes all the space there is."""
    filling = disk / "filling"
    with filling.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0" * (1 << 16))
    return filling


def end(process: subprocess.Popen[str]) -> str:
    """What the command says where it ends with 2."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2, output
    assert "Traceback" not in output
    [sentence] = [line for line in output.splitlines() if line.startswith("error: ")]
    return sentence


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_disk_that_fills_up_in_the_middle_of_a_suite_costs_no_finished_run(
    workers: str, disk: Path, data_root: Path
) -> None:
    results = disk / "results"
    process = start(results, data_root, "--workers", workers)
    while len(records(results)) < 2:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    filling = fill(disk)
    sentence = end(process)
    assert sentence.startswith(f"error: cannot write to the results folder {results} (the disk is full); ")
    done = records(results)
    assert len(done) >= 2
    filling.unlink()
    again = start(results, data_root, "--workers", workers)
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0, output
    assert len(records(results)) == RUNS
    assert done.items() <= records(results).items()
    assert [path.name for path in results.glob("runs/.*")] == []


def test_a_read_only_folder_is_one_sentence_before_anything_is_trained(disk: Path, data_root: Path) -> None:
    results = disk / "results"
    results.mkdir()
    mount("-o", "remount,ro", str(disk))
    sentence = end(start(results, data_root, "--workers", "2"))
    assert sentence.startswith(f"error: cannot write to the results folder {results} (Read-only file system); ")
