"""A table's runs: what is to be done, and that a bad one stays in its cell."""

from __future__ import annotations

import shutil
import weakref
from dataclasses import replace
from pathlib import Path

import pytest

from anomaly_bench.bench.launch import work as work_module
from anomaly_bench.bench.launch.work import Job
from anomaly_bench.bench.obtain import Obtained
from anomaly_bench.bench.places import Places
from anomaly_bench.bench.profiles import PROFILES, load_profile
from anomaly_bench.bench.resolve import own_evaluation
from anomaly_bench.bench.spec import PlannedRun, RunSpec
from anomaly_bench.bench.store import STANDS_IN, Failure, Record, RunFailedError, Store, StoreError
from anomaly_bench.bench.texts import write_json
from anomaly_bench.errors import UserError
from anomaly_bench.tables import train
from anomaly_bench.tables.plan import table_runs
from anomaly_bench.tables.spec import load_table
from tests.conftest import tiny_spec
from tests.tables.made_store import made_record

HERE = train.Workers()


def planned(*categories: str) -> list[PlannedRun]:
    runs = table_runs(load_table("fmm_scsatt/table1"), PROFILES["lite"], Path(), categories=list(categories))
    return [run for run in runs if run.spec.method == "rd"]


def obtaining(monkeypatch: pytest.MonkeyPatch, errors: dict[str, Exception]) -> list[RunSpec]:
    """Replace the training by an error or a made record; the runs that were tried."""
    tried = []

    def fake(spec: RunSpec, evaluation: object, places: object, store: Store, **_: object) -> Obtained:
        tried.append(spec)
        error = errors.pop(spec.category, None)
        if error is not None:
            raise error
        record = replace(made_record(spec.category), spec=spec)
        with store.new_run(spec.run_id) as folder:
            write_json(folder / "record.json", record.as_json())
        return Obtained(record, "trained")

    monkeypatch.setattr(work_module, "obtain", fake)
    return tried


def do(tmp_path: Path, *categories: str, halve_batch: bool = False) -> list[str]:
    job = Job(Places(tmp_path / "data", tmp_path), halve_batch=halve_batch)
    return train.do_work(train.Work(to_do=planned(*categories)), job, HERE)


def test_a_bad_run_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = UserError(f"{tmp_path}/data/mvtec/carpet/a.png is damaged; replace it.")
    errors = {"carpet": damaged, "grid": RunFailedError("rd grid failed: NaN."), "leather": ValueError("a bug")}
    tried = obtaining(monkeypatch, dict(errors))
    failures = do(tmp_path, "carpet", "grid", "leather", "tile")
    assert [spec.category for spec in tried] == ["carpet", "grid", "leather", "tile"]
    ids = {spec.category: spec.run_id for spec in tried}
    assert failures == [
        f"rd mvtec/carpet seed 0 [{ids['carpet']}] failed: mvtec/carpet/a.png is damaged; replace it.",
        "rd grid failed: NaN.",
        f"rd mvtec/leather seed 0 [{ids['leather']}] failed: ValueError: a bug.",
    ]
    kept = [entry for entry in Store(tmp_path) if isinstance(entry, Failure)]
    assert {(failure.spec.category, failure.final) for failure in kept} == {("carpet", False), ("leather", False)}


def test_a_full_disk_stops_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = obtaining(monkeypatch, {"carpet": StoreError("the disk is full.")})
    with pytest.raises(StoreError, match=r"the disk is full\."):
        do(tmp_path, "carpet", "grid")
    assert [spec.category for spec in tried] == ["carpet"]


def test_a_run_without_memory_is_tried_at_half_the_batch_only_if_that_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = RunFailedError("out of memory at batch size 16.", out_of_memory=True)
    tried = obtaining(monkeypatch, {"carpet": memory})
    assert do(tmp_path, "carpet") == [str(memory)]
    assert len(tried) == 1
    tried = obtaining(monkeypatch, {"carpet": memory})
    assert do(tmp_path, "carpet", halve_batch=True) == []
    assert [spec.protocol.batch_size for spec in tried] == [16, 8]
    record = Store(tmp_path).load(tried[1].run_id)
    assert isinstance(record, Record)
    assert record.provenance[STANDS_IN] == [16]


