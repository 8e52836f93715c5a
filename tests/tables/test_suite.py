"""All tables together: what they share is counted once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from anomaly_bench.bench.profiles import PROFILES
from anomaly_bench.bench.store import Store
from anomaly_bench.bench.texts import to_text
from anomaly_bench.errors import UserError
from anomaly_bench.tables.plan import table_runs
from anomaly_bench.tables.spec import load_table, table_names
from anomaly_bench.tables.suite import describe_suite, how_long, suite_runs
from tests.tables.made_store import made_record

LITE = PROFILES["lite"]


def test_runs_that_tables_share_are_counted_once(tmp_path: Path) -> None:
    suite = suite_runs(LITE, tmp_path)
    assert list(suite) == table_names()
    distinct = {run.spec.run_id for runs in suite.values() for run in runs}
    last = describe_suite(suite, Store(tmp_path)).splitlines()[-1]
    shown = sum(len({run.spec for run in table_runs(load_table(name), LITE, tmp_path)}) for name in suite)
    assert last.startswith(f"all papers: {len(suite)} tables show {shown} runs, {len(distinct)} distinct; 0 done")
    assert "no record tells how long" in last
    rd = {run.spec for run in suite["fmm_scsatt/table1"] if run.spec.method == "rd"}
    for name in ("fmm_scsatt/table3", "variance_rd/table1", "variance_rd/table2", "dlkd/table1"):
        assert rd <= {run.spec for run in suite[name]}, f"RD's runs are {name}'s too"


def test_time_is_estimated_from_records_of_the_same_kind_on_each_device_by_itself(tmp_path: Path) -> None:
    for category, seed, device, seconds in (
        ("bottle", 0, "a slow processor", 50.0),
        ("cable", 0, "a GPU", 2.0),
        ("cable", 1, "a GPU", 4.0),  # of a seed that the table does not ask for
    ):
        cost = {"device": device, "seconds_train": seconds, "seconds_evaluate": 10.0}
        record = dataclasses.replace(made_record(category, seed=seed), cost=cost)
        folder = tmp_path / "runs" / record.spec.run_id
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(to_text(record.as_json()))
    suite = {name: runs for name, runs in suite_runs(LITE, tmp_path).items() if name == "variance_rd/table2"}
    [_, line] = describe_suite(suite, Store(tmp_path)).splitlines()
    assert line.partition("; ")[2] == (
        "2 done, 28 to do; "  # RD's others; nothing for variance_rd
        "about 2 min 49 s for 13 of these on 'a GPU', from 2 records of their kind; "
        "about 13 min 0 s for 13 of these on 'a slow processor', from 1 record of their kind; "
        "no record tells how long 15 take."
    )
    methods_own = [run for run in suite["variance_rd/table2"] if run.spec.method == "variance_rd"]
    assert how_long(methods_own, Store(tmp_path)) == "no record tells how long 15 take"
    assert how_long([], Store(tmp_path)) == ""


def test_categories_and_seeds_limit_the_runs_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    suite = suite_runs(LITE, tmp_path, categories=["bottle", "cat"], seeds=[7])
    assert {(run.spec.category, run.spec.seed) for runs in suite.values() for run in runs} == {
        ("bottle", 7),
        ("cat", 7),
    }
    with pytest.raises(UserError, match=r"no table has a category 'botle'; did you mean 'bottle'\?"):
        suite_runs(LITE, tmp_path, categories=["botle"])
