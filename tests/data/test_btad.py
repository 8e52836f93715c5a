"""BTAD, on a small tree in its layout: ok for good, masks under other suffixes than their images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_bench.data import btad
from anomaly_bench.data.btad import BTAD, COUNTED
from anomaly_bench.data.check import check_data_set
from anomaly_bench.errors import UserError
from tests.data.trees import save, write_mask

# As in the real archive: suffixes of images and of masks, by product.
SUFFIXES = {"01": (".bmp", ".png"), "02": (".png", ".png"), "03": (".bmp", ".bmp")}
SIDES = {"01": (32, 32), "02": (24, 24), "03": (18, 24)}


def write_product(folder: Path) -> Path:
    """Three training images, two good ones, one ko."""
    (image, mask), size = SUFFIXES[folder.name], SIDES[folder.name]
    for name in ("train/ok/0000", "train/ok/0001", "train/ok/0002", "test/ok/0000", "test/ok/0001", "test/ko/0000"):
        save(folder / f"{name}{image}", *size, 3)
    path = folder / f"ground_truth/ko/0000{mask}"
    path.parent.mkdir(parents=True)
    pixels = np.zeros(size, dtype=np.uint8)
    pixels[: size[0] // 2] = 255
    Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    for product in SUFFIXES:
        write_product(tmp_path / "btad" / product)
    return tmp_path


@pytest.mark.parametrize("product", SUFFIXES)
def test_ok_is_good_and_ko_has_its_mask_whatever_its_suffix(product: str, data_root: Path) -> None:
    data = BTAD(data_root, product, image_size=8)
    data.setup()
    truth, (image, mask) = data.ground_truth, SUFFIXES[product]
    assert truth is not None
    assert truth.masks is not None
    assert data.train_pixels is not None
    assert [sample.name for sample in truth.samples] == [
        f"test/{name}{image}" for name in ("ko/0000", "ok/0000", "ok/0001")
    ]
    assert [sample.defect for sample in truth.samples] == ["ko", "good", "good"]
    assert [sample.mask.suffix if sample.mask else None for sample in truth.samples] == [mask, None, None]
    assert truth.labels.tolist() == [True, False, False]
    assert truth.shares.tolist() == [0.5, 0, 0]
    assert truth.masks.mean(axis=(1, 2)).tolist() == [0.5, 0, 0]
    assert len(data.train_pixels) == 3
    assert data.image_sizes() == [SIDES[product]]


def test_a_missing_mask_is_named_as_it_should_be(data_root: Path) -> None:
    missing = data_root / "btad/01/ground_truth/ko/0000.png"
    missing.unlink()
    with pytest.raises(UserError) as caught:
        BTAD(data_root, "01", image_size=64).setup()
    assert f"(expected {missing})" in str(caught.value)


def test_the_archives_own_name_of_the_first_folder_is_known(data_root: Path) -> None:
    (data_root / "btad").rename(data_root / "BTech_Dataset_transformed")
    assert BTAD(data_root, "02").folder == data_root / "BTech_Dataset_transformed/02"
    with pytest.raises(UserError, match=r"no BTAD in .*: expected .*/btad/02; pass --data-root "):
        BTAD(data_root / "BTech_Dataset_transformed", "02")
    with pytest.raises(UserError, match=r"unknown category '04'"):
        BTAD.check_category(data_root, "04")


def test_the_counts_add_up_to_what_the_sources_say() -> None:
    train, good, defective = (sum(row[column] for row in COUNTED.values()) for column in range(3))
    assert train == 400 + 1000 + 399, "the publishers' README, whatever the order"
    assert (train, good + defective, train + good, defective) == (1799, 741, 2250, 290), "Dataset Ninja's sums"
    assert train + good + defective == 2540, "the DLKD paper's"
    for product, (width, height) in {"01": (1600, 1600), "02": (600, 600), "03": (800, 600)}.items():
        official = BTAD.official(product)
        assert official.image_size == (height, width), "the README has width x height"
        assert official.counts.masks == official.counts.test_defective
        assert not official.confirmed


def test_data_that_agree_with_unconfirmed_counts_are_not_called_complete(
    data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(btad, "COUNTED", {name: (3, 2, 1, size) for name, size in SIDES.items()})
    write_mask(data_root / "btad/02/ground_truth/ko/0000.png", value=0)
    (data_root / "btad/03/train/ok/0002.bmp").unlink()
    first, second, third = check_data_set(BTAD, data_root)
    unconfirmed = "the counts compared with are not the publishers' own"
    assert (first.status, first.sound) == ("complete as far as is known", True)
    assert first.notes == [f"{data_root / 'btad/01'}: {unconfirmed}"]
    assert second.sound, "an empty mask is noted: the real 03 may have some"
    assert third.status == "INCOMPLETE: train 2 of 3"
    assert not third.sound
    evidence = {product: BTAD(data_root, product).evidence() for product in SUFFIXES}
    assert [evidence[product]["complete"] for product in SUFFIXES] == [None, None, False]
    assert [evidence[product]["resized"] for product in SUFFIXES] == [False, False, False]
    assert evidence["01"]["verified"] is None
    assert evidence["01"]["manifest_sha256"] == first.manifest_sha256
