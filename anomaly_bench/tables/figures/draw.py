"""Every figure of a profile: sweeps from built tables, score histograms and heat-map sheets from their runs.

Written below `<results>/figures/<profile>/`: `<paper>/<fig>.svg`, `scores/<data set>-<category>.svg` and
`maps/<data set>-<category>.png`, the last of which git ignores.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anomaly_bench.bench.places import Places
from anomaly_bench.bench.spec import EvalSpec, RunSpec
from anomaly_bench.bench.store import Record, Store
from anomaly_bench.errors import UserError
from anomaly_bench.tables.build import BuiltTable
from anomaly_bench.tables.figures.histograms import MethodScores, score_histogram
from anomaly_bench.tables.figures.sheets import heat_map_sheet
from anomaly_bench.tables.figures.sweeps import sweep_curve
from anomaly_bench.tables.index import Index


def draw_figures(tables: Sequence[BuiltTable], index: Index, places: Places, store: Store) -> list[str]:
    """All figures of one profile's tables; what could not be drawn, a sentence each. `index` is the store's.

    Raises:
        UserError: the folder cannot be written to.
    """
    folder = places.results / "figures" / tables[0].profile.name
    for built in tables:
        if built.spec.sweep:
            sweep_curve(built, built.spec.sweep, folder / f"{built.spec.name}.svg")
    missing, left_out = list[str](), dict[str, list[str]]()
    for name, records in _by_category(tables).items():
        _draw_scores(name, records, folder, index)
        try:
            reasons = _draw_maps(name, records, folder, places, store)
        except UserError as error:
            missing.append(f"no heat maps of {name}: {error}")
        else:
            for reason, labels in reasons.items():
                left_out.setdefault(reason, []).append(f"{name} ({', '.join(labels)})")
    # A clone has no maps at all, for git keeps none: one sentence for all of them, and no order to train them anew.
    return missing + [f"no heat maps of {', '.join(names)}: {reason}." for reason, names in left_out.items()]


def _by_category(tables: Sequence[BuiltTable]) -> dict[str, list[Record]]:
    """`<data set>-<category>` to one run of every method there: with its defaults, or nearest to them; lowest seed."""
    found: dict[str, dict[str, Record]] = {}
    for record in (record for built in tables for record in built.records):
        spec = record.spec
        methods = found.setdefault(category_name(spec), {})
        if spec.method not in methods or _distance(record) < _distance(methods[spec.method]):
            methods[spec.method] = record
    return {name: [methods[method] for method in sorted(methods)] for name, methods in sorted(found.items())}


def category_name(spec: RunSpec) -> str:
    """What the figures of a run's category are called."""
    return f"{spec.dataset}-{spec.category}"


def _distance(record: Record) -> tuple[int, int, str]:
    return len(record.spec.options), record.spec.seed, record.spec.run_id


def _draw_scores(name: str, records: Sequence[Record], folder: Path, index: Index) -> None:
    scored = []
    for record in records:
        scores = index.scores_of(record, EvalSpec(**record.evaluations[record.evaluation]["spec"]))
        if scores is not None:
            scored.append(MethodScores(record.spec.method, scores, record.metrics["image_auroc"]))
    if scored:
        score_histogram(scored, f"Image scores, {name}, profile {folder.name}", folder / "scores" / f"{name}.svg")


def _draw_maps(
    name: str, records: Sequence[Record], folder: Path, places: Places, store: Store
) -> dict[str, list[str]]:
    """Whose maps are not on the sheet, by the reason; raises UserError where there is no sheet at all."""
    comparable = [one for one in records if _shown_alike(one, records[0])]
    sheet = heat_map_sheet(comparable, places, store, folder / "maps" / f"{name}.png")
    reasons = dict[str, list[str]]()
    for label, reason in sheet.left_out.items():
        reasons.setdefault(reason, []).append(label)
    return reasons


def _shown_alike(record: Record, other: Record) -> bool:
    """A sheet shows one set of images, at one size and of one seed."""
    mine, its = record.spec, other.spec
    return (mine.seed, mine.protocol.image_size, mine.train_images, mine.test_images) == (
        its.seed,
        its.protocol.image_size,
        its.train_images,
        its.test_images,
    )
