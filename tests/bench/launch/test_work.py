"""What a worker does with one run that goes wrong."""

from __future__ import annotations

import errno
import re
from dataclasses import replace

import pytest
from filelock import FileLock
from lightning import LightningModule, Trainer

from anomaly_bench.bench.launch.work import Job, with_half_the_batch, work
from anomaly_bench.bench.places import Conduct, Places
from anomaly_bench.bench.progress import Curves
from anomaly_bench.bench.resolve import own_evaluation
from anomaly_bench.bench.spec import PlannedRun
from anomaly_bench.bench.store import STANDS_IN, Failure, Record, Store
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
