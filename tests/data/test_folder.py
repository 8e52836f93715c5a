"""Any folder in MVTec AD's layout: with masks or without, in every usual format, under any name."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from anomaly_bench.data.check import check_data_set
from anomaly_bench.data.folder import Folder
from anomaly_bench.data.layout import IMAGE_SUFFIXES
from anomaly_bench.errors import UserError
from anomaly_bench.metrics import anomaly_panel
from anomaly_bench.metrics.panel import IMAGE_KEYS, PIXEL_KEYS
from tests.data.trees import SIDE, write_category


def test_without_any_ground_truth_there_are_image_metrics_only_and_check_says_so(tmp_path: Path) -> None:
    folder = write_category(tmp_path / "thing")
    with_masks = Folder(tmp_path, "thing").manifest_sha256()
    shutil.rmtree(folder / "ground_truth")
    data = Folder(tmp_path, "thing", image_size=16)
    data.setup()
    truth = data.ground_truth
    assert truth is not None
    assert truth.masks is None
    assert truth.labels.tolist() == [True, True, False, False, True, True]
    assert np.isnan(truth.shares).tolist() == truth.labels.tolist()
    measured = anomaly_panel(np.random.default_rng(0).random((6, 16, 16)), np.arange(6), truth.labels, truth.masks)
    assert all(measured.values[key] is not None for key in IMAGE_KEYS)
    assert {measured.undefined[key] for key in PIXEL_KEYS} == {"The data set has no masks."}
    [report] = check_data_set(Folder, tmp_path)
    assert report.notes == [f"{folder}: no masks, so there will be image metrics only"]
    assert report.sound
    assert report.manifest_sha256 == data.manifest_sha256() != with_masks
    assert data.counts().masks == 0


@pytest.mark.parametrize("left", ["an empty folder", "a link that leads nowhere"])
def test_where_masks_were_meant_to_be_none_may_be_missing(left: str, tmp_path: Path) -> None:
    folder = write_category(tmp_path / "thing")
    shutil.rmtree(folder / "ground_truth")
    if left == "an empty folder":
        (folder / "ground_truth").mkdir()
    else:
        (folder / "ground_truth").symlink_to("elsewhere")
    with pytest.raises(UserError, match=r"the mask of .*000\.png is missing \(expected .*000_mask\.png\); add it"):
        Folder(tmp_path, "thing", image_size=16).setup()
    [report] = check_data_set(Folder, tmp_path)
    assert len(report.problems) == 4


@pytest.mark.parametrize("suffix", [*IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES)])
def test_every_suffix_is_one_that_pillow_and_opencv_read(suffix: str, tmp_path: Path) -> None:
    folder = write_category(tmp_path / "thing")
    path = folder / f"train/good/new{suffix}"
    pixels = np.full((SIDE, SIDE, 3), 255, dtype=np.uint8)  # which no format changes
    Image.fromarray(pixels).save(path)
    shutil.copy(path, (folder / "test/hole/new").with_suffix(suffix))
    shutil.copy(path, (folder / "ground_truth/hole/new_mask").with_suffix(suffix))
    assert (cv2.imread(str(path)) == 255).all()
    data = Folder(tmp_path, "thing", image_size=16)
    data.setup()
    assert data.train_pixels is not None
    assert data.ground_truth is not None
    assert data.ground_truth.masks is not None
    assert (data.train_pixels[-1] == 255).all()
    assert data.ground_truth.samples[-1].name == f"test/hole/new{suffix}"
    assert data.ground_truth.masks[-1].all()


def test_categories_are_named_as_their_folders_are_and_what_is_locked_beside_them_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["Gehäuse links, 2. Serie", "鋼板", "screw"]
    for name in [*names, ".hidden"]:
        write_category(tmp_path / name)
    (tmp_path / "no data").mkdir()
    is_dir = Path.is_dir

    def guarded(path: Path) -> bool:
        if "lost+found" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return is_dir(path)

    (tmp_path / "lost+found").mkdir()
    monkeypatch.setattr(Path, "is_dir", guarded)
    assert Folder.category_names(tmp_path) == sorted(names)
    for name in names:
        assert Folder(tmp_path, name).counts().train == 5
    with pytest.raises(UserError, match=r"unknown category '鋼'; did you mean '鋼板'\?"):
        Folder(tmp_path, "鋼")


def test_a_folder_in_another_layout_is_told_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "screws" / "train" / "ok").mkdir(parents=True)
    (tmp_path / "nuts" / "test").mkdir(parents=True)
    write_category(tmp_path / "bolts")
    with pytest.raises(UserError, match="screws has no folder train/good, it has train/ok; put its normal training"):
        Folder(tmp_path, "screws")
    with pytest.raises(UserError, match="unknown category 'bolts/'; did you mean 'bolts'"):
        Folder.check_category(tmp_path, "bolts/")
    with pytest.raises(UserError, match="nuts has no folder train/good, nor has it any other below train; put its"):
        Folder(tmp_path, "nuts")
    with pytest.raises(
        UserError, match=f"data root {tmp_path}/bolts is itself a category; pass --data-root {tmp_path}"
    ):
        Folder(tmp_path / "bolts", "bolts")
