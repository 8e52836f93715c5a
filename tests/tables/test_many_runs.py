"""A results folder of 1,000 finished runs: all tables from it, reading and computing everything once."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from anomaly_bench.bench.profiles import PROFILES
from anomaly_bench.bench.store import RECORD, Record, Store
from anomaly_bench.cli import main
from anomaly_bench.tables import paired
from anomaly_bench.tables.publish import profile_table
from anomaly_bench.tables.spec import table_names
from tests.tables.made_store import made_table_store, write_run

RUNS = 1000
CPU_SECONDS = 20.0  # about ten times what it takes: for what grows with the square of the runs


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first thousand runs that the tables ask for, three seeds of each, with the scores of their test images."""
    results, records = tmp_path_factory.mktemp("results"), dict[str, Record]()
    for name in table_names():
        made = made_table_store(profile_table(name, PROFILES["paper"], Path()), PROFILES["paper"])
        for record in made.records[: RUNS - len(records)]:
            records.setdefault(record.spec.run_id, record)
    assert len(records) == RUNS
    for record in records.values():
        write_run(Store(results).folder(record.spec.run_id), record)
    return results


@pytest.fixture
def reads(results: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """How often each file of a run was read."""
    counted, read_text = Counter[Path](), Path.read_text

    def counting(path: Path, encoding: str | None = None) -> str:
        if path.is_relative_to(results / "runs"):
            counted[path] += 1
        return read_text(path, encoding)

    monkeypatch.setattr(Path, "read_text", counting)
    return counted


def test_a_list_of_a_thousand_runs_reads_each_record_once_and_no_scores(
    results: Path, reads: Counter[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    start = time.process_time()
    assert main(["list", "runs", "--results", str(results)]) == 0
    assert time.process_time() - start < CPU_SECONDS
    assert len(capsys.readouterr().out.splitlines()) == RUNS
    assert (len(reads), set(reads.values()), {path.name for path in reads}) == (RUNS, {1}, {RECORD})


def test_all_tables_of_a_thousand_runs_read_each_file_once_and_resample_each_side_once(
    results: Path, reads: Counter[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    paired._resample.cache_clear()
    start = time.process_time()
    assert main(["tables", "--results", str(results)]) == 0
    assert time.process_time() - start < CPU_SECONDS
    assert any(sign in capsys.readouterr().out for sign in "▲▼○"), "no cell has an interval"
    assert set(reads.values()) == {1}
    assert Counter(path.name.partition("-")[0] for path in reads)[RECORD] == RUNS
    resampled = paired._resample.cache_info()
    assert resampled.hits > 0
    assert resampled.misses == resampled.currsize  # none was forgotten and done again
