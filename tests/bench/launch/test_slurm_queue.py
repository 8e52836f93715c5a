"""What becomes of jobs, by a stand-in for Slurm's own command."""

from __future__ import annotations

from pathlib import Path

import pytest

from anomaly_bench.bench.launch import slurm_queue
from anomaly_bench.bench.launch.on_slurm import JobTicket, LostJobError
from anomaly_bench.bench.launch.slurm_queue import Queue, states_of

JOBS = ("7_0", "7_1", "7_2")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where answers appear; every question is asked at once."""
    monkeypatch.setattr(slurm_queue, "LOOK", 0.0)
    monkeypatch.setattr(slurm_queue, "ASK", 0.0)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "answers").mkdir()
    return tmp_path / "answers"


def slurm_says(folder: Path, text: str, *, status: int = 0) -> None:
    """What `squeue` prints from now on: states, or a complaint."""
    command = folder.parent / "squeue"
    command.write_text(f"#!/bin/sh\ncat >&{2 if status else 1} <<'END'\n{text}\nEND\nexit {status}\n", encoding="utf-8")
    command.chmod(0o755)


def queue_of(folder: Path) -> Queue:
    queue = Queue(folder)
    queue.add(JOBS)
    return queue


def looked_twice(queue: Queue) -> list[bool]:
    queue.ended(JOBS[0])
    return [queue.ended(job) for job in JOBS]


def test_a_job_that_slurm_ended_is_given_up_with_its_word_and_the_others_are_not(folder: Path) -> None:
    slurm_says(folder, "7_0 RUNNING\n7_1 CANCELLED\n7_2 PENDING")
    queue = queue_of(folder)
    assert looked_twice(queue) == [False, True, False]
    assert [queue.lost(job) for job in JOBS] == [None, "CANCELLED", None]
    with pytest.raises(LostJobError, match="CANCELLED"):
        JobTicket(type("Job", (), {"job_id": "7_1"}), queue).result()
    assert queue.arrays() == {"7"}


def test_an_answer_counts_though_slurm_has_forgotten_the_job(folder: Path) -> None:
    slurm_says(folder, "slurm_load_jobs error: Invalid job id specified", status=1)
    (folder / "7_2_0_result.pkl").touch()
    queue = queue_of(folder)
    assert looked_twice(queue) == [True, True, True]
    assert [queue.lost(job) for job in JOBS] == ["UNKNOWN", "UNKNOWN", None]
    assert queue.arrays() == set()


def test_an_answer_may_come_later_than_slurm_says_that_its_job_is_done(folder: Path) -> None:
    slurm_says(folder, "7_0 COMPLETED\n7_1 RUNNING\n7_2 RUNNING")
    queue = queue_of(folder)
    assert not queue.ended("7_0")
    (folder / "7_0_0_result.pkl").touch()
    assert queue.ended("7_0")
    assert queue.lost("7_0") is None


def test_a_job_that_is_queued_again_is_waited_for(folder: Path) -> None:
    queue = queue_of(folder)
    for states in ("7_0 PREEMPTED", "7_0 PENDING", "7_0 TIMEOUT", "7_0 RUNNING"):
        slurm_says(folder, f"{states}\n7_1 RUNNING\n7_2 RUNNING")
        assert not queue.ended("7_0")


def test_a_slurm_that_does_not_answer_ends_no_job(folder: Path) -> None:
    slurm_says(folder, "slurm_load_jobs error: Unable to contact slurm controller (connect failure)", status=1)
    assert states_of({"7"}) is None
    assert looked_twice(queue_of(folder)) == [False, False, False]
