"""The second start reads what the first one decoded, and never anything else than a decoding would give."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from anomaly_bench.data import base, cache
from anomaly_bench.data.base import AnomalyDataModule
from anomaly_bench.data.cache import cached, fingerprint
from anomaly_bench.data.cifar10 import Cifar10
from anomaly_bench.data.folder import Folder
from tests.data.cifar import write_all
from tests.data.trees import write_category

IMAGE = "train/good/000.png"


def opened(folder: Path, where: Path | None, **settings: object) -> AnomalyDataModule:
    data = Folder(folder, "thing", **{"image_size": 16, **settings}, cache=where)  # type: ignore[arg-type]
    data.setup()
    return data


def contents(data: AnomalyDataModule) -> list[NDArray[np.generic]]:
    assert data.train_pixels is not None
    assert data.test_pixels is not None
    assert data.ground_truth is not None
    masks = data.ground_truth.masks
    kept = [data.train_pixels.numpy(), data.test_pixels.numpy(), data.ground_truth.shares]
    return kept if masks is None else [*kept, masks]


def assert_equal(one: AnomalyDataModule, other: AnomalyDataModule) -> None:
    for left, right in zip(contents(one), contents(other), strict=True):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were decoded."""
    names: list[str] = []

    def noting(function: Callable[..., object]) -> Callable[..., object]:
        def read(path: Path, size: object) -> object:
            names.append(path.name)
            return function(path, size)

        return read

    for name in ("read_image_into", "read_mask"):
        monkeypatch.setattr(base, name, noting(getattr(base, name)))
    return names


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_category(tmp_path / "data" / "thing").parent


def test_the_second_start_decodes_nothing_and_sees_the_same(folder: Path, tmp_path: Path, decodings: list[str]) -> None:
    without = opened(folder, None)
    first = opened(folder, tmp_path / "cache")
    decodings.clear()
    second = opened(folder, tmp_path / "cache")
    assert decodings == []
    assert_equal(without, first)
    assert_equal(without, second)
    assert second.train_pixels is not None
    second.train_pixels += 1  # nobody else's
    assert_equal(without, opened(folder, tmp_path / "cache"))


def test_data_without_masks_are_kept_as_well(folder: Path, tmp_path: Path, decodings: list[str]) -> None:
    shutil.rmtree(folder / "thing" / "ground_truth")
    first = opened(folder, tmp_path / "cache")
    decodings.clear()
    second = opened(folder, tmp_path / "cache")
    assert decodings == []
    assert second.ground_truth is not None
    assert second.ground_truth.masks is None
    assert_equal(first, second)


def test_images_that_are_not_files_are_kept_by_class_and_size(tmp_path: Path) -> None:
    write_all(tmp_path / "cifar-10-batches-py")
    for category, size in (("cat", 32), ("airplane", 32), ("cat", 32), ("airplane", 32), ("cat", 64), ("cat", 64)):
        kept = Cifar10(tmp_path, category, image_size=size, allow_unverified=True, cache=tmp_path / "cache")
        fresh = Cifar10(tmp_path, category, image_size=size, allow_unverified=True)
        for data in (kept, fresh):
            data.setup()
        assert_equal(fresh, kept)
    assert len(list((tmp_path / "cache").iterdir())) == 3


def other_pixels(file: Path) -> None:
    Image.fromarray(255 - np.asarray(Image.open(file))).save(file, compress_level=0)


def other_pixels_of_the_old_time(file: Path) -> None:
    """As a copy that keeps times would leave it; size and time of the pixels' change tell nothing."""
    before = file.stat()
    Image.fromarray(255 - np.asarray(Image.open(file))).save(file, compress_level=0)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def touched(file: Path) -> None:
    os.utime(file, ns=(1, 1))


def gone(file: Path) -> None:
    file.unlink()


def renamed(file: Path) -> None:
    file.rename(file.with_name("zzz.png"))


