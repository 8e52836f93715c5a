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
    """The place of real data; without it these tests fail, they do not pass unseen. Weights: a folder, or the hub."""
    if "ANOMALY_BENCH_DATA" not in os.environ:
        pytest.fail("set ANOMALY_BENCH_DATA: see the README's section on data and weights")
    weights = os.environ.get("ANOMALY_BENCH_WEIGHTS")
    return ["--data-root", os.environ["ANOMALY_BENCH_DATA"], *(["--weights-dir", weights] if weights else [])]


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
