"""On real images: `make test-real`, with ANOMALY_BENCH_DATA and ANOMALY_BENCH_WEIGHTS set. A minute or two."""

from __future__ import annotations

import hashlib
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


def test_rd_finds_the_defects_of_bottle_after_two_epochs(real: list[str], tmp_path: Path) -> None:
    words = ["run", "--method", "rd", "--dataset", "mvtec", "--category", "bottle", "--profile", "lite"]
    assert main([*words, "--set", "epochs=2", "--results", str(tmp_path), *real]) == 0
    plain = record(tmp_path)
    metrics = plain["metrics"]
    assert isinstance(metrics, dict)
    assert metrics["image_auroc"] >= 0.95
    assert metrics["pixel_auroc"] >= 0.95
    assert metrics["aupro"] >= 0.85
    assert plain["evidence"]["data"]["complete"] is True  # type: ignore[index]


SHORT = ["--profile", "lite", "--set", "epochs=1", "train_images=32"]


def student_hash(results: Path, category: str) -> str:
    """Of the student that one run of the category trained."""
    [folder] = [
        path.parent
        for path in results.glob("runs/*/record.json")
        if json.loads(path.read_text())["spec"]["category"] == category
    ]
    return hashlib.sha256((folder / "student.safetensors").read_bytes()).hexdigest()


def test_exchanged_labels_leave_the_student_alone_and_turn_the_auroc_round(real: list[str], tmp_path: Path) -> None:
    bottle = Path(os.environ["ANOMALY_BENCH_DATA"]).resolve() / "mvtec" / "bottle"
    defective, words = bottle / "test" / "broken_large", ["run", "--method", "rd", "--dataset", "folder"]
    auroc = {}
    for name, good, defect in [
        ("as_it_is", bottle / "test/good", defective),
        ("turned", defective, bottle / "test/good"),
    ]:
        folder = tmp_path / name / "bottle"
        for place, target in {"train/good": bottle / "train/good", "test/good": good, "test/defect": defect}.items():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).symlink_to(target)
        results = tmp_path / f"results_{name}"
        given = ["--category", "bottle", "--data-root", str(tmp_path / name), "--results", str(results)]
        assert main([*words, *given, *SHORT, *real[2:]]) == 0
        auroc[name] = record(results)["metrics"]["image_auroc"]  # type: ignore[index]
    assert student_hash(tmp_path / "results_as_it_is", "bottle") == student_hash(tmp_path / "results_turned", "bottle")
    assert auroc["turned"] == pytest.approx(1 - auroc["as_it_is"], abs=1e-3)


def test_a_category_alone_and_after_another_trains_the_same_student(real: list[str], tmp_path: Path) -> None:
    words = ["run", "--method", "rd", "--dataset", "mvtec", *SHORT, *real]
    for results, categories in {"alone": ["bottle"], "after": ["pill", "bottle"]}.items():
        for category in categories:
            assert main([*words, "--category", category, "--results", str(tmp_path / results)]) == 0
    assert student_hash(tmp_path / "alone", "bottle") == student_hash(tmp_path / "after", "bottle")
