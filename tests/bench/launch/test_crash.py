"""Whatever is killed, whenever: the same command ends with the same table."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.bench.launch.suite import RUNS, SEEDS, processes, records, start, table

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for left processes in /proc")
TOGETHER = 2  # workers
PATIENCE = 300.0  # seconds until the first checkpoint must be there


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output
    return output


def wait_for_checkpoint(process: subprocess.Popen[str], results: Path) -> None:
    latest = time.monotonic() + PATIENCE
    while time.monotonic() < latest and process.poll() is None:
        if list(results.glob("runs/.*.ckpt")):
            return
        time.sleep(0.02)


def no_process_is_left(results: Path) -> bool:
    for _ in range(100):
        if not processes(results):
            return True
        time.sleep(0.1)
    return False


def only_finished_runs(results: Path) -> bool:
    names = {"record.json", "curves.csv", "maps.npz", ".gitignore"}
    return all(
        folder.is_dir() and all(path.name in names or path.name.startswith("scores-") for path in folder.iterdir())
        for folder in (results / "runs").iterdir()
    )


@dataclass(frozen=True)
class Suite:
    """One that nobody disturbed, and how long it took."""

    seeds: str
    results: Path
    seconds: float

    @property
    def runs(self) -> int:
        return RUNS * len(self.seeds.split(",")) // len(SEEDS.split(","))


@pytest.fixture(scope="module", params=[SEEDS])
def uninterrupted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Suite:
    results, begun = tmp_path_factory.mktemp("uninterrupted"), time.monotonic()
    output = finish(start(results, data_root, "--workers", str(TOGETHER), seeds=request.param))
    suite = Suite(request.param, results, time.monotonic() - begun)
    assert f"[{suite.runs} of {suite.runs}]" in output
    return suite


@pytest.mark.parametrize(
    ("kills", "uninterrupted"),
    [(3, "0"), pytest.param(20, SEEDS, marks=pytest.mark.slow)],
    indirect=["uninterrupted"],
)
def test_a_suite_that_is_killed_again_and_again_ends_with_the_same_table(
    kills: int, uninterrupted: Suite, data_root: Path, tmp_path: Path
) -> None:
    results, moments, seen, begun = tmp_path / "results", random.Random(0), dict[str, bytes](), set[str]()
    workers = ("--workers", str(TOGETHER))
    for number in range(kills):
        process = start(results, data_root, *workers, seeds=uninterrupted.seeds)
        if number % 2:
            wait_for_checkpoint(process, results)
        with suppress(subprocess.TimeoutExpired):
            process.wait(moments.uniform(0, 0.3 if number % 2 else uninterrupted.seconds / 2))
        for victim in moments.sample(alive := processes(results), len(alive)):
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        process.communicate()
        assert no_process_is_left(results)
        now = records(results)
        assert now | seen == now  # what was finished stays as it was: nothing is trained to the end twice
        seen = now
        begun |= {path.name for path in results.glob("runs/.*.ckpt")}
    finish(start(results, data_root, *workers, seeds=uninterrupted.seeds))
    assert begun, "no kill came in the middle of a training"
    assert len(records(results)) == uninterrupted.runs
    assert records(results) | seen == records(results)
    assert table(results) == table(uninterrupted.results)
    assert only_finished_runs(results)


@pytest.mark.slow
def test_a_killed_parent_takes_its_workers_with_it(data_root: Path, tmp_path: Path) -> None:
    process = start(tmp_path, data_root, "--workers", str(TOGETHER))
    while len(processes(tmp_path)) <= TOGETHER:
        time.sleep(0.1)
    process.kill()
    process.communicate()
    assert no_process_is_left(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", [1, TOGETHER])
def test_a_suite_that_is_told_to_end_does_so_within_seconds(
    end: signal.Signals, workers: int, data_root: Path, tmp_path: Path
) -> None:
    process = start(tmp_path, data_root, "--workers", str(workers))
    wait_for_checkpoint(process, tmp_path)
    told = time.monotonic()
    os.killpg(process.pid, end)  # as a terminal does: parent and workers
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + end
    assert time.monotonic() - told < 10
    assert "Traceback" not in output
    assert no_process_is_left(tmp_path)


@pytest.mark.slow
def test_two_suites_at_once_share_the_runs(uninterrupted: Suite, data_root: Path, tmp_path: Path) -> None:
    first, second = (start(tmp_path, data_root, "--workers", "1") for _ in range(2))
    outputs = [finish(first), finish(second)]
    trained = [sum(": trained," in line for line in output.splitlines()) for output in outputs]
    assert sum(trained) == RUNS
    assert min(trained) > 0
    assert only_finished_runs(tmp_path)
    again = [finish(start(tmp_path, data_root, "--workers", "2")) for _ in range(2)]
    assert not any(": trained," in output for output in again)
