"""Images that say how they are to be turned: shown upright, and masks fit what is shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from anomaly_bench.data.folder import Folder
from anomaly_bench.data.images import full_size, read_image
from anomaly_bench.errors import UserError
from tests.data.trees import MASK, SIDE, noise, replace_image, save, write_category

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], dtype=np.uint8)


def quadrants() -> NDArray[np.uint8]:
    """24 rows, 16 columns: red, green above blue, yellow."""
    shown = np.zeros((24, 16, 3), dtype=np.uint8)
    for row in range(24):
        for column in range(16):
            shown[row, column] = COLOURS[(row >= 12) * 2 + (column >= 8)]
    return shown


def stored(shown: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """How a camera stores it, by the EXIF standard: where the stored row 0 and column 0 are in the shown image."""
    height, width = shown.shape[:2]
    rows_run_along = {1: "down", 2: "down", 3: "up", 4: "up", 5: "right", 6: "left", 7: "left", 8: "right"}[orientation]
    columns_run_along = {1: "right", 2: "left", 3: "left", 4: "right", 5: "down", 6: "down", 7: "up", 8: "up"}
    along = (rows_run_along, columns_run_along[orientation])
    turned = along[0] in ("left", "right")
    kept = np.zeros((width, height, 3) if turned else (height, width, 3), dtype=np.uint8)
    for i in range(kept.shape[0]):
        for j in range(kept.shape[1]):
            place = dict(zip(along, (i, j), strict=True))
            row = place["down"] if "down" in place else height - 1 - place["up"]
            column = place["right"] if "right" in place else width - 1 - place["left"]
            kept[i, j] = shown[row, column]
    return kept


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_exif_data_say(orientation: int, suffix: str, tmp_path: Path) -> None:
    shown, path, exif = quadrants(), tmp_path / f"x{suffix}", Image.Exif()
    exif[0x0112] = orientation
    lossless = {".jpg": {"quality": 100, "subsampling": 0}, ".webp": {"lossless": True}}.get(suffix, {})
    Image.fromarray(stored(shown, orientation)).save(path, exif=exif, **lossless)
    arrived = read_image(path, 48)
    assert arrived.full_size == full_size(path) == (24, 16)
    # Three rows of pixels around the middle of every quadrant, far from the seams.
    for index, (row, column) in enumerate([(12, 12), (12, 36), (36, 12), (36, 36)]):
        block = arrived.pixels[row - 1 : row + 2, column - 1 : column + 2].astype(int)
        assert np.abs(block - COLOURS[index]).max() <= 6


def test_a_mask_fits_its_image_as_it_is_shown(tmp_path: Path) -> None:
    folder = write_category(tmp_path / "thing")
    path, exif = replace_image(folder, ".jpg"), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(20, 30, 3)).save(path, exif=exif)  # shown upright, 30 rows of 20
    save(folder / MASK, 30, 20)
    Folder(tmp_path, "thing", image_size=16).setup()
    save(folder / MASK, 20, 30)
    with pytest.raises(UserError, match=r"001_mask\.png has 30x20 pixels, its image 20x30; give it the size"):
        Folder(tmp_path, "thing", image_size=16).setup()


def test_broken_exif_data_do_not_cost_a_sound_image(tmp_path: Path) -> None:
    pixels = noise(SIDE, SIDE, 3)
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=b"Exif\0\0no header")
    np.testing.assert_array_equal(read_image(tmp_path / "x.png", SIDE).pixels, pixels)
