"""The suite's W&B run, read back: every table's numbers are those of the records behind it."""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np
import pytest
import wandb
from PIL import Image

from anomaly_bench.bench.onlookers import Onlookers
from anomaly_bench.bench.profiles import PROFILES
from anomaly_bench.bench.store import Record, Store
from anomaly_bench.cli import main
from anomaly_bench.tables.build import BuiltTable, build_table
from anomaly_bench.tables.index import Index
from anomaly_bench.tables.printed import load_printed
from anomaly_bench.tables.publish import profile_table
from anomaly_bench.tables.spec import load_table
from anomaly_bench.tables.wandb_suite import CELLS, figures_of, publish_suite
from tests.tables.made_store import CATEGORIES, made_record, value
from tests.wandb_folder import LoggedRun, read_runs

LITE = PROFILES["lite"]
OFFLINE = Onlookers(wandb="offline")


def made_table(name: str, *, profile: str = "lite") -> BuiltTable:
    """Two seeds of RD, so that means and deviations are asked for; nothing of the other methods."""
    records = [made_record(category, PROFILES[profile], seed=seed) for category in CATEGORIES for seed in (0, 1)]
    return build_table(load_table(name), PROFILES[profile], Index.of(records), load_printed(name), Path())


def published(tables: list[BuiltTable], results: Path) -> LoggedRun:
    publish_suite(tables, OFFLINE, results)
    (logged,) = read_runs(results)
    return logged


def test_a_tables_numbers_are_those_of_its_records_and_of_the_paper(tmp_path: Path) -> None:
    logged = published([made_table("fmm_scsatt/table1")], tmp_path)
    assert (logged.run.job_type, list(logged.run.tags), logged.exit_code) == ("suite", ["lite"], 0)
    rows = {(row["row"], row["column"]): row for row in logged.rows("lite/fmm_scsatt/table1")}
    for label, category in (("Bottle", "bottle"), ("Screw", "screw")):
        row = rows[label, "RD"]
        values = [100 * value(category, "image_auroc", seed) for seed in (0, 1)]
        assert row["measured"] == pytest.approx(statistics.fmean(values), rel=1e-12)
        assert row["std"] == pytest.approx(statistics.stdev(values), rel=1e-9)
        assert row["printed"] == load_printed("fmm_scsatt/table1")[label, "RD"].value
        assert row["difference"] == row["measured"] - row["printed"]
        assert len(row["runs"].split()) == 2
    assert rows["Bottle", "Ours"]["measured"] is None
    assert rows["Bottle", "Ours"]["reason"] == "not run"


def test_comparable_cells_of_all_tables_stand_in_one(tmp_path: Path) -> None:
    built = [made_table("fmm_scsatt/table1"), made_table("fmm_scsatt/table3")]
    logged = published(built, tmp_path)
    compared = [cell for table in built for row in table.cells for cell in row if cell.difference is not None]
    rows = logged.rows(CELLS)
    assert len(rows) == len(compared)
    assert {row["table"] for row in rows} == {"lite/fmm_scsatt/table1", "lite/fmm_scsatt/table3"}
    for row, cell in zip(rows, compared, strict=True):
        assert (row["measured"], row["difference"]) == (cell.measured, cell.difference)
        assert row["printed"] == pytest.approx(row["measured"] - row["difference"])


def test_one_table_of_two_profiles_has_two_keys(tmp_path: Path) -> None:
    logged = published([made_table("fmm_scsatt/table1"), made_table("fmm_scsatt/table1", profile="paper")], tmp_path)
    lite, paper = logged.rows("lite/fmm_scsatt/table1"), logged.rows("paper/fmm_scsatt/table1")
    assert {row["runs"] for row in lite if row["runs"]}.isdisjoint({row["runs"] for row in paper if row["runs"]})


def test_figures_are_shown_that_belong_to_the_tables(tmp_path: Path) -> None:
    drawn = ("scores/mvtec-bottle.svg", "maps/mvtec-bottle.png", "fmm_scsatt/table1.svg", "ast_mfr/fig6.svg",
             "scores/btad-01.svg")  # fmt: skip
    for name in drawn:
        path = tmp_path / "figures" / "lite" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".svg":
            path.write_text("<svg xmlns='http://www.w3.org/2000/svg'><text>0.9</text></svg>")
        else:
            Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    table = made_table("fmm_scsatt/table1")
    assert sorted(figures_of([table], tmp_path)) == [
        f"lite/{name.partition('.')[0]}" for name in sorted(drawn[:3])
    ]  # not those of other tables and data sets
    logged = published([table], tmp_path)
    kinds = {key: value for row in logged.history for key, value in row.items() if key.endswith("._type")}
    assert kinds["figures/lite/scores/mvtec-bottle._type"] == "html-file"
    assert kinds["figures/lite/maps/mvtec-bottle._type"] == "image-file"


@pytest.mark.parametrize(("where", "name"), [(wandb, "init"), (wandb.Run, "log"), (wandb.Run, "finish")])
def test_a_wandb_that_fails_leaves_the_tables_alone(
    where: object, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError("gone")

    monkeypatch.setattr(where, name, broken)
    publish_suite([made_table("fmm_scsatt/table1")], OFFLINE, tmp_path)
    assert capsys.readouterr().err == "warning: Weights & Biases has failed (gone); all else goes on without it.\n"


def test_without_wandb_nothing_is_written(tmp_path: Path) -> None:
    assert main(["table", "fmm_scsatt/table1", "--no-train", "--results", str(tmp_path)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["tables"]


@pytest.mark.slow
def test_a_smoke_table_trained_by_workers_is_in_wandb_as_the_records_have_it(tmp_path: Path) -> None:
    results, name = tmp_path / "results", "fmm_scsatt/table3"
    words = ["table", name, "--profile", "smoke", "--data-root", str(tmp_path / "data"), "--results", str(results)]
    assert main([*words, "--wandb", "offline", "--categories", "brick", "--workers", "2"]) == 0
    *trainings, suite = read_runs(results)
    records = {record.spec.run_id: record for record in Store(results) if isinstance(record, Record)}
    assert {run.config["run_id"] for run in trainings} == set(records)
    for run in trainings:
        record = records[run.config["run_id"]]
        assert {metric: run.summary[metric] for metric in record.metrics} == record.metrics
        assert (run.run.run_group, run.run.job_type) == (name, record.spec.method)
    table = profile_table(name, PROFILES["smoke"], tmp_path / "data")
    metrics = {(r.name, c.name): table.query(r, c).metric for r in table.rows for c in table.columns}
    shown = [row for row in suite.rows(f"smoke/{name}") if row["measured"] is not None]
    assert {run_id for row in shown for run_id in row["runs"].split()} == set(records)
    for row in shown:
        behind = [records[run_id].metrics[metrics[row["row"], row["column"]]] for run_id in row["runs"].split()]
        assert row["measured"] == pytest.approx(100 * statistics.fmean(behind), rel=1e-12)
