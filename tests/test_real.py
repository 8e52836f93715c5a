"""On real images: `make test-real`, with ANOMALY_BENCH_DATA and ANOMALY_BENCH_WEIGHTS set. A minute or two."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from anomaly_bench.cli import main

pytestmark = pytest.mark.real


@pytest.fixture
def real() -> list[str]:
    """The places of real data and weights; without them these tests fail, they do not pass unseen."""
    for name in ("ANOMALY_BENCH_DATA", "ANOMALY_BENCH_WEIGHTS"):
        if name not in os.environ:
            pytest.fail(f"set {name}: see the README's section on data and weights")
    return ["--data-root", os.environ["ANOMALY_BENCH_DATA"], "--weights-dir", os.environ["ANOMALY_BENCH_WEIGHTS"]]


def record(results: Path) -> dict[str, object]:
    (path,) = results.glob("runs/*/record.json")
    plain: dict[str, object] = json.loads(path.read_text())
    return plain


def test_data_check_tells_complete_from_incomplete(real: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "check", "mvtec", "--json", *real[:2]])
    reports = {report["category"]: report for report in json.loads(capsys.readouterr().out)}
    for category, report in reports.items():
        if report["counts"] is not None:
            complete = report["counts"] == report["official"]["counts"]
            assert report["status"].startswith("complete" if complete else ("INCOMPLETE", "DIFFERENT")), category
            assert report["problems"] == []
    assert reports["bottle"]["status"] == "complete"


def test_rd_finds_the_defects_of_bottle_after_four_epochs(real: list[str], tmp_path: Path) -> None:
    words = ["run", "--method", "rd", "--dataset", "mvtec", "--category", "bottle", "--profile", "lite"]
    assert main([*words, "--set", "epochs=4", "--results", str(tmp_path), *real]) == 0
    plain = record(tmp_path)
    metrics = plain["metrics"]
    assert isinstance(metrics, dict)
    assert metrics["image_auroc"] >= 0.95
    assert metrics["pixel_auroc"] >= 0.95
    assert metrics["aupro"] >= 0.85
    assert plain["evidence"]["data"]["complete"] is True  # type: ignore[index]
