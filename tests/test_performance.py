"""The speed benchmarks' own arithmetic: what they count, what they compare, what they keep."""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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
    measured = clock.EpochClock(images=30, batch=16, precision="32-true")
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


def test_a_contender_that_is_not_installed_or_fails_has_a_note_and_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    import train

    run = {"method": "rd", "teacher": "resnet18.random", "dataset": "synthetic", "category": "brick"}
    size = {"train_images": 5, "test_images": 6, "epochs": 2, "repeats": 2}
    options = argparse.Namespace(**run, **size, anomalib_python="none")
    monkeypatch.setattr(train, "has_anomalib", lambda python: False)
    report = {"images_per_second": 8.0, "step_seconds": 2.0, "first_epoch_seconds": 5.0, "peak_mib": 1.0,
              "whole_run_seconds": 9.0, "precision": "bf16-mixed", "threads": 2}  # fmt: skip
    slow = [{**report, "images_per_second": rate} for rate in (3.0, 5.0)]
    reports = {"ours": [report] * 2, "plain loop": slow, "bare step": [], "anomalib at its defaults": []}
    plain, failed, absent = (train.row(name, reports, options) for name in list(reports)[1:])
    assert (plain["images_per_second"], plain["ours_over_it_images_per_second"], plain["note"]) == (4.0, 2.0, "")
    assert (plain["images_per_second_least"], plain["images_per_second_most"], plain["threads"]) == (3.0, 5.0, 2)
    assert (failed["images_per_second"], failed["note"]) == ("", "0 of 2 runs")
    assert (absent["images_per_second"], absent["note"]) == ("", "not installed")


def test_rows_measured_anew_replace_all_of_their_comparison_and_others_stay(tmp_path: Path) -> None:
    import rows

    def line(method: str, contender: str, seconds: float, **more: object) -> dict[str, object]:
        return {"method": method, "contender": contender, "seconds": seconds, **more}

    before = [line("rd", "ours", 1.0), line("rd", "plain loop", 2.0), line("dlkd", "ours", 3.0)]
    rows.publish("train", before, tmp_path)
    rows.publish("train", [line("rd", "ours", 9.0, batch=16)], tmp_path, comparison=("method",))
    found = list(csv.DictReader((tmp_path / "train.csv").read_text().splitlines()))
    measured = [(row["method"], row["contender"], row["seconds"], row["batch"]) for row in found]
    assert measured == [("dlkd", "ours", "3.0", ""), ("rd", "ours", "9.0", "16")]
    assert [path.name for path in tmp_path.iterdir()] == ["train.csv"]


def test_a_category_smaller_than_asked_for_is_measured_as_it_is(data_root: Path, tmp_path: Path) -> None:
    import train

    options = argparse.Namespace(category="coins", train_images=10**6, test_images=10**6)
    data = load_dataset("synthetic")(data_root, "coins")
    assert train.copy_category(data, tmp_path, options) == (len(data.samples["train"]), len(data.samples["test"]))


def test_images_in_memory_are_each_seen_once_as_their_files_give_them() -> None:
    import contenders

    images = torch.arange(5, dtype=torch.uint8).reshape(5, 1, 1, 1)
    batches = list(contenders.shuffled(images, 2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert torch.equal(torch.cat(batches).sort(dim=0).values, images / 255)


@pytest.mark.slow
def test_our_run_and_the_bare_step_report_what_they_measured(data_root: Path, tmp_path: Path) -> None:
    import train

    options = argparse.Namespace(category="coins", train_images=4, test_images=6)
    train.copy_category(load_dataset("synthetic")(data_root, "coins"), tmp_path, options)
    for who, images in (("ours", 4), ("bare", 16)):  # a bare step has a whole batch
        arguments = [f"--root={tmp_path}", "--category=coins", "--method=rd", "--teacher=resnet18.random"]
        command = [sys.executable, str(SCRIPTS / "contenders.py"), who, *arguments, "--epochs=2", "--images=4"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        report = json.loads(done.stdout.splitlines()[-1])
        assert report["images_per_second"] * report["step_seconds"] == pytest.approx(images)
