"""CIFAR-10's batch files: pickles, read without running anything that is in them.

A pickle may name any function and have it called on loading. Here it may name only what NumPy writes for an array of
bytes, and each of these names is given a stand-in that builds such an array and nothing else.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_bench.errors import UserError

SIDE, CLASSES = 32, 10


@dataclass(frozen=True)
class LabelledImages:
    """`pixels`: (N, 32, 32, 3) uint8; `labels`: (N,) class numbers, 0 to 9."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]


class _Array:
    """Stands in for an array until its content is known."""

    def __init__(self, *_: object) -> None:
        self.values = np.zeros(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, by_columns, content = state
        if not isinstance(kind, _Kind) or not isinstance(content, bytes):
            raise ValueError("an array of something else than bytes")
        self.values = np.frombuffer(content, np.uint8).reshape(shape, order="F" if by_columns else "C")


class _Kind:
    """Stands in for the data type, of which there is one."""

    def __init__(self, code: str | bytes, *_: object) -> None:
        if code not in ("u1", b"u1"):
            raise ValueError("an array of something else than bytes")

    def __setstate__(self, state: object) -> None:
        """Byte order and the like: a byte has none."""


class _Unpickler(pickle.Unpickler):
    """Knows five names. The stand-ins are made anew for every file: a pickle can set attributes of what it names."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")  # Python 2's strings, of which the official files are
        known = {
            ("numpy", "ndarray"): object(),
            ("numpy", "dtype"): lambda *state: _Kind(*state),
            ("_codecs", "encode"): lambda text, _: text.encode("latin1"),
        }
        for package in ("numpy.core", "numpy._core"):
            known[f"{package}.multiarray", "_reconstruct"] = lambda *state: _Array(*state)
        self.known: Mapping[tuple[str, str], object] = known

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self.known:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no batch of images needs")
        return self.known[module, name]


def read_batch(content: bytes, path: Path) -> LabelledImages:
    """The images of one batch file.

    Args:
        content: of the file.
        path: for messages.

    Raises:
        UserError: it is not such a file, or it names anything beside arrays of bytes.
    """
    try:
        batch = _Unpickler(content).load()
        fields = {name.decode() if isinstance(name, bytes) else name: value for name, value in batch.items()}
        pixels, labels = fields["data"].values, np.array(fields["labels"], dtype=np.int64)
        if pixels.shape != (len(labels), 3 * SIDE * SIDE) or not ((labels >= 0) & (labels < CLASSES)).all():
            raise ValueError("images and labels do not match")
    except Exception as error:  # broken pickles end in exceptions of every kind
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is not a batch of CIFAR-10 ({reason}); replace it by the official file.") from error
    return LabelledImages(pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1), labels)
