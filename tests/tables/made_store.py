"""A hand-made store: every value says which category, metric and seed it belongs to, so that any mix-up shows."""

from __future__ import annotations

import dataclasses
from typing import Any

from anomaly_bench.bench.profiles import PROFILES, Profile
from anomaly_bench.bench.resolve import resolve
from anomaly_bench.bench.spec import EvalSpec
from anomaly_bench.bench.store import Record
from anomaly_bench.data.mvtec import OFFICIAL
from anomaly_bench.metrics import METRIC_KEYS

CATEGORIES = list(OFFICIAL)
WEIGHTS = {"file": "made-up.pth", "sha256": "0123456789abcdef" * 4, "source": "folder"}
VERSIONS = {"anomaly-bench": "0.1.0", "torch": "2.15.0", "timm": "1.0.31", "numpy": "2.4.6", "pillow": "13.0.0"}


FIRST = {"rd": 50, "fmm_scsatt": 70}


def value(category: str, metric: str, seed: int = 0, method: str = "rd") -> float:
    """A fraction whose percent reads CC.MS: category from the method's first on, metric, seed."""
    return (FIRST[method] + CATEGORIES.index(category) + METRIC_KEYS.index(metric) / 10 + seed / 100) / 100


def made_record(
    category: str, profile: Profile = PROFILES["lite"], *, seed: int = 0, method: str = "rd", **settings: Any
) -> Record:
    """A record on one category of MVTec AD, complete data, full size."""
    spec, own = resolve(method, "mvtec", category, profile, seed=seed, settings=settings)[0], EvalSpec()
    metrics = {metric: value(category, metric, seed, method) for metric in METRIC_KEYS}
    entry = {"spec": own.as_json(), "metrics": metrics, "undefined": {}}
    train, good, defective, side = OFFICIAL[category]
    counts = {"train": train, "test_good": good, "test_defective": defective, "masks": defective}
    data = {
        "manifest_sha256": "00",
        "counts": counts,
        "official_counts": counts,
        "complete": True,
        "image_sizes": [[side, side]],
        "official_image_size": [side, side],
        "resized": False,
    }
    provenance = {"versions": VERSIONS, "commit": None}
    return Record(spec, own.eval_id, {own.eval_id: entry}, {"weights": WEIGHTS, "data": data}, {}, provenance)


def with_data(record: Record, **changes: Any) -> Record:
    """The same record with other evidence of its data."""
    data = record.evidence["data"] | changes
    return dataclasses.replace(record, evidence=record.evidence | {"data": data})
