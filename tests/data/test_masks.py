"""Masks as they come: of any two values, anti-aliased, empty, vanishing, without an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_bench.data.check import check_data_set
from anomaly_bench.data.folder import Folder
from anomaly_bench.data.images import read_mask
from tests.data.trees import MASK, SIDE, noise, save, write_category, write_mask


def vanishing(path: Path) -> None:
    pixels = np.zeros((SIDE, SIDE), dtype=np.uint8)
    pixels[3, 4] = 255
    Image.fromarray(pixels).save(path)


def test_an_image_whose_mask_is_empty_or_vanishes_stays_defective_and_is_counted(tmp_path: Path) -> None:
    folder = write_category(tmp_path / "thing")
    write_mask(folder / MASK, value=0)
    vanishing(folder / "ground_truth/crack/000_mask.png")
    data = Folder(tmp_path, "thing", image_size=8)
    data.setup()
    assert data.ground_truth is not None
    assert data.ground_truth.masks is not None
    assert [sample.defect for sample in data.ground_truth.samples[:2]] == ["crack", "crack"]
    assert data.ground_truth.labels[:2].tolist() == [True, True]
    assert data.ground_truth.shares[:2].tolist() == [1 / SIDE**2, 0.0]
    assert not data.ground_truth.masks[:2].any()
    assert data.counts().test_defective == 4


def test_check_tells_an_empty_mask_from_one_that_vanishes_at_256(tmp_path: Path) -> None:
    folder = write_category(tmp_path / "thing")
    write_mask(folder / MASK, value=0)
    save(folder / "test/hole/000.png", 2000, 2000, 3)
    pixels = np.zeros((2000, 2000), dtype=np.uint8)
    pixels[300, 400] = 255
    Image.fromarray(pixels).save(folder / "ground_truth/hole/000_mask.png")
    [report] = check_data_set(Folder, tmp_path)
    assert (report.sound, report.status) == (True, "readable")
    assert [note.partition(": ")[0] for note in report.notes] == [
        str(folder / MASK),
        str(folder / "ground_truth/hole/000_mask.png"),
    ]
    assert "empty, though its image lies in a defect folder" in report.notes[0]
    assert "vanishes when resized to 256x256" in report.notes[1]


def test_masks_of_0_and_1_and_of_0_and_255_and_of_16_bits_are_the_same_mask(tmp_path: Path) -> None:
    ones = (noise(SIDE, SIDE) > 128).astype(np.uint16)
    decoded = []
    for top, kind in ((1, np.uint8), (255, np.uint8), (1, np.uint16), (65535, np.uint16)):
        Image.fromarray((ones * top).astype(kind)).save(tmp_path / "mask.png")
        decoded.append(read_mask(tmp_path / "mask.png", 16))
    for other in decoded[1:]:
        np.testing.assert_array_equal(other.pixels, decoded[0].pixels)
        assert (other.share, other.binary) == (decoded[0].share, True)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_an_anti_aliased_mask_counts_from_one_half_and_is_noted(kind: type[np.unsignedinteger], tmp_path: Path) -> None:
    folder, top = write_category(tmp_path / "thing"), np.iinfo(kind).max
    levels = np.tile(np.linspace(0, top, SIDE).astype(kind), (SIDE, 1))  # column by column from 0 to the top
    Image.fromarray(levels).save(folder / MASK)
    assert read_mask(folder / MASK, SIDE).pixels[0].tolist() == [column > 11 for column in range(SIDE)]
    assert read_mask(folder / MASK, SIDE).share == 0.5
    [report] = check_data_set(Folder, tmp_path)
    assert report.sound
    [note] = report.notes
    assert note.startswith(f"{folder / MASK}: not binary; above half of its highest value counts")


def test_a_mask_without_an_image_stops_no_run_but_is_found(tmp_path: Path) -> None:
    lonely = write_mask(write_category(tmp_path / "thing") / "ground_truth/crack/007_mask.png")
    Folder(tmp_path, "thing", image_size=16).setup()
    [report] = check_data_set(Folder, tmp_path)
    assert report.problems == [f"{lonely}: belongs to no test image"]
