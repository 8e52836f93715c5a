"""The word on comparability above every table: what was measured on what, and where cells do not match."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from anomaly_bench.bench.caveats import subset
from anomaly_bench.bench.resolve import SAME, own_protocol
from anomaly_bench.bench.store import Record
from anomaly_bench.metrics import METRICS_REVISION
from anomaly_bench.tables.build import BuiltTable, Cell
from anomaly_bench.tables.measures import MEASURES, RELATIVE, Measure
from anomaly_bench.tables.peers import peer_versions
from anomaly_bench.tables.spec import ALL

COMPARED_VERSIONS = ("anomaly-bench", "torch", "timm", "numpy", "pillow")


def header_lines(built: BuiltTable) -> list[tuple[str, str]]:
    """(label, text) pairs, in a fixed order; a label `WARNING` marks what makes numbers hard to compare."""
    records = built.records
    lines = [("Profile", built.profile.label)]
    if not records:
        shown = "; only the paper's numbers are shown" if built.spec.printed else ""
        return [*lines, ("Measured", f"nothing yet{shown}")]
    lines += [
        ("Teacher", _networks(built, "teacher")),
        ("Student", _networks(built, "student")),
        ("Training", _list(_training(record) for record in records)),
        ("Peers", _peers(records)),
        ("Seeds", _list(str(record.spec.seed) for record in records)),
        ("Categories", _categories(built)),
        ("Data", _data(records)),
        ("Device", _list(record.device for record in records)),
        ("Revisions", _list(_revisions(record) for record in records)),
        ("Versions", _list(_versions(record) for record in records)),
        ("Commits", _commits(records)),
    ]
    lines = [(label, text) for label, text in lines if text]
    return [*lines, *(("WARNING", text) for text in _warnings(built, records))]


def _peers(records: list[Record]) -> str:
    """What was measured with which anomalib."""
    return "; ".join(
        f"{', '.join(names)} measured with anomalib {version}" for version, names in peer_versions(records).items()
    )


def _list(texts: Iterable[str]) -> str:
    return "; ".join(sorted(set(texts), key=lambda text: (len(text) if text.isdigit() else 0, text)))


def _networks(built: BuiltTable, role: str) -> str:
    """The teachers, or the students with weights of their own; a stand-in is named with what it replaces, and where."""
    methods: dict[str, set[str]] = {}
    named = _named_networks(built, role)
    for record in built.records:
        networks = record.spec.protocol.networks
        if role in networks:
            own = own_protocol(record.spec.method)[0].networks[role]
            substitute = "" if networks[role] == own or networks[role] in named else f", a SUBSTITUTE for {own}"
            methods.setdefault(_network(record, role) + substitute, set()).add(record.spec.method)
    return _list(
        text + (f" ({', '.join(sorted(users))})" if "SUBSTITUTE" in text else "") for text, users in methods.items()
    )


def _named_networks(built: BuiltTable, role: str) -> set[str]:
    """The teachers, or students, that the table's own rows or columns ask for: they stand in for nothing."""
    spec = built.spec
    options = [dict(spec.query(row, column).options) for row in spec.rows for column in spec.columns]
    asked = {str(one[role]) for one in options if role in one}
    same = {name for record in built.records for name in _same(record)} if asked & {SAME, f"{SAME}.random"} else set()
    return same | {network for name in asked if (network := built.profile.named_network(name)) is not None}


def _same(record: Record) -> set[str]:
    """What `same` and `same.random` mean in a run."""
    teacher = record.spec.protocol.teacher
    return {teacher, f"{teacher.partition('.')[0]}.random"}


def _network(record: Record, role: str) -> str:
    """Name and weights of a run's teacher or student."""
    name = record.spec.protocol.networks[role]
    weights = record.evidence[record.spec.protocol.weights_evidence[role]]
    source = f"weights {weights['file']}, SHA-256 {weights['sha256'][:12]}" if "sha256" in weights else "RANDOM weights"
    return f"{name} ({source})"


def _training(record: Record) -> str:
    protocol, (own, unused) = record.spec.protocol, own_protocol(record.spec.method)
    parts = []
    fields = ("epochs", "batch_size", "lr", "image_size", "precision")
    for name in (name for name in fields if name not in unused):
        value, stated = getattr(protocol, name), getattr(own, name)
        text = f"{name.replace('_', ' ')} {value}"
        parts.append(text if value == stated else f"{text} (protocol: {stated})")
    parts[-1] += " (no paper states one)"
    if part := subset(record):
        parts.append(part)
    return f"{record.spec.method}: {', '.join(parts)}"


def _categories(built: BuiltTable) -> str:
    singles = {record.spec.category for record in built.records}
    lines = (*built.spec.rows, *built.spec.columns)
    named = {line.query.categories for line in lines if len(line.query.categories) == 1} - {(ALL,)}
    every = max([len(named), *(cell.categories_planned for row in built.cells for cell in row)])
    cut = any(cell.categories_left_out for row in built.cells for cell in row)
    return f"{len(singles)} of {every} {'shown' if cut else 'measured'}: {', '.join(sorted(singles))}"


