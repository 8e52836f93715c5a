"""A table's runs, one after the other: a bad one stays in its cell."""

from __future__ import annotations

from pathlib import Path

import pytest

from anomaly_bench.bench.execute import Places, RunFailedError
from anomaly_bench.bench.profiles import PROFILES
from anomaly_bench.bench.store import Store, StoreError
from anomaly_bench.errors import UserError
from anomaly_bench.tables import train
from anomaly_bench.tables.plan import table_runs
from anomaly_bench.tables.spec import load_table
from tests.tables.made_store import made_record


def work(tmp_path: Path) -> train.Work:
    runs = table_runs(
        load_table("fmm_scsatt/table1"), PROFILES["lite"], tmp_path, categories=["carpet", "grid", "tile"]
    )
    return train.Work(done=[], to_do=[run for run in runs if run.spec.method == "rd"], without_data=[])


def obtaining(monkeypatch: pytest.MonkeyPatch, errors: dict[str, Exception]) -> list[str]:
    """Replace the training by an error or a made record; the categories that were tried."""
    tried = []

    def fake(run: object, *args: object) -> object:
        category = run.category  # type: ignore[attr-defined]
        tried.append(category)
        if category in errors:
            raise errors[category]
        return train.Obtained(made_record(category), "trained")

    monkeypatch.setattr(train, "obtain", fake)
    return tried


def test_a_bad_run_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors: dict[str, Exception] = {"carpet": UserError("a.png is damaged."), "grid": RunFailedError("diverged.")}
    tried = obtaining(monkeypatch, errors)
    failures = train.do_work(work(tmp_path), Places(tmp_path, tmp_path), Store(tmp_path))
    assert tried == ["carpet", "grid", "tile"]
    assert failures == list(errors.values())


def test_a_full_disk_stops_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = obtaining(monkeypatch, {"carpet": StoreError("the disk is full.")})
    with pytest.raises(StoreError):
        train.do_work(work(tmp_path), Places(tmp_path, tmp_path), Store(tmp_path))
    assert tried == ["carpet"]
