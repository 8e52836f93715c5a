"""Slurm's workers, by submitit's own stand-in for a cluster on this machine, and on a real one where there is one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from anomaly_bench.bench.launch import on_slurm
from anomaly_bench.bench.launch.on_slurm import RequeuedWork, SlurmEngine, Submission, parsed
from anomaly_bench.bench.launch.work import Job
from anomaly_bench.bench.places import Places
from anomaly_bench.bench.resolve import own_evaluation
from anomaly_bench.bench.spec import PlannedRun
from anomaly_bench.bench.store import Failure, Store
from tests.bench.launch.suite import RUNS, records, start
from tests.conftest import tiny_spec

pytest.importorskip("submitit", reason="needs the extra `slurm`")


@pytest.mark.slow
def test_a_table_is_trained_by_jobs(data_root: Path, tmp_path: Path) -> None:
    process = start(tmp_path, data_root, "--launcher", "slurm", "--workers", "2", "--slurm", "cluster=local")
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    assert f"[{RUNS} of {RUNS}]" in output
    assert len(records(tmp_path)) == RUNS


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("cluster=local", "partitoin=gpu"), "error: Slurm cannot be used"),
        (("cluster=local", "timeout_min=soon"), 'error: Slurm cannot be used (Parameter "timeout_min" expected type'),
    ],
)
def test_what_slurm_cannot_do_is_one_sentence(
    options: tuple[str, ...], sentence: str, data_root: Path, tmp_path: Path
) -> None:
    output = refused(start(tmp_path, data_root, "--launcher", "slurm", "--slurm", *options))
    assert sentence in output


def refused(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2, output
    assert "Traceback" not in output
    return output


def test_without_slurm_there_is_one_sentence(data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # where there is no srun
    output = refused(start(tmp_path, data_root, "--launcher", "slurm"))
    assert "error: Slurm cannot be used (Could not detect" in output
    assert "start this on a machine of the cluster, or leave out --launcher slurm." in output


def test_parameters_are_numbers_switches_and_lists_where_they_read_so() -> None:
    typed = {"60": 60, "1.5": 1.5, "true": True, '["module load cuda"]': ["module load cuda"]}
    text = ["gpu", "1:00:00", "a100:2", "007", ""]
    assert {value: parsed(value) for value in typed} == typed
    assert [parsed(value) for value in text] == text


def test_a_job_whose_minutes_are_over_is_queued_again_with_the_same_run() -> None:
    run, job = PlannedRun(tiny_spec(), own_evaluation("rd")), Job(Places(Path(), Path()))
    again = RequeuedWork().checkpoint(run, job, wait=False)
    assert (type(again.function), again.args, again.kwargs) == (RequeuedWork, (run, job), {"wait": True})


def test_what_is_more_than_an_array_can_have_waits_for_the_array_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_slurm, "ARRAY", 2)
    runs = [PlannedRun(tiny_spec(category), own_evaluation("rd")) for category in ("brick", "coins", "grass")]
    submission = Recorded()
    tickets = SlurmEngine(Job(Places(Path(), Path())), submission).submit(runs, wait=False)
    assert submission.arrays == [(runs[:2], None), (runs[2:], "1")]
    assert len(tickets) == 3


class Recorded(Submission):
    """Takes every array, and gives its jobs the ids that Slurm would."""

    def __init__(self) -> None:
        self.folder, self.arrays = Path(), list[tuple[Sequence[PlannedRun], str | None]]()

    def submit(self, runs: Sequence[PlannedRun], *, wait: bool, after: str | None = None) -> list[Any]:
        self.arrays.append((runs, after))
        return [SimpleNamespace(job_id=f"{len(self.arrays)}_{index}") for index, _ in enumerate(runs)]


@pytest.fixture
def queue() -> Iterator[None]:
    """That of a real Slurm, with its default partition; nothing of ours is left in it."""
    if shutil.which("sbatch") is None or subprocess.run(["squeue"], capture_output=True, check=False).returncode:
        pytest.skip("there is no Slurm here")
    yield
    latest = time.monotonic() + 60
    while (left := jobs()) and time.monotonic() < latest:
        time.sleep(1)
    assert left == []


def jobs() -> list[str]:
    """Our jobs that Slurm has not ended yet, by id, those at work first."""
    words = ["squeue", "--array", "--noheader", "--me", "--name=anomaly-bench", "--sort=-T,i", "--format=%i"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()


def wait_for_checkpoint(process: subprocess.Popen[str], results: Path) -> Path:
    while process.poll() is None:
        if found := list(results.glob("runs/.*.ckpt")):
            return found[0]
        time.sleep(0.1)
    raise AssertionError(process.communicate()[0])


@pytest.mark.slow
def test_a_cancelled_job_costs_its_run_alone_and_all_are_of_one_array(
    queue: None, data_root: Path, tmp_path: Path
) -> None:
    process = start(tmp_path, data_root, "--launcher", "slurm", "--workers", "2", "--slurm", "timeout_min=30")
    wait_for_checkpoint(process, tmp_path)
    first, *others = jobs()
    assert {job.partition("_")[0] for job in others} == {first.partition("_")[0]}
    subprocess.run(["scancel", first], check=True)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 1, output
    failures = [entry for entry in Store(tmp_path) if isinstance(entry, Failure)]
    assert [failure.reason for failure in failures] == ["its job ended without an answer (CANCELLED)"]
    assert len(records(tmp_path)) == RUNS - 1
    again = start(tmp_path, data_root, "--launcher", "slurm", "--slurm", "timeout_min=30")
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0, output
    assert "[1 of 1]" in output


@pytest.mark.slow
def test_ctrl_c_takes_the_jobs_out_of_the_queue(queue: None, data_root: Path, tmp_path: Path) -> None:
    process = start(tmp_path, data_root, "--launcher", "slurm", "--workers", "2")
    wait_for_checkpoint(process, tmp_path)
    assert len(jobs()) > 2
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_partition_that_does_not_exist_is_one_sentence(queue: None, data_root: Path, tmp_path: Path) -> None:
    words = ["--launcher", "slurm", "--slurm", "partition=no-such-one"]
    output = refused(start(tmp_path / "results", data_root, *words))
    assert "error: Slurm takes no job (Batch job submission failed: Invalid partition name specified);" in output
    assert not (tmp_path / "results").exists()