@pytest.mark.parametrize("name", [IMAGE, "test/good/000.png", "ground_truth/crack/000_mask.png"])
@pytest.mark.parametrize("change", [other_pixels, other_pixels_of_the_old_time, touched])
def test_a_changed_file_is_decoded_again(
    change: Callable[[Path], None], name: str, folder: Path, tmp_path: Path, decodings: list[str]
) -> None:
    file = folder / "thing" / name
    Image.open(file).save(file, compress_level=0)
    opened(folder, tmp_path / "cache")
    decodings.clear()
    change(file)
    again = opened(folder, tmp_path / "cache")
    assert decodings
    assert_equal(opened(folder, None), again)


@pytest.mark.parametrize("change", [gone, renamed])
def test_other_files_are_decoded_again(change: Callable[[Path], None], folder: Path, tmp_path: Path) -> None:
    opened(folder, tmp_path / "cache")
    change(folder / "thing" / IMAGE)
    assert_equal(opened(folder, None), opened(folder, tmp_path / "cache"))


def test_other_settings_have_entries_of_their_own(
    folder: Path, tmp_path: Path, decodings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(folder, tmp_path / "cache")
    for settings in ({"image_size": 17}, {"train_images": 2}, {"test_images": 3}):
        decodings.clear()
        assert_equal(opened(folder, None, **settings), opened(folder, tmp_path / "cache", **settings))
        assert decodings
    decodings.clear()
    monkeypatch.setattr(base, "DECODING", base.DECODING + 1)
    opened(folder, tmp_path / "cache")
    monkeypatch.setattr(Folder, "revision", Folder.revision + 1)
    opened(folder, tmp_path / "cache")
    assert len(decodings) == 2 * (5 + 6 + 4), "all images and masks, twice"


def cut_in_half(entry: Path) -> None:
    entry.write_bytes(entry.read_bytes()[: entry.stat().st_size // 2])


def emptied(entry: Path) -> None:
    entry.write_bytes(b"")


def one_byte_altered(entry: Path) -> None:
    content = bytearray(entry.read_bytes())
    content[-100] ^= 1
    entry.write_bytes(content)


@pytest.mark.parametrize("damage", [cut_in_half, emptied, one_byte_altered])
def test_a_damaged_entry_is_said_and_made_anew(
    damage: Callable[[Path], None],
    folder: Path,
    tmp_path: Path,
    decodings: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = opened(folder, tmp_path / "cache")
    [entry] = (tmp_path / "cache").iterdir()
    damage(entry)
    decodings.clear()
    assert_equal(first, opened(folder, tmp_path / "cache"))
    assert decodings
    assert f"{entry} is damaged" in caplog.text
    assert list((tmp_path / "cache").iterdir()) == [entry], "and nothing else is left"
    decodings.clear()
    opened(folder, tmp_path / "cache")
    assert decodings == []


def test_a_place_that_cannot_be_written_to_costs_a_warning_only(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file")
    assert_equal(opened(folder, None), opened(folder, tmp_path / "cache"))
    assert "decoded images cannot be kept in" in caplog.text


def test_a_failure_while_decoding_leaves_nothing_behind(tmp_path: Path) -> None:
    def make() -> dict[str, Tensor]:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cached(tmp_path / "cache", fingerprint(["x"], []), make)
    assert not (tmp_path / "cache").exists()


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tensors() -> dict[str, Tensor]:
        return {"x": torch.zeros(1000, dtype=torch.uint8)}

    foreign, left_over = tmp_path / "weights.safetensors", tmp_path / "old.123.decoded-partial"
    foreign.write_bytes(bytes(5000))
    left_over.write_bytes(bytes(1000))
    os.utime(left_over, (1, 1))
    monkeypatch.setattr(cache, "MOST_BYTES", 3500)
    for index, key in enumerate("abc"):
        cached(tmp_path, key, tensors)
        os.utime(next(tmp_path.glob(f"{key}-*")), (10 + index, 10 + index))
    assert not left_over.exists()
    cached(tmp_path, "a", tensors)  # used now, so that b is the oldest
    cached(tmp_path, "d", tensors)
    assert sorted(path.name[0] for path in tmp_path.glob("*.decoded")) == ["a", "c", "d"]
    assert foreign.exists()
