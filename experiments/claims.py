"""What every variant measured in `results/runs` gains over RD, and over its own method at its defaults.

A pair is two runs of one category with one seed on the same files, with the same teacher, image size and as many
epochs; all else is each method's own, learning rate and loss among it. `..._by_seed` are image AUROCs in percent, mean
over the categories. Differences are in points, variant minus reference. `low` and `high` are the 95 % interval of the
image AUROC's, from resampled test images and, where there are several, seeds (`anomaly_bench.tables.paired`); one or
two seeds show too little of what seeds do, whatever the interval. Data that are incomplete or unverified are left out.
There is a line for each category, and one for all that both sides have.

`make claims` writes results/claims.csv.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from anomaly_bench.bench.resolve import own_protocol
from anomaly_bench.bench.spec import as_set
from anomaly_bench.bench.store import Record, Store
from anomaly_bench.tables.paired import paired_interval
from anomaly_bench.tables.scores import Scores, read_scores

RESULTS = Path(__file__).parent.parent / "results"
BASELINE = "rd"
SHARED = ("teacher", "student", "epochs", "image_size")  # of a protocol: what a profile or a data set gives


class Variant(NamedTuple):
    """What is trained, but for category and seed; `settings` are those that differ from the method's own.

    RD has no `student` with weights of its own, nor have most.
    """

    dataset: str
    image_size: int
    epochs: int
    teacher: str
    student: str
    method: str
    settings: str


class Place(NamedTuple):
    """Where two variants meet: the same images and the same weights of the teacher as well."""

    category: str
    seed: int
    manifest: str
    weights: str


Runs = dict[Variant, dict[Place, Record]]


def main() -> int:
    """Print the lines and write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder with the runs, claims.csv goes there")
    results = parser.parse_args().results
    rows = list(compare_all(Store(results)))
    if not rows:
        print(f"{results} has no two runs to compare: run a method and rd on the same category.", file=sys.stderr)
        return 2
    for row in rows:
        print(", ".join(f"{key} {value}" for key, value in row.items() if value != ""))
    with (results / "claims.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return 0


def compare_all(store: Store) -> Iterator[dict[str, Any]]:
    """One row for each variant, reference and set of categories."""
    runs: Runs = {}
    for record in store:
        if isinstance(record, Record) and record.evidence["data"]["complete"]:
            runs.setdefault(variant_of(record), {})[place_of(record)] = record
    for variant in sorted(runs):
        baseline = variant._replace(method=BASELINE, student="", settings="")
        for reference in dict.fromkeys((baseline, variant._replace(settings=""))):
            if reference != variant:
                yield from compare(variant, reference, runs, store)


def compare(variant: Variant, reference: Variant, runs: Runs, store: Store) -> Iterator[dict[str, Any]]:
    """Each category that both have, then all of them over the seeds that none lacks."""
    common = sorted(runs[variant].keys() & runs.get(reference, {}).keys())
    names = sorted({place.category for place in common})
    for categories in [*([name] for name in names), *([names] if len(names) > 1 else [])]:
        by_category = {name: {place.seed: place for place in common if place.category == name} for name in categories}
        seeds = sorted(set.intersection(*(set(by_seed) for by_seed in by_category.values())))
        if not seeds:
            continue
        places = [[by_seed[seed] for seed in seeds] for by_seed in by_category.values()]
        pairs = [[(runs[variant][place], runs[reference][place]) for place in by_seed] for by_seed in places]
        interval = paired_interval([[(scores(a, store), scores(b, store)) for a, b in by_seed] for by_seed in pairs])
        yield {
            **variant._asdict(),
            "against": " ".join(part for part in (reference.method, reference.settings) if part),
            "categories": " ".join(categories),
            "seeds": " ".join(map(str, seeds)),
            "image_auroc_by_seed": by_seed_percent([[a for a, _ in by_seed] for by_seed in pairs]),
            "against_by_seed": by_seed_percent([[b for _, b in by_seed] for by_seed in pairs]),
            "image_auroc_points": points(interval.difference),
            "low": points(interval.low),
            "high": points(interval.high),
            **{f"{metric}_points": mean_gain(pairs, metric) for metric in ("pixel_auroc", "aupro")},
        }


def variant_of(record: Record) -> Variant:
    spec, (own, unused) = record.spec, own_protocol(record.spec.method)
    used = [field.name for field in fields(own) if field.name not in (*unused, *SHARED)]
    changed = {
        name: getattr(spec.protocol, name) for name in used if getattr(spec.protocol, name) != getattr(own, name)
    }
    settings = " ".join(f"{name}={as_set(value)}" for name, value in (*spec.options, *changed.items()))
    protocol, student = spec.protocol, spec.protocol.networks.get("student", "")
    return Variant(spec.dataset, protocol.image_size, protocol.epochs, protocol.teacher, student, spec.method, settings)


def place_of(record: Record) -> Place:
    evidence = record.evidence
    weights = evidence[record.spec.protocol.weights_evidence["teacher"]]
    return Place(
        record.spec.category, record.spec.seed, evidence["data"]["manifest_sha256"], weights.get("sha256", "random")
    )


def scores(record: Record, store: Store) -> Scores:
    return _read(store, record.spec.run_id, record.evaluation)


@cache  # a reference is held against many variants, and `paired` remembers what it has drawn from the same scores
def _read(store: Store, run_id: str, eval_id: str) -> Scores:
    text = store.read_scores(run_id, eval_id)
    if text is None:
        raise SystemExit(f"Run {run_id} has lost its scores; run it --again.")
    return read_scores(text)


def mean_gain(pairs: list[list[tuple[Record, Record]]], metric: str) -> str:
    """In points, over categories and seeds; empty where there are no masks to measure it with."""
    values = [[(a.metrics[metric], b.metrics[metric]) for a, b in by_seed] for by_seed in pairs]
    gains = [[a - b for a, b in by_seed if a is not None and b is not None] for by_seed in values]
    return points(statistics.fmean(map(statistics.fmean, gains))) if all(gains) else ""


def by_seed_percent(records: list[list[Record]]) -> str:
    """Image AUROC, mean over the categories, seed after seed."""
    same_seed = zip(*records, strict=True)
    return " ".join(f"{100 * statistics.fmean(map(image_auroc, same)):.2f}" for same in same_seed)


def image_auroc(record: Record) -> float:
    value = record.metrics["image_auroc"]
    assert value is not None  # complete data have images of both kinds
    return value


def points(fraction: float) -> str:
    return f"{100 * fraction:+.2f}"


if __name__ == "__main__":
    sys.exit(main())
