"""What every variant measured in `results/runs` gains over RD, its own method at its defaults, itself less one setting.

A pair is two runs of one category with one seed on the same files, with the same teacher, image size and precision
and as many epochs; all else is each method's own, learning rate and loss among it. Against RD there is a line with
fewer epochs too (`rd epochs=30`), where there are such runs: a method may gain by RD's losing. `..._by_seed` are
image AUROCs in percent or differences in points, mean over the categories. Differences are variant minus reference.
`low` and `high` are the 95 % interval of the image AUROC's, from resampled test images and, where there are several,
seeds (`anomaly_bench.tables.paired`); a few seeds show too little of what seeds do, whatever the interval, and of
many intervals some exclude zero by chance. There is a line for each category, and one for all complete ones that both
sides have; `complete` is False for data with files missing, which have pixel metrics alone if too few images are
left, and empty where nothing official says what complete is. `device` is `other` where the two sides of a pair are of
different devices or numbers of threads, which can move numbers as another seed does.

`make claims` writes results/claims.csv, and to be read results/claims.md: its lines of one category each.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from anomaly_bench.arguments import complain
from anomaly_bench.bench.catalog import load_dataset, load_method
from anomaly_bench.bench.few_images import shown_metrics
from anomaly_bench.bench.resolve import own_protocol
from anomaly_bench.bench.spec import EvalSpec, RunSpec, as_set
from anomaly_bench.bench.store import Record, Store
from anomaly_bench.tables.index import Index
from anomaly_bench.tables.measures import ScoresOf
from anomaly_bench.tables.paired import paired_interval
from anomaly_bench.tables.scores import Scores

RESULTS = Path(__file__).parent.parent / "results"
BASELINE = "rd"
# A bound shown with two decimals is to stay the same in other draws: of 1,000 resamples it wanders by a twelfth of the
# difference's own spread, of 10,000 by a fortieth. Of many images the spread is small, and so many would take long.
RESAMPLES = 10_000
FEW_IMAGES = 1_000
SHARED = ("teacher", "student", "epochs", "image_size", "precision")  # of a protocol: what a profile or data set gives


class Variant(NamedTuple):
    """What is trained, but for category and seed; `settings` are those that differ from the method's own.

    RD has no `student` with weights of its own, nor have most.
    """

    dataset: str
    image_size: int
    precision: str
    epochs: int
    teacher: str
    student: str
    method: str
    settings: tuple[str, ...]


class Place(NamedTuple):
    """Where two variants meet: the same images and the same weights of the teacher as well."""

    category: str
    seed: int
    manifest: str
    weights: str


Runs = dict[Variant, dict[Place, Record]]
Pairs = list[list[tuple[Record, Record]]]  # variant and reference, by category and then by seed


class NoScoresError(Exception):
    """A run has lost its image scores, or they are broken; the store complains of which."""


def main() -> int:
    """Print the lines and write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder with the runs, claims.* go there")
    results = parser.parse_args().results
    store = Store(results)
    try:
        rows = list(compare_all(store))
    except NoScoresError:
        complain(store)
        return 2
    complain(store)
    if not rows:
        print(f"error: {results} has no two runs to compare: run a method and rd on one category.", file=sys.stderr)
        return 2
    for row in rows:
        print(", ".join(f"{key} {value}" for key, value in row.items() if value != ""))
    with (results / "claims.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (results / "claims.md").write_text(markdown(rows))
    return 0


def compare_all(store: Store) -> Iterator[dict[str, Any]]:
    """One row for each variant, reference and set of categories."""
    runs: Runs = {}
    scores_of = Index.of_store(store).scores_of
    for record in store:
        if isinstance(record, Record) and is_whole_and_current(record.spec):
            runs.setdefault(variant_of(record), {})[place_of(record)] = record
    for variant in sorted(runs):
        for reference in references(variant, runs):
            yield from compare(variant, reference, runs, scores_of)


def references(variant: Variant, runs: Runs) -> list[Variant]:
    """RD alike, RD with fewer epochs, the method at its defaults, and the variant with one setting fewer."""
    baseline = variant._replace(method=BASELINE, student="", settings=())
    shorter = [other for other in sorted(runs) if other._replace(epochs=variant.epochs) == baseline]
    shorter = [other for other in shorter if other.epochs < variant.epochs]
    own = variant._replace(settings=())
    fewer = [variant._replace(settings=tuple(w for w in variant.settings if w != word)) for word in variant.settings]
    return [one for one in dict.fromkeys((baseline, *shorter, own, *fewer)) if one != variant]


def compare(variant: Variant, reference: Variant, runs: Runs, scores_of: ScoresOf) -> Iterator[dict[str, Any]]:
    """Each category that both have, then all complete ones over the seeds that none lacks."""
    common = sorted(runs[variant].keys() & runs.get(reference, {}).keys())
    complete = {place.category: runs[variant][place].evidence["data"]["complete"] for place in common}
    whole = [name for name in complete if complete[name] is not False]
    for categories in [*([name] for name in complete), *([whole] if len(whole) > 1 else [])]:
        by_category = {name: {place.seed: place for place in common if place.category == name} for name in categories}
        seeds = sorted(set.intersection(*(set(by_seed) for by_seed in by_category.values())))
        if not seeds:
            continue
        places = [[by_seed[seed] for seed in seeds] for by_seed in by_category.values()]
        pairs = [[(runs[variant][place], runs[reference][place]) for place in by_seed] for by_seed in places]
        epochs = f"epochs={reference.epochs}" if reference.epochs != variant.epochs else ""
        yield {
            **variant._asdict(),
            "settings": " ".join(variant.settings),
            "against": " ".join(filter(None, (reference.method, *reference.settings, epochs))),
            "categories": ",".join(categories),
            "complete": complete[categories[0]],
            "seeds": " ".join(map(str, seeds)),
            "device": "same" if all(a.device == b.device for row in pairs for a, b in row) else "other",
            **image_gain(pairs, scores_of),
            **pixel_gain(pairs, "pixel_auroc"),
            **pixel_gain(pairs, "aupro"),
        }


def is_whole_and_current(spec: RunSpec) -> bool:
    """Not of a subset of the images, nor by earlier code whose numbers have moved since."""
    revisions = (load_method(spec.method).revision, load_dataset(spec.dataset).revision)
    whole = (spec.train_images, spec.test_images) == (None, None)
    return whole and (spec.method_revision, spec.data_revision) == revisions


def variant_of(record: Record) -> Variant:
    spec, (own, unused) = record.spec, own_protocol(record.spec.method)
    used = [field.name for field in fields(own) if field.name not in (*unused, *SHARED)]
    changed = {
        name: getattr(spec.protocol, name) for name in used if getattr(spec.protocol, name) != getattr(own, name)
    }
    settings = tuple(f"{name}={as_set(value)}" for name, value in (*spec.options, *changed.items()))
    protocol, student = spec.protocol, spec.protocol.networks.get("student", "")
    trained = protocol.image_size, protocol.precision, protocol.epochs
    return Variant(spec.dataset, *trained, protocol.teacher, student, spec.method, settings)


def place_of(record: Record) -> Place:
    evidence = record.evidence
    weights = evidence[record.spec.protocol.weights_evidence["teacher"]]
    return Place(
        record.spec.category, record.spec.seed, evidence["data"]["manifest_sha256"], weights.get("sha256", "random")
    )


def image_scores(record: Record, scores_of: ScoresOf) -> Scores:
    scores = scores_of(record, EvalSpec(**record.evaluations[record.evaluation]["spec"]))
    if scores is None:
        raise NoScoresError
    return scores


def image_gain(pairs: Pairs, scores_of: ScoresOf) -> dict[str, str]:
    """Both sides' image AUROC, their difference and its interval; empty where there are too few images for it."""
    both = [by_seed(pairs, "image_auroc", side) for side in (0, 1)]
    columns = dict.fromkeys(("image_auroc_by_seed", "against_by_seed", "image_auroc_points", "low", "high"), "")
    if not all(both):
        return columns
    scores = [[(image_scores(a, scores_of), image_scores(b, scores_of)) for a, b in category] for category in pairs]
    images = max(len(by_seed[0][0].names) for by_seed in scores)
    interval = paired_interval(scores, resamples=RESAMPLES if images <= FEW_IMAGES else RESAMPLES // 10)
    told = [" ".join(f"{100 * value:.2f}" for value in values) for values in both]
    told += [points(value) for value in (interval.difference, interval.low, interval.high)]
    return dict(zip(columns, told, strict=True))


def pixel_gain(pairs: Pairs, metric: str) -> dict[str, str]:
    """The difference and each seed's; empty where there are no masks to measure it with."""
    sides = zip(by_seed(pairs, metric, 0), by_seed(pairs, metric, 1), strict=True)
    gains = [ours - theirs for ours, theirs in sides]
    told = (points(statistics.fmean(gains)) if gains else "", " ".join(map(points, gains)))
    return dict(zip((f"{metric}_points", f"{metric}_points_by_seed"), told, strict=True))


def by_seed(pairs: Pairs, metric: str, side: int) -> list[float]:
    """One side's metric, mean over the categories, seed after seed; nothing where a record lacks it."""
    found = [[value_of(pair[side], metric) for pair in same] for same in zip(*pairs, strict=True)]
    known = [[value for value in same if value is not None] for same in found]
    return list(map(statistics.fmean, known)) if known == found else []


def value_of(record: Record, metric: str) -> float | None:
    """A metric as tables show it: none of images where next to no test images are there."""
    return shown_metrics(record, record.evaluation)[0][metric]


METRICS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}
HEAD = """# What every variant gains, in points

Variant minus what it is held against, trained alike on the same images: image AUROC with its 95 % interval in brackets,
pixel AUROC and AUPRO, mean over the seeds; in parentheses each seed's, where there are several. What the pairs are, and
what the intervals are worth, says [README.md](README.md); [claims.csv](claims.csv) has the values themselves, and means
over the categories. `make claims` writes both.

Marked † are pairs whose two sides are of different devices or numbers of threads, for one seed at least: sums in
another order can move numbers as another seed does.
"""


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """One table for each method and way of training: a line for each pair of variants, three columns a category."""
    single = [row for row in rows if "," not in row["categories"]]
    lines = [HEAD]
    for (dataset, size, precision, epochs, teacher, student, method), group in groupby(single, _trained_alike):
        pair = f"teacher {teacher}, student {student}" if student else f"teacher {teacher}"
        lines += [f"## {method}, {epochs} epochs", "", f"On {dataset}, {size}x{size}, {precision}; {pair}.", ""]
        lines += [*_table(list(group)), ""]
    return "\n".join(lines)


def _trained_alike(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in Variant._fields if name != "settings")


def _table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    pairs = list(dict.fromkeys((row["settings"], row["against"]) for row in rows))
    told: dict[tuple[str, str], dict[tuple[str, str], str]] = {}  # by category and metric, and then by pair
    for row in sorted(rows, key=lambda row: row["categories"]):
        for metric in METRICS:
            if row[f"{metric}_points"]:
                told.setdefault((row["categories"], metric), {})[row["settings"], row["against"]] = _told(row, metric)
    heads = [f"{category}: {METRICS[metric]}" for category, metric in told]
    yield _line(["Variant", "Against", *heads])
    yield _line(["---"] * (2 + len(heads)))
    for settings, against in pairs:
        yield _line([settings or "its defaults", against, *(by.get((settings, against), "") for by in told.values())])


def _told(row: dict[str, Any], metric: str) -> str:
    mean = row[f"{metric}_points"] + ("†" if row["device"] == "other" else "")
    if metric == "image_auroc":
        return f"{mean} [{row['low']}, {row['high']}]"
    by_seed = row[f"{metric}_points_by_seed"]
    return mean if " " not in by_seed else f"{mean} ({by_seed})"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def points(fraction: float) -> str:
    return f"{100 * fraction:+.2f}"


if __name__ == "__main__":
    sys.exit(main())
