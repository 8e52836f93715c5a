"""A suite over several categories, some files of which are really damaged."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from anomaly_bench.bench.profiles import PROFILES
from anomaly_bench.bench.store import Failure, Record, Store
from anomaly_bench.cli import main
from tests.data.trees import write_category

CATEGORIES = ("bolt", "nut", "washer")
TRAINING, TEST = "bolt/train/good/003.png", "washer/test/hole/001.png"
SIZES = {"epochs": 1, "image_size": 64, "batch_size": 4, "train_images": None, "test_images": None}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three categories of images of noise, on which a smoke table is now trained."""
    smoke = PROFILES["smoke"]
    ours = replace(smoke, settings={**smoke.settings, **SIZES}, dataset="folder", categories=CATEGORIES)
    monkeypatch.setitem(PROFILES, "smoke", ours)
    for category in CATEGORIES:
        write_category(tmp_path / "data" / category)
    return tmp_path / "data"


def cut(path: Path) -> bytes:
    """Leaves half of a file; what it was."""
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return whole


def train(data: Path) -> int:
    places = ["--data-root", str(data), "--results", str(data.parent / "results")]
    return main(["table", "fmm_scsatt/table1", "--profile", "smoke", *places])


def by_category(data: Path, kind: type[Record] | type[Failure]) -> dict[str, int]:
    """How many runs of each ended so."""
    return dict(Counter(entry.spec.category for entry in Store(data.parent / "results") if isinstance(entry, kind)))


def test_a_damaged_image_costs_its_own_category_alone_until_it_is_mended(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = {name: cut(data / name) for name in (TRAINING, TEST)}
    assert train(data) == 1
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert by_category(data, Record) == {"nut": 2}
    assert by_category(data, Failure) == {"bolt": 2, "washer": 2}
    for name in whole:
        label = rf"folder/{name.partition('/')[0]} seed 0 \[\w{{16}}\]"
        assert re.search(rf"{label} failed: {re.escape(name)} cannot be read", said.err)
        assert f"failed: {name} cannot be read" in said.out  # a footnote of its category's cells
    assert "mean over 1 of 3 categories (nut)" in said.out

    for name, content in whole.items():
        (data / name).write_bytes(content)
    assert train(data) == 0
    said = capsys.readouterr()
    assert "2 runs are done, 4 are to do." in said.err
    assert by_category(data, Record) == dict.fromkeys(CATEGORIES, 2)
    assert by_category(data, Failure) == {}
    assert "failed" not in said.out
    assert "- **Categories**: 3 of 3 measured" in said.out
