"""Small batch files in CIFAR-10's format, and what their images look like."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_bench.data.cifar10 import MD5

TRAIN_LABELS = [2, 3, 3, 9, 0]  # of every training file
TEST_LABELS = [3, 0, 3, 9, 5, 9, 1]


def rows(name: str, count: int) -> NDArray[np.uint8]:
    """(N, 3072): the red values of an image row by row, then green, then blue."""
    return np.random.default_rng(list(name.encode())).integers(0, 256, (count, 3072), dtype=np.uint8)


def batch(name: str) -> dict[str, Any]:
    labels = TEST_LABELS if name == "test_batch" else TRAIN_LABELS
    return {
        "batch_label": name,
        "labels": labels,
        "data": rows(name, len(labels)),
        "filenames": ["x.png"] * len(labels),
    }


def write(folder: Path, name: str, content: object = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(pickle.dumps(batch(name) if content is None else content, protocol=2))


def write_all(folder: Path) -> None:
    for name in MD5:
        write(folder, name)


def image(name: str, index: int) -> NDArray[np.uint8]:
    """(32, 32, 3), pixel by pixel as the data set's page describes it."""
    row = rows(name, index + 1)[index]
    pixels = np.zeros((32, 32, 3), dtype=np.uint8)
    for y in range(32):
        for x in range(32):
            for channel in range(3):
                pixels[y, x, channel] = row[channel * 1024 + y * 32 + x]
    return pixels
