"""Every method on every data set, by the command a user types: the same path, nothing knows which data they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from anomaly_bench.bench.catalog import dataset_names, method_names
from anomaly_bench.cli import main
from tests.data.cifar import write_all
from tests.data.test_btad import write_product
from tests.data.trees import write_category

CATEGORIES = {"btad": "02", "cifar10": "cat", "folder": "my parts", "mvtec": "bottle", "synthetic": "brick"}


@pytest.fixture(scope="session")
def every_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("every")
    write_product(root / "btad" / "02")
    write_all(root / "cifar-10-batches-py")
    write_category(root / "my parts")
    write_category(root / "mvtec" / "bottle")
    return root


def record_of(method: str, dataset: str, root: Path, results: Path, *more: str) -> dict[str, Any]:
    words = ["run", "--method", method, "--dataset", dataset, "--category", CATEGORIES[dataset], "--profile", "smoke"]
    small = ["epochs=1", "batch_size=3", "train_images=6", "test_images=8"]
    assert main([*words, "--set", *small, "--data-root", str(root), "--results", str(results), *more]) == 0
    (path,) = results.glob("runs/*/record.json")
    plain: dict[str, Any] = json.loads(path.read_text())
    return plain


def test_no_data_set_is_forgotten() -> None:
    assert list(CATEGORIES) == dataset_names()


@pytest.mark.parametrize("dataset", CATEGORIES)
@pytest.mark.parametrize("method", method_names())
def test_it_trains_and_is_evaluated(method: str, dataset: str, every_root: Path, tmp_path: Path) -> None:
    size = [] if dataset == "cifar10" else ["image_size=32"]
    switches = ["--set", *size, "precision=32-true"]
    plain = record_of(method, dataset, every_root, tmp_path, *switches, "--allow-unverified-data")
    metrics, undefined = plain["metrics"], plain["undefined"]
    assert 0 <= metrics["image_auroc"] <= 1
    if dataset == "cifar10":
        assert plain["evidence"]["data"]["verified"] is False
        assert metrics["pixel_auroc"] is metrics["aupro"] is None
        assert "mask" in undefined["pixel_auroc"]
    else:
        assert 0 <= metrics["pixel_auroc"] <= 1


def test_cifar10_is_32_pixels_unless_somebody_says_otherwise(every_root: Path, tmp_path: Path) -> None:
    words = ["run", "--method", "rd", "--dataset", "cifar10", "--category", "cat", "--profile", "lite"]
    small = ["--set", "epochs=1", "teacher=resnet18.random", "--data-root", str(every_root), "--results", str(tmp_path)]
    assert main([*words, *small, "--allow-unverified-data"]) == 0
    (path,) = tmp_path.glob("runs/*/record.json")
    assert json.loads(path.read_text())["spec"]["protocol"]["image_size"] == 32


def test_unverified_data_are_refused_without_the_flag(
    every_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "--method", "rd", "--dataset", "cifar10", "--category", "cat", "--profile", "smoke"]
    assert main([*words, "--data-root", str(every_root), "--results", str(tmp_path)]) == 2
    assert "pass --allow-unverified-data to use it all the same" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
