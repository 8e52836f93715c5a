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
from anomaly_bench.cli import main
from anomaly_bench.errors import UserError
from anomaly_bench.tables import train, work_list
from anomaly_bench.tables.plan import table_runs
from anomaly_bench.tables.spec import load_table
from anomaly_bench.tables.suite import how_long
from tests.conftest import TINY, tiny_spec
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
    return train.do_work(work_list.Work(to_train=planned(*categories)), job, HERE)


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
    work = work_list.sort_work(runs, places, store, asked_for=False)
    assert [failure.spec for failure in work.failed] == [runs[0].spec]
    assert work.to_do == runs[1:]
    assert "1 failed before (--retry-failed tries them again)" in work_list.describe(work)
    again = work_list.sort_work(runs, places, store, asked_for=False, retry_failed=True)
    assert (again.failed, again.to_do) == ([], runs[:2])


def test_a_suite_refuses_what_was_made_from_other_data_and_replaces_it_where_told_to(places: Places) -> None:
    store = Store(places.results)
    runs = [PlannedRun(tiny_spec(category), own_evaluation("rd")) for category in ("brick", "coins")]
    moved = replace(places, data_root=places.results.parent / "data")
    shutil.copytree(places.data_root, moved.data_root)
    assert train.do_work(work_list.Work(to_train=runs), Job(moved), HERE) == []
    first = {run: store.load(run.spec.run_id) for run in runs}
    image = next((moved.data_root / "synthetic-v1" / "brick" / "train" / "good").iterdir())
    image.write_bytes(image.read_bytes() + b"\0")

    with pytest.raises(UserError, match="was made from other data than those at hand; use --again"):
        work_list.sort_work(runs, moved, store, asked_for=True)
    work = work_list.sort_work(runs, moved, store, asked_for=True, replace_unfit=True)
    assert (work.to_do, work.done) == (runs[:1], runs[1:])
    assert train.do_work(work, Job(moved, replace_unfit=True), HERE) == []
    anew = {run: store.load(run.spec.run_id) for run in runs}
    assert isinstance(anew[runs[0]], Record)
    assert anew[runs[0]] != first[runs[0]]
    assert anew[runs[1]] == first[runs[1]]
    assert work_list.sort_work(runs, moved, store, asked_for=True).done == runs


def test_a_run_whose_cells_show_half_its_batch_is_done_until_it_is_to_be_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = obtaining(monkeypatch, {"carpet": RunFailedError("out of memory.", out_of_memory=True)})
    store, runs, places = Store(tmp_path), planned("carpet"), Places(tmp_path / "data", tmp_path)
    assert do(tmp_path, "carpet", halve_batch=True) == []
    store.write_failure(Failure(tried[0], "out of memory at batch size 16"))
    work = work_list.sort_work(runs, places, store, asked_for=False)
    assert (work.done, work.failed) == (runs, [])
    monkeypatch.setattr(work_list, "open_data", lambda *_: None)
    monkeypatch.setattr(work_list, "has_weights", lambda *_, **__: True)
    assert work_list.sort_work(runs, places, store, asked_for=False, retry_failed=True).to_do == runs


def test_a_final_failure_of_another_suite_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_training(*_: object, **__: object) -> None:
        raise AssertionError("this must not train")

    monkeypatch.setattr("anomaly_bench.bench.obtain._make", no_training)
    spec = planned("carpet")[0].spec
    Store(tmp_path).write_failure(Failure(spec, "the loss is nan in epoch 2"))
    assert do(tmp_path, "carpet") == [f"rd mvtec/carpet seed 0 [{spec.run_id}] failed: the loss is nan in epoch 2."]


# Weights that are not at hand.


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """The hub has nothing; whether it was asked to send something, by call."""
    asked = list[bool]()

    def nothing(architecture: str, tag: str, *, download: bool) -> None:
        asked.append(download)

    monkeypatch.setattr("anomaly_bench.weights._hub_file", nothing)
    return asked


def runs_of(*teachers: str) -> list[PlannedRun]:
    return [PlannedRun(tiny_spec("brick", teacher=teacher), own_evaluation("rd")) for teacher in teachers]


def test_weights_that_nobody_has_end_a_suite_before_it_starts(places: Places, no_hub: list[bool]) -> None:
    runs, store = runs_of("resnet18.tv_in1k", "wide_resnet50_2.tv_in1k"), Store(places.results)
    with pytest.raises(UserError) as told:
        work_list.sort_work(runs, places, store, asked_for=True)
    assert str(told.value) == (
        "no weights for resnet18.tv_in1k, wide_resnet50_2.tv_in1k, for 2 of the runs: connect to the Hugging Face hub "
        "once, or put a file named after each (resnet18*.safetensors or resnet18*.pth) into --weights-dir (make: "
        "WEIGHTS=FOLDER), or choose another --profile (smoke needs no file)."
    )
    with pytest.raises(UserError, match=r"profile \(lite needs resnet18\.tv_in1k alone, for fewer rows\)\."):
        work_list.sort_work(runs[1:], places, store, asked_for=True)
    assert all(no_hub)


def test_a_dry_run_fetches_nothing_and_says_what_would_be_fetched(places: Places, no_hub: list[bool]) -> None:
    runs = runs_of("resnet18.tv_in1k", "resnet18.random")
    work = work_list.sort_work(runs, places, Store(places.results), asked_for=True, download=False)
    assert work.to_do == runs
    assert "The weights of resnet18.tv_in1k are not here: training will ask the Hugging" in work_list.describe(work)
    assert no_hub == [False]


def test_runs_whose_weights_are_here_are_trained_without_the_others(
    places: Places, no_hub: list[bool], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**TINY, "teacher": "resnet18.random", "student": "resnet34.tv_in1k"}
    tiny = replace(PROFILES["smoke"], settings=settings, categories=("brick",), untrained=False)
    monkeypatch.setitem(PROFILES, "smoke", tiny)
    words = ["table", "ast_mfr/table4", "--profile", "smoke", "--results", str(places.results)]
    assert main([*words, "--data-root", str(places.data_root)]) == 1
    said = capsys.readouterr()
    assert "[2 of 2] ast_mfr " in said.err
    assert "No weights for resnet34.tv_in1k: 3 runs cannot be trained, and their cells stay empty." in said.err
    (error,) = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: no weights for resnet34.tv_in1k, for 3 of the runs: connect to")
    rows = {row.split(" | ")[0]: row for row in said.out.splitlines()}
    assert ("(not run)" in rows["| 2: AST"], "(not run)" in rows["| 1: baseline"]) == (True, False)


def test_another_evaluation_is_named_by_its_rule_and_takes_no_training(places: Places) -> None:
    store, own = Store(places.results), own_evaluation("rd")
    spec = tiny_spec("brick")
    assert train.do_work(work_list.Work(to_train=[PlannedRun(spec, own)]), Job(places), HERE) == []
    planned = [PlannedRun(spec, own), PlannedRun(spec, replace(own, sigma=2.0, image_score="mean"))]
    work = work_list.sort_work(planned, places, store, asked_for=True)
    assert (work.done, work.to_evaluate, work.to_train) == (planned[:1], planned[1:], [])
    expected = f"{spec.title} [{spec.run_id}], evaluated from its kept maps with sigma=2.0 image_score=mean"
    assert work_list.describe(work).splitlines()[1] == f"  to do: {expected}"
    assert how_long(work.to_train, store) == ""