def test_a_run_is_halved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def never(spec: RunSpec, *_: object, **__: object) -> Obtained:
        tried.append(spec.protocol.batch_size)
        raise RunFailedError("out of memory.", out_of_memory=True)

    monkeypatch.setattr(work_module, "obtain", never)
    assert do(tmp_path, "carpet", halve_batch=True) == ["out of memory."]
    assert tried == [16, 8]


def test_what_a_run_without_memory_held_is_gone_before_its_second_chance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = list[weakref.ref[Held]]()

    def fails(*_: object, **__: object) -> Obtained:
        assert [reference() for reference in held] == [None] * len(held)
        training = Held()
        held.append(weakref.ref(training))
        raise RunFailedError("out of memory.", out_of_memory=True)

    monkeypatch.setattr(work_module, "obtain", fails)
    assert do(tmp_path, "carpet", halve_batch=True) == ["out of memory."]
    assert len(held) == 2


class Held:
    """All that a training has in memory."""


def test_final_failures_are_left_alone_until_they_are_to_be_retried(data_root: Path, tmp_path: Path) -> None:
    table, store, places = load_table("fmm_scsatt/table5"), Store(tmp_path), Places(data_root, tmp_path)
    table = replace(table, runs=replace(table.runs, dataset="synthetic"))
    runs = table_runs(table, load_profile("smoke"), data_root)
    store.write_failure(Failure(runs[0].spec, "the loss is nan in epoch 2"))
    store.write_failure(Failure(runs[1].spec, "its process was killed by SIGKILL", final=False))
    work = train.sort_work(runs, places, store, asked_for=False)
    assert [failure.spec for failure in work.failed] == [runs[0].spec]
    assert work.to_do == runs[1:]
    assert "1 failed before (--retry-failed tries them again)" in train.describe(work)
    again = train.sort_work(runs, places, store, asked_for=False, retry_failed=True)
    assert (again.failed, again.to_do) == ([], runs[:2])


def test_a_suite_refuses_what_was_made_from_other_data_and_replaces_it_where_told_to(places: Places) -> None:
    store = Store(places.results)
    runs = [PlannedRun(tiny_spec(category), own_evaluation("rd")) for category in ("brick", "coins")]
    moved = replace(places, data_root=places.results.parent / "data")
    shutil.copytree(places.data_root, moved.data_root)
    assert train.do_work(train.Work(to_do=runs), Job(moved), HERE) == []
    first = {run: store.load(run.spec.run_id) for run in runs}
    image = next((moved.data_root / "synthetic-v1" / "brick" / "train" / "good").iterdir())
    image.write_bytes(image.read_bytes() + b"\0")

    with pytest.raises(UserError, match="was made from other data than those at hand; use --again"):
        train.sort_work(runs, moved, store, asked_for=True)
    work = train.sort_work(runs, moved, store, asked_for=True, replace_unfit=True)
    assert (work.to_do, work.done) == (runs[:1], runs[1:])
    assert train.do_work(work, Job(moved, replace_unfit=True), HERE) == []
    anew = {run: store.load(run.spec.run_id) for run in runs}
    assert isinstance(anew[runs[0]], Record)
    assert anew[runs[0]] != first[runs[0]]
    assert anew[runs[1]] == first[runs[1]]
    assert train.sort_work(runs, moved, store, asked_for=True).done == runs


def test_a_run_whose_cells_show_half_its_batch_is_done_until_it_is_to_be_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = obtaining(monkeypatch, {"carpet": RunFailedError("out of memory.", out_of_memory=True)})
    store, runs, places = Store(tmp_path), planned("carpet"), Places(tmp_path / "data", tmp_path)
    assert do(tmp_path, "carpet", halve_batch=True) == []
    store.write_failure(Failure(tried[0], "out of memory at batch size 16"))
    work = train.sort_work(runs, places, store, asked_for=False)
    assert (work.done, work.failed) == (runs, [])
    monkeypatch.setattr(train, "open_data", lambda *_: None)
    assert train.sort_work(runs, places, store, asked_for=False, retry_failed=True).to_do == runs


def test_a_final_failure_of_another_suite_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_training(*_: object, **__: object) -> None:
        raise AssertionError("this must not train")

    monkeypatch.setattr("anomaly_bench.bench.obtain._make", no_training)
    spec = planned("carpet")[0].spec
    Store(tmp_path).write_failure(Failure(spec, "the loss is nan in epoch 2"))
    assert do(tmp_path, "carpet") == [f"rd mvtec/carpet seed 0 [{spec.run_id}] failed: the loss is nan in epoch 2."]
