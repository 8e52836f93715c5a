"""What every reader of a run's record counts on, beside its spec: names, and the types of what they hold."""

from __future__ import annotations

from types import NoneType
from typing import Any

Shape = dict[str, Any]  # from names to a type, to a tuple of types, or to the shape of what is inside

RECORD: Shape = {
    "evaluations": {},
    "evidence": {
        "data": {
            "manifest_sha256": str,
            "counts": {"test_good": int, "test_defective": int},
            "official_counts": (dict, NoneType),
            "complete": (bool, NoneType),
            "image_sizes": list,
            "official_image_size": (list, NoneType),
            "resized": (bool, NoneType),
        }
    },
    "cost": {},
    "provenance": {"versions": {}},
}
EVALUATION: Shape = {"spec": {"metrics_revision": int}, "metrics": {}, "undefined": {}}
WORDS = ("device", "peak_memory_of")  # of a record's cost, whose other entries are numbers


def check_shape(plain: Any) -> None:
    """Raise KeyError or TypeError unless `plain` has the shape of `record.json`."""
    _demand(plain, RECORD, "content")
    for evaluation in plain["evaluations"].values():
        _demand(evaluation, EVALUATION, "evaluation")
    for name, value in plain["cost"].items():
        if not isinstance(value, str if name in WORDS else (int, float)):
            raise TypeError(f"its {name} is of the wrong type")


def _demand(plain: Any, shape: Shape, name: str) -> None:
    if not isinstance(plain, dict):
        raise TypeError(f"its {name} is no object")
    for key, kind in shape.items():
        if isinstance(kind, dict):
            _demand(plain[key], kind, key)
        elif not isinstance(plain[key], kind):
            raise TypeError(f"its {key} is of the wrong type")