def _data(records: list[Record]) -> str:
    """Categories with their images beside the official ones, by how they compare; most are simply complete."""
    groups: dict[str, list[str]] = {
        "complete": [],
        "INCOMPLETE": [],
        "complete by counts that nobody confirmed": [],
        "without official counts": [],
        "files with OTHER CHECKSUMS than the official ones": [],
        "RESIZED copies": [],
    }
    distinct = {(record.spec.category, record.evidence["data"]["manifest_sha256"]): record for record in records}
    for record in distinct.values():
        name, data = record.spec.category, record.evidence["data"]
        groups[_completeness(data)].append(f"{name} {_counts(data)}")
        # Records from before there were checksums to compare have no such entry.
        if data.get("verified") is False:
            groups["files with OTHER CHECKSUMS than the official ones"].append(name)
        if data["resized"]:
            sizes = ", ".join(f"{width}x{height}" for height, width in data["image_sizes"])
            height, width = data["official_image_size"]
            groups["RESIZED copies"].append(f"{name} ({sizes}, official {width}x{height})")
    told = [f"{label}: {', '.join(sorted(names))}" for label, names in groups.items() if names]
    return f"training + good + defective test images; {'; '.join(told)}"


def _completeness(data: dict[str, Any]) -> str:
    if data["complete"] is None:
        known = data["official_counts"] is not None
        return "complete by counts that nobody confirmed" if known else "without official counts"
    return "complete" if data["complete"] else "INCOMPLETE"


def _counts(data: dict[str, Any]) -> str:
    """`60+1+30 of 60+12+30`; the official ones where they are others, and masks where some are missing."""
    own, official = data["counts"], data["official_counts"] or data["counts"]

    def images(counts: dict[str, int]) -> str:
        return "+".join(str(counts[key]) for key in ("train", "test_good", "test_defective"))

    text = images(own) + (f" of {images(official)}" if images(own) != images(official) else "")
    missing = own.get("masks") != official.get("masks")
    return text + (f" (masks {own.get('masks')} of {official.get('masks')})" if missing else "")


def _timed_on(cell: Cell) -> set[str]:
    """The devices of a cell's times; none of a cell that holds something else."""
    timed = {MEASURES["latency"], MEASURES["seconds_train"], RELATIVE}
    return {record.device for record in cell.records} if cell.measure in timed else set()


def _revisions(record: Record) -> str:
    spec = record.spec
    # A cell shows nothing of another metrics revision than the present one.
    return f"{spec.method} {spec.method_revision}, {spec.dataset} {spec.data_revision}, metrics {METRICS_REVISION}"


def _versions(record: Record) -> str:
    versions = record.provenance["versions"]
    return ", ".join(f"{name} {versions.get(name, 'unknown')}" for name in COMPARED_VERSIONS)


def _commits(records: list[Record]) -> str:
    """Those that the runs were trained at; of an export without a repository nobody knows it."""
    named = [commit[:10] for record in records if (commit := record.provenance.get("commit"))]
    unnamed = f"{len(records) - len(named)} of {len(records)} runs name none" if len(named) < len(records) else ""
    return "; ".join(filter(None, [", ".join(sorted(set(named))), unnamed]))


def _warnings(built: BuiltTable, records: list[Record]) -> list[str]:
    """Where cells of one table mix what should be one thing."""
    evidence = [record.evidence["data"] for record in records]
    versions, teachers = {_versions(record) for record in records}, {_network(record, "teacher") for record in records}
    devices = {record.device for record in records}
    manifests = {(record.spec.category, record.evidence["data"]["manifest_sha256"]) for record in records}
    substituted = built.profile.dataset is None and built.profile.settings.keys() & {"teacher", "epochs"}
    found = {
        f"cells mix {len(versions)} versions, see above": len(versions) > 1,
        "peers were measured with several versions of anomalib, see above": len(peer_versions(records)) > 1,
        f"cells mix {len(teachers)} teachers or weights, see above": len(teachers) > 1,
        f"cells mix {len(devices)} devices or numbers of threads, see above: sums in another order can move numbers as "
        "another seed does": len(devices) > 1,
        "cells are means over different categories, see the footnotes: only those over the same can be compared": (
            _mixes_categories(built)
        ),
        "cells are means over different seeds, see the footnotes: only those over the same can be compared": any(
            cell.seeds_differ for row in built.cells for cell in row
        ),
        "times of one cell are from several devices, see Device": any(
            len(_timed_on(cell)) > 1 for row in built.cells for cell in row
        ),
        "runs of one category saw different data": len(manifests) > len({category for category, _ in manifests}),
        "a teacher has random weights: these numbers say nothing about the method": any(
            record.evidence["weights"]["source"] == "random" for record in records
        ),
        "not the paper's protocol: a difference is no evidence against the paper": bool(substituted),
        "some runs were trained on several devices: masks, noise and losses over a batch are not those of one": any(
            record.cost.get("devices", 1) > 1 for record in records
        ),
        "some data are incomplete, see Data": any(data["complete"] is False for data in evidence),
        "some images are resized copies, see Data": any(data["resized"] for data in evidence),
        "cells with one seed: differences under about 0.3 points are no evidence": any(
            len(cell.seeds) < 2 for row in built.cells for cell in row if cell.records
        ),
    }
    return [text for text, holds in found.items() if holds]


def _mixes_categories(built: BuiltTable) -> bool:
    """Whether cells that ask one metric of the same number of categories, as the rows of an ablation do, have different
    ones."""
    measured: dict[tuple[int, Measure | None], set[tuple[str, ...]]] = {}
    for cell in (cell for row in built.cells for cell in row):
        if cell.categories and cell.categories_planned > 1:
            measured.setdefault((cell.categories_planned, cell.measure), set()).add(cell.categories)
    return any(len(sets) > 1 for sets in measured.values())
