"""From an empty store and from real runs to the page: `tables --train`, `report`."""

from __future__ import annotations

from pathlib import Path

import pytest

from anomaly_bench.bench import profiles
from anomaly_bench.cli import main
from anomaly_bench.tables import publish, spec, suite
from tests.conftest import TINY

FEW = ["ast_mfr/fig6", "fmm_scsatt/table5"]


@pytest.fixture
def tiny_smoke(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smoke profile on one category, as small as can be, and two tables."""
    smoke = profiles.PROFILES["smoke"]
    settings = {**smoke.settings, **TINY, "teacher": "resnet18.random", "student": "resnet18.random"}
    tiny = profiles.Profile("smoke", smoke.label, settings, dataset="synthetic", categories=("brick",), untrained=True)
    monkeypatch.setitem(profiles.PROFILES, "smoke", tiny)
    for module in (spec, publish, suite):
        monkeypatch.setattr(module, "table_names", lambda: FEW)


def test_what_the_tables_need_is_trained_once_and_shown(
    tiny_smoke: None, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--data-root", str(data_root), "--results", str(tmp_path), "--profile", "smoke"]
    assert main(["tables", "--dry-run", *places]) == 0
    assert "all papers: 2 tables show 10 runs, 10 distinct; 0 done, 10 to do" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    assert main(["tables", "--train", *places]) == 0
    capsys.readouterr()
    assert main(["tables", "--train", *places]) == 0
    assert "10 done, 0 to do" in capsys.readouterr().err
    text = (tmp_path / "tables/smoke/ast_mfr/fig6.md").read_text()
    assert "not run" not in text
    assert "RANDOM weights" in text
    assert main(["report", *places]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "report" / "index.html")
    figures = {str(path.relative_to(tmp_path / "figures/smoke")) for path in (tmp_path / "figures/smoke").rglob("*.*g")}
    assert figures == {"ast_mfr/fig6.svg", "scores/synthetic-brick.svg", "maps/synthetic-brick.png"}
    page = (tmp_path / "report" / "index.html").read_text()
    assert main(["report", *places]) == 0
    assert (tmp_path / "report" / "index.html").read_text() == page, "built twice it is the same"

    for maps in (tmp_path / "runs").glob("*/maps.npz"):  # as in a clone
        maps.unlink()
    capsys.readouterr()
    assert main(["report", *places]) == 0
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("no heat maps of synthetic-brick (ast_mfr")
    assert ", fmm_scsatt" in told
    assert told.endswith("): the runs' maps are gone or broken (git keeps none; only training a run anew makes them).")


def test_with_nothing_at_hand_every_table_is_printed_and_written_with_its_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tables", "--data-root", str(tmp_path / "none"), "--results", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert [line.split(":")[0][2:] for line in shown.splitlines() if line.startswith("# ")] == spec.table_names()
    written = sorted(path.relative_to(tmp_path / "tables/paper") for path in (tmp_path / "tables/paper").rglob("*.md"))
    assert [str(path.with_suffix("")) for path in written] == sorted(spec.table_names())
    for path in (tmp_path / "tables/paper").rglob("*.csv"):
        assert "not run" in path.read_text(), path
    assert main(["report", "--data-root", str(tmp_path / "none"), "--results", str(tmp_path)]) == 0
