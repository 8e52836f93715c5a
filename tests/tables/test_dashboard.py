"""The dashboard's definition has every table, and asks for nothing that `--wandb` does not log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from anomaly_bench.bench.profiles import PROFILES
from anomaly_bench.bench.wandb_run import ALL_BUT_SEED
from anomaly_bench.cli import main
from anomaly_bench.metrics import METRIC_KEYS
from anomaly_bench.tables.spec import table_names
from anomaly_bench.tables.wandb_suite import CELL_COLUMNS, CELLS
from tests.tables.made_store import made_record, write_run
from tests.wandb_folder import read_runs

pytest.importorskip("wandb_workspaces")
LITE = PROFILES["lite"]


def definitions(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "made" / "dashboard.json"
    assert main(["dashboard", "--out", str(path), "--results", str(tmp_path)]) == 0
    plain: dict[str, Any] = json.loads(path.read_text())
    return plain


def panels(definition: dict[str, Any]) -> list[dict[str, Any]]:
    """Every panel of a workspace or a report, in order."""
    spec = definition["spec"]
    if "section" in spec:
        return [panel for section in spec["section"]["panelBankConfig"]["sections"] for panel in section["panels"]]
    grids = [block["metadata"] for block in spec["blocks"] if "metadata" in block]
    return [panel for grid in grids for panel in grid["panelBankSectionConfig"]["panels"]]


def tables_of(shown: list[dict[str, Any]]) -> list[str]:
    """What the panels of tables pick from the runs' summaries."""
    chosen = [panel["config"]["panel2Config"]["exp"] for panel in shown if panel["viewType"] == "Weave"]
    return [expression["fromOp"]["inputs"]["key"]["val"] for expression in chosen]


@pytest.mark.parametrize("kind", ["workspace", "report"])
def test_every_table_has_a_panel_and_so_has_the_comparison(kind: str, tmp_path: Path) -> None:
    shown = panels(definitions(tmp_path)[kind])
    assert sorted(tables_of(shown)) == sorted([*(f"paper/{name}" for name in table_names()), CELLS])


def test_panels_show_the_tables_that_have_measured_cells(tmp_path: Path) -> None:
    record = made_record("bottle", LITE)
    write_run(tmp_path / "runs" / record.spec.run_id, record)
    assert main(["tables", "--wandb", "offline", "--results", str(tmp_path)]) == 0
    (logged,) = read_runs(tmp_path)
    panel_keys = set(tables_of(panels(definitions(tmp_path)["workspace"]))) - {CELLS}
    keys = [f"{profile}/{name}" for profile in ("paper", "lite") for name in table_names()]
    measured = {key for key in keys if any(row["measured"] is not None for row in logged.rows(key))}
    assert "lite/fmm_scsatt/table1" in measured
    assert measured <= panel_keys
    assert {key.partition("/")[2] for key in panel_keys} == set(table_names())
    assert {key for key in panel_keys if key.startswith("lite/")} == measured


@pytest.mark.parametrize("kind", ["workspace", "report"])
def test_charts_ask_for_what_is_logged(kind: str, tmp_path: Path) -> None:
    shown = panels(definitions(tmp_path)[kind])
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for panel in shown:
        by_kind.setdefault(panel["viewType"], []).append(panel["config"])
    (scatter,) = by_kind["Vega2"]
    assert set(scatter["fieldSettings"].values()) <= set(CELL_COLUMNS)
    assert CELLS in json.dumps(scatter["userQuery"])
    bars = [(bar["metrics"], bar["groupBy"]) for bar in by_kind["Bar Chart"]]
    assert bars == [([name], f"{ALL_BUT_SEED}.value") for name in ("image_auroc", "pixel_auroc", "aupro")]
    assert {name for metrics, _ in bars for name in metrics} <= set(METRIC_KEYS)
    curves = [(curve["xAxis"], curve["metrics"]) for curve in by_kind["Run History Line Plot"]]
    assert curves == [("epoch", [name]) for name in ("loss", "lr", "images_per_second")]


def test_the_report_takes_tables_from_suites_and_curves_from_trainings(tmp_path: Path) -> None:
    blocks = definitions(tmp_path)["report"]["spec"]["blocks"]
    sets = [block["metadata"]["runSets"][0] for block in blocks if "metadata" in block]
    asked = {runs["name"]: json.dumps(runs["filters"]) for runs in sets}
    assert all("suite" in filters and "jobType" in filters for filters in asked.values())
    assert {name for name, filters in asked.items() if '"!="' in filters} == {"Run by run", "Training"}


def test_without_wandb_workspaces_the_remedy_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("anomaly_bench.tables.dashboard.find_spec", lambda _: None)
    assert main(["dashboard", "--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "error: the dashboard needs a package; pip install wandb-workspaces.\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["dashboard", "--wandb", "online"], "Weights & Biases online needs a key; set WANDB_API_KEY"),
        (["dashboard", "--wandb", "onlin"], "unknown --wandb 'onlin'; did you mean 'online'?"),
        (["table", "fmm_scsatt/table1", "--wandb", "online", "--no-train"], "Weights & Biases online needs a key"),
        (["tables", "--wandb", "of"], "unknown --wandb 'of'; did you mean 'off'?"),
        (["report", "--wandb", "onlne"], "unknown --wandb 'onlne'; did you mean 'online'?"),
    ],
)
def test_a_wrong_wandb_is_refused_before_anything_is_written(
    words: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--results", str(tmp_path)]) == 2
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "wandb").write_text("a file")
    assert main(["dashboard", "--results", str(tmp_path)]) == 2
    assert "choose another --out" in capsys.readouterr().err
