"""What makes a run's numbers other than its method's paper's: said beside them where the terminal shows a run."""

from __future__ import annotations

from anomaly_bench.bench.resolve import own_protocol
from anomaly_bench.bench.store import Record
from anomaly_bench.errors import UserError


def caveats(record: Record, eval_id: str) -> list[str]:
    """A few words for each, such as `RESIZED copies of the images`; none of a run with all as in the paper.

    Epochs, rates and sizes are not among them, for they are shown beside every run.
    """
    return [*_networks(record), *_images(record), *_devices(record), *_background(record, eval_id)]


def _networks(record: Record) -> list[str]:
    protocol = record.spec.protocol
    try:
        own = own_protocol(record.spec.method)[0].networks
    except UserError:  # a run of a method whose file is gone
        return ["a method that is not here any more"]
    found = []
    for role, name in protocol.networks.items():
        if role in own and name != own[role]:
            found.append(f"{role} {name} in place of the method's {own[role]}")
        if role == "teacher" and record.evidence[protocol.weights_evidence[role]]["source"] == "random":
            found.append("RANDOM weights in the teacher")
    return found


def subset(record: Record) -> str:
    """How many of the images were used, in words; empty where all were."""
    counts = record.evidence["data"]["counts"]
    there = {"training": counts["train"], "test": counts["test_good"] + counts["test_defective"]}
    asked = {"training": record.spec.train_images, "test": record.spec.test_images}
    kept = {kind: count for kind, count in asked.items() if count is not None and count < there[kind]}
    parts = [f"{kept.get(kind, 'all')} {kind}" for kind in asked]
    return f"a SUBSET of {' and '.join(parts)} images" if kept else ""


def _images(record: Record) -> list[str]:
    data = record.evidence["data"]
    found = [text for text in [subset(record)] if text]
    if data["complete"] is False:
        found.append("INCOMPLETE data")
    if data.get("verified") is False:  # records from before there were checksums to compare have no such entry
        found.append("files with OTHER CHECKSUMS than the official ones")
    if data["resized"]:
        found.append("RESIZED copies of the images")
    return found


def _devices(record: Record) -> list[str]:
    devices = record.cost.get("devices", 1)
    return [f"trained on {devices} devices at once"] if devices > 1 else []


def _background(record: Record, eval_id: str) -> list[str]:
    evidence = record.evaluations[eval_id].get("evidence", {})
    whole = evidence.get("images_without_background", 0)
    return [f"no background found in {whole} of {evidence['images']} images, scored whole"] if whole else []
