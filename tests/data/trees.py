"""Small categories on disk, in MVTec AD's layout, for tests that then damage them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 24
IMAGE, MASK = "test/crack/001.png", "ground_truth/crack/001_mask.png"  # of a category; what tests change


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, *shape: int) -> Path:
    """An image of noise; the shape is (height, width) or (height, width, 3)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path))).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_mask(path: Path, *, side: int = SIDE, value: int = 255) -> Path:
    """A mask with one anomalous rectangle of 8x6 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((side, side), dtype=np.uint8)
    mask[4:12, 5:11] = value
    Image.fromarray(mask).save(path)
    return path


def write_category(folder: Path) -> Path:
    """Five training images, two good ones and two of each of two defects, 24x24."""
    for index in range(5):
        save(folder / f"train/good/{index:03}.png", SIDE, SIDE, 3)
    for index in range(2):
        for defect in ("good", "crack", "hole"):
            save(folder / f"test/{defect}/{index:03}.png", SIDE, SIDE, 3)
        for defect in ("crack", "hole"):
            write_mask(folder / f"ground_truth/{defect}/{index:03}_mask.png")
    return folder


def replace_image(folder: Path, suffix: str) -> Path:
    """Where an image of another format takes the place of `IMAGE`."""
    (folder / IMAGE).unlink()
    return (folder / IMAGE).with_suffix(suffix)
