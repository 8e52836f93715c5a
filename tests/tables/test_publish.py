"""Which tables are written, and that those in `results/` are what the records beside them give."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from anomaly_bench.bench.store import Store
from anomaly_bench.bench.texts import to_text
from anomaly_bench.cli import main
from anomaly_bench.tables.publish import build_all
from tests.tables.made_store import made_record

RESULTS, NO_DATA = Path(__file__).parent.parent.parent / "results", Path("nowhere")


@pytest.mark.parametrize("with_runs", [False, True])
def test_without_a_profile_the_papers_tables_are_shown_and_lite_where_it_has_runs(
    with_runs: bool, tmp_path: Path
) -> None:
    record = made_record("bottle")
    if with_runs:
        (tmp_path / "runs" / record.spec.run_id).mkdir(parents=True)
        (tmp_path / "runs" / record.spec.run_id / "record.json").write_text(to_text(record.as_json()))
    shown = [tables[0].profile.name for tables in build_all(None, Store(tmp_path), NO_DATA, peers=True)]
    assert shown == (["paper", "lite"] if with_runs else ["paper"])


def test_the_published_tables_are_what_the_published_records_give(tmp_path: Path) -> None:
    shutil.copytree(RESULTS / "runs", tmp_path / "runs")
    assert main(["tables", "--results", str(tmp_path), "--data-root", str(NO_DATA)]) == 0
    published, rebuilt = contents(RESULTS / "tables"), contents(tmp_path / "tables")
    assert published.keys() <= rebuilt.keys()
    assert [name for name, text in published.items() if rebuilt[name] != text] == []


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.*"))}
