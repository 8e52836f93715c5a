"""What a worker does with one run that goes wrong."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from lightning import LightningModule, Trainer

from anomaly_bench.bench import store as store_module
from anomaly_bench.bench.launch import work as work_module
from anomaly_bench.bench.launch.engine import Engine, FutureTicket, Ticket, hand_out
from anomaly_bench.bench.launch.work import Job, Outcome, with_half_the_batch, work
from anomaly_bench.bench.places import Conduct, Places
from anomaly_bench.bench.progress import Curves
from anomaly_bench.bench.resolve import own_evaluation
from anomaly_bench.bench.spec import PlannedRun
from anomaly_bench.bench.store import STANDS_IN, Failure, Record, Store
from anomaly_bench.bench.texts import write_json
from anomaly_bench.errors import UserError
from tests.conftest import tiny_spec

RUN = PlannedRun(tiny_spec(), own_evaluation("rd"))


def test_of_a_run_that_one_at_half_the_batch_stands_in_for_no_checkpoint_is_left(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = PlannedRun(tiny_spec(epochs=2, batch_size=4), own_evaluation("rd"))

    def need_memory(_: Curves, trainer: Trainer, __: LightningModule) -> None:
        if trainer.current_epoch == 1 and trainer.num_training_batches == 2:
            assert store.checkpoint(run.spec.run_id).exists()
            raise MemoryError

    monkeypatch.setattr(Curves, "on_train_epoch_start", need_memory)
    store = Store(places.results)
    where = replace(places, conduct=Conduct(show=False, checkpoint_seconds=0))
    assert work(run, Job(where, halve_batch=True), wait=True).ending == "trained"
    stands_in = store.load(with_half_the_batch(run.spec).run_id)
    assert isinstance(stands_in, Record)
    assert stands_in.provenance[STANDS_IN] == [4]
    assert isinstance(store.load(run.spec.run_id), Failure)
    assert list(store.runs.glob(".*")) == []


def test_a_file_system_without_locks_stops_the_suite_and_is_no_failure_of_a_run(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    outcome = work(RUN, Job(places), wait=True)
    assert outcome.ending == "stop"
    assert re.search(r"has no locks, .*; choose another --results\.$", outcome.reason)
    assert list(Store(places.results)) == []


class Lost(Engine):
    """Its worker is lost with every run."""

    def __init__(self, job: Job) -> None:
        self.job, self.at_once = job, 1

    def submit(self, runs: Sequence[PlannedRun], *, wait: bool) -> Sequence[Ticket]:
        future = Future[Outcome]()
        future.set_exception(OSError())
        return [FutureTicket(future) for _ in runs]

    def why(self, error: Exception) -> str | None:
        return "its worker was lost"


@pytest.mark.parametrize("whose", ["the worker's", "the parent's"])
def test_what_is_about_to_be_kept_of_a_failure_is_not_swept_away_by_another_suite(
    whose: str, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sweep_first(path: Path, plain: dict[str, Any]) -> None:
        Store(places.results).sweep()
        write_json(path, plain)

    def refuse(*_: object, **__: object) -> None:
        raise UserError("its data are damaged.")

    monkeypatch.setattr(store_module, "write_json", sweep_first)
    monkeypatch.setattr(work_module, "obtain", refuse)
    if whose == "the worker's":
        assert work(RUN, Job(places), wait=True).ending == "failed"
    else:
        [(_, outcome)] = hand_out(Lost(Job(places)), [RUN], lambda _: None, wait=True)
        assert outcome.ending == "failed"
    assert isinstance(Store(places.results).load(RUN.spec.run_id), Failure)
    assert [path.name for path in Store(places.results).runs.iterdir()] == [RUN.spec.run_id]


def test_a_run_that_another_process_took_over_is_not_said_to_have_failed(places: Places) -> None:
    store = Store(places.results)
    with store.claim(RUN.spec.run_id):
        store.claim_and_write_failure(Failure(RUN.spec, "its worker was lost", final=False))
    assert list(store) == []
