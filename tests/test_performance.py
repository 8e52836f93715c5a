"""The speed benchmarks' own arithmetic: what they count, what they compare, what they keep."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from anomaly_bench.bench.catalog import load_dataset

SCRIPTS = Path(__file__).parent.parent / "experiments" / "performance"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def test_the_clock_leaves_the_first_epoch_out_of_the_mean(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import clock

    times = iter([0.0, 10.0, 20.0, 22.0, 30.0, 34.0])
    monkeypatch.setattr(clock.time, "perf_counter", lambda: next(times))
    measured = clock.EpochClock(images=30, batch=16)
    for _ in range(3):
        measured.epoch_started()
        for step in range(2):
            measured.step_ended(step)
    measured.report()
    report = json.loads(capsys.readouterr().out)
    assert (report["images_per_second"], report["step_seconds"], report["first_epoch_seconds"]) == (10.0, 1.5, 10.0)


def test_all_contenders_get_the_same_files_with_their_masks(data_root: Path, tmp_path: Path) -> None:
    import train

    options = argparse.Namespace(category="coins", train_images=5, test_images=6)
    train.copy_category(load_dataset("synthetic")(data_root, "coins"), tmp_path, options)
    linked = load_dataset("folder")(tmp_path, "coins", image_size=64)
    linked.setup()
    assert linked.ground_truth is not None
    labels = linked.ground_truth.labels
    assert (len(linked.samples["train"]), len(labels)) == (5, 6)
    assert 0 < labels.sum() < 6
    assert ((linked.ground_truth.shares > 0) == labels).all()


def test_a_contender_that_is_not_installed_has_a_note_and_no_numbers() -> None:
    import train

    run = {"method": "rd", "teacher": "resnet18.random", "dataset": "synthetic", "category": "brick"}
    size = {"train_images": 5, "test_images": 6, "epochs": 2, "repeats": 1}
    options = argparse.Namespace(**run, **size, anomalib_python="none")
    report = {"images_per_second": 8.0, "step_seconds": 2.0, "first_epoch_seconds": 5.0, "peak_mib": 1.0,
              "whole_run_seconds": 9.0}  # fmt: skip
    measured = {"ours": report, "plain loop": {**report, "images_per_second": 4.0}, "anomalib at its defaults": {}}
    slow, absent = (train.row(name, measured, options) for name in list(measured)[1:])
    assert (slow["ours_over_it_images_per_second"], slow["it_over_ours_whole_run"], slow["note"]) == (2.0, 1.0, "")
    assert (absent["images_per_second"], absent["note"]) == ("", "anomalib is not installed")


def test_rows_measured_anew_replace_those_of_before_and_others_stay(tmp_path: Path) -> None:
    import train

    def line(method: str, contender: str, seconds: float) -> dict[str, object]:
        return {"method": method, "teacher": "t", "size_px": 256, "contender": contender, "seconds": seconds}

    path = tmp_path / "train.csv"
    train.write_csv(path, [line("rd", "ours", 1.0), line("rd", "plain loop", 2.0), line("dlkd", "ours", 3.0)])
    rows = train.merged(path, [line("rd", "ours", 9.0)])
    seconds = {(row["method"], row["contender"]): float(row["seconds"]) for row in rows}
    assert seconds == {("rd", "plain loop"): 2.0, ("dlkd", "ours"): 3.0, ("rd", "ours"): 9.0}


@pytest.mark.slow
def test_our_run_and_the_bare_step_report_what_they_measured(data_root: Path, tmp_path: Path) -> None:
    import train

    options = argparse.Namespace(category="coins", train_images=4, test_images=6)
    train.copy_category(load_dataset("synthetic")(data_root, "coins"), tmp_path, options)
    for who in ("ours", "bare"):
        arguments = [f"--root={tmp_path}", "--category=coins", "--method=rd", "--epochs=2", "--images=4"]
        command = [sys.executable, str(SCRIPTS / "contenders.py"), who, *arguments, "--teacher=resnet18.random"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        report = json.loads(done.stdout.splitlines()[-1])
        assert report["images_per_second"] * report["step_seconds"] == pytest.approx(4)
