"""Where next to no test images are there, no metric of images is shown; their pixels are many all the same."""

from __future__ import annotations

from anomaly_bench.bench.store import Record
from anomaly_bench.metrics.panel import IMAGE_KEYS

FEWEST = 5  # good, or defective, test images where some are missing; an AUROC over one says nothing


def too_few(record: Record) -> str | None:
    """Why the run has no metric of images, None where it has."""
    data = record.evidence["data"]
    if data["complete"] is False:
        for kind, words in (("test_good", "good"), ("test_defective", "defective")):
            here, official = data["counts"][kind], data["official_counts"][kind]
            if here < min(FEWEST, official):
                return f"{here} of {official} {words} test images, too few for a metric of images"
    return None


def shown_metrics(record: Record, eval_id: str) -> tuple[dict[str, float | None], dict[str, str]]:
    """An evaluation's metrics, and by name why some are undefined: those of images too where images are too few."""
    entry, reason = record.evaluations[eval_id], too_few(record)
    if reason is None:
        return entry["metrics"], entry["undefined"]
    metrics = {name: None if name in IMAGE_KEYS else value for name, value in entry["metrics"].items()}
    return metrics, {**entry["undefined"], **dict.fromkeys(IMAGE_KEYS, reason)}
