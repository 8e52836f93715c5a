"""CIFAR-10's pickles: read in every dialect, and never obeyed."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomaly_bench.data.check import check_data_set
from anomaly_bench.data.cifar10 import FOLDER, Cifar10
from anomaly_bench.data.cifar10_batches import read_batch
from anomaly_bench.errors import UserError
from tests.data.cifar import batch, image, rows, write, write_all


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    write_all(tmp_path / FOLDER)
    return tmp_path


def test_a_batch_is_read_the_same_in_pythons_old_dialect_and_in_both_of_numpys(tmp_path: Path) -> None:
    content = rows("old", 1)
    new = pickle.dumps({"labels": [1], "data": content}, protocol=2)
    assert b"numpy._core.multiarray" in new
    dialects = [
        new,
        new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"),
        # What Python 2 wrote, as in the official files: strings of bytes, opcode by opcode.
        b"\x80\x02}(U\x06labels](K\x01eU\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tb\x89T" + struct.pack("<i", 3072) + content.tobytes() + b"tbu.",
    ]
    for dialect in dialects:
        read = read_batch(dialect, tmp_path / "x")
        assert read.labels.tolist() == [1]
        np.testing.assert_array_equal(read.pixels[0], image("old", 0))
    assert pickle.loads(dialects[2], encoding="bytes")[b"data"].tolist() == content.tolist(), "it is a sound pickle"


class Calls:
    """What a pickle has called on loading."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def attack(kind: str, target: Path) -> object:
    command = Calls(os.system, f"touch {target}")
    match kind:
        case "instead of the batch":
            return command
        case "in a field that nobody reads":
            return batch("data_batch_1") | {"filenames": [command]}
        case "as a label":
            return batch("data_batch_1") | {"labels": [2, command, 3, 9, 0]}
        case _:
            return batch("data_batch_1") | {"x": Calls(eval, f"open({str(target)!r}, 'w')")}


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("instead of the batch", "system"),
        ("in a field that nobody reads", "system"),
        ("as a label", "system"),
        ("by eval", "eval"),
    ],
)
def test_a_pickle_that_calls_something_is_refused_and_nothing_is_called(
    kind: str, named: str, data_root: Path, tmp_path: Path
) -> None:
    target = tmp_path / "called"
    write(data_root / FOLDER, "data_batch_1", attack(kind, target))
    with pytest.raises(UserError) as caught:
        Cifar10(data_root, "cat", image_size=32, allow_unverified=True).setup()
    assert str(caught.value).startswith(f"{data_root / FOLDER / 'data_batch_1'} is not a batch of CIFAR-10 (it names ")
    assert f".{named}, which no batch of images needs); replace it by the official file." in str(caught.value)
    reports = check_data_set(Cifar10, data_root, allow_unverified=True)
    assert {report.status for report in reports} == {"unreadable; 1 PROBLEM"}
    assert not target.exists()
    pickle.loads((data_root / FOLDER / "data_batch_1").read_bytes())
    assert target.exists(), "the attack works where pickles are trusted"


BROKEN: dict[str, bytes] = {
    "empty": b"",
    "text": b"no pickle",
    "cut": pickle.dumps({"labels": [1], "data": rows("cut", 1)}, protocol=2)[:-900],
    "a list": pickle.dumps([1, 2], protocol=2),
    "no labels": pickle.dumps({"data": rows("x", 1)}, protocol=2),
    "a label too few": pickle.dumps({"labels": [1], "data": rows("x", 2)}, protocol=2),
    "an eleventh class": pickle.dumps({"labels": [10], "data": rows("x", 1)}, protocol=2),
    "a label below": pickle.dumps({"labels": [-1], "data": rows("x", 1)}, protocol=2),
    "other sides": pickle.dumps({"labels": [1], "data": rows("x", 1)[:, :3000]}, protocol=2),
    "numbers": pickle.dumps({"labels": [1], "data": rows("x", 1).astype(np.float32)}, protocol=2),
    "signed numbers": pickle.dumps({"labels": [1], "data": rows("x", 1).astype(np.int8)}, protocol=2),
    "objects": pickle.dumps({"labels": [1], "data": np.array([[{}] * 3072])}, protocol=2),
    "data by name": pickle.dumps({"labels": [1], "data": {"values": 1}}, protocol=2),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_anything_but_a_batch_is_refused_in_one_sentence(kind: str, data_root: Path) -> None:
    path = data_root / FOLDER / "data_batch_4"
    path.write_bytes(BROKEN[kind])
    with pytest.raises(UserError) as caught:
        Cifar10(data_root, "cat", allow_unverified=True).counts()
    assert str(caught.value).startswith(f"{path} is not a batch of CIFAR-10 (")
    assert str(caught.value).endswith("); replace it by the official file.")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(data_root: Path) -> None:
    (data_root / FOLDER / "data_batch_5").unlink()
    with pytest.raises(UserError, match=r"data_batch_5 cannot be read \(No such file or directory\); replace it by"):
        Cifar10(data_root, "cat", allow_unverified=True).setup()
