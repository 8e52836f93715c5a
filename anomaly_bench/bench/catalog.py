"""What there is, read from the folders: a method is a file, a data set is a file, and the file's name is its name."""

from __future__ import annotations

import importlib
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from anomaly_bench.errors import UserError, nearest

if TYPE_CHECKING:
    from anomaly_bench.data.base import AnomalyDataModule
    from anomaly_bench.methods.base import DistillationMethod

PACKAGE = Path(__file__).parent.parent


def method_names() -> list[str]:
    return list(_declaring("methods", "METHOD"))


def dataset_names() -> list[str]:
    return list(_declaring("data", "DATASET"))


def peer_names() -> list[str]:
    """Methods that papers only compare with, measured with anomalib."""
    return list(_declaring("methods/peers", "METHOD"))


@cache
def load_method(name: str) -> type[DistillationMethod]:
    """The class of a method or a peer; raises UserError with the nearest name."""
    known = [*method_names(), *peer_names()]
    if name not in known:
        raise UserError(f"unknown method '{name}'{nearest(name, known)}")
    package = "methods" if name in method_names() else "methods.peers"
    method: type[DistillationMethod] = importlib.import_module(f"anomaly_bench.{package}.{name}").METHOD
    return method


def load_dataset(name: str) -> type[AnomalyDataModule]:
    """The class of a data module; raises UserError with the nearest name."""
    if name not in dataset_names():
        raise UserError(f"unknown data set '{name}'{nearest(name, dataset_names())}")
    dataset: type[AnomalyDataModule] = importlib.import_module(f"anomaly_bench.data.{name}").DATASET
    return dataset


@cache
def _declaring(package: str, variable: str) -> list[str]:
    """Modules whose text assigns `variable` at top level: read once, not imported, so that a list costs nothing."""
    declaration = re.compile(rf"^{variable} = ", re.MULTILINE)
    files = sorted((PACKAGE / package).glob("*.py"))
    return [file.stem for file in files if declaration.search(file.read_text(encoding="utf-8"))]
