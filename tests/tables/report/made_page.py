"""Tables from a store made up to look like a real one: numbers near the printed ones, gaps, failures, tests."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_bench.bench.profiles import PROFILES
from anomaly_bench.bench.spec import EvalSpec, PlannedRun, RunSpec
from anomaly_bench.bench.store import Failure, Record
from anomaly_bench.metrics import METRIC_KEYS
from anomaly_bench.tables.build import BuiltTable, Cell, build_table
from anomaly_bench.tables.index import Index
from anomaly_bench.tables.plan import table_runs
from anomaly_bench.tables.printed import load_printed
from anomaly_bench.tables.scores import Scores
from anomaly_bench.tables.spec import load_table
from tests.tables.made_store import VERSIONS, WEIGHTS

NO_DATA = Path("no data are needed")
SHOWN = ("fmm_scsatt/table1", "fmm_scsatt/table5", "ast_mfr/table5", "variance_rd/table2", "variance_rd/fig4")
IMAGES = 30


def draw(*words: object) -> float:
    """A number in [0, 1) that belongs to these words."""
    return int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:6], "big") / 2**48


def made_tables(names: Sequence[str] = SHOWN, profiles: Sequence[str] = ("paper", "lite")) -> list[BuiltTable]:
    """The tables under each profile; in `paper` a fifth of all runs is missing, in `lite` half, and some failed."""
    tables = []
    for profile in (PROFILES[name] for name in profiles):
        specs = [load_table(name) for name in names]
        runs = [run for spec in specs for run in table_runs(spec, profile, NO_DATA)]
        gaps = 0.2 if profile.name == "paper" else 0.5
        index = Index.of(_entries(runs, gaps), made_scores)
        tables += [build_table(spec, profile, index, load_printed(spec.name), NO_DATA) for spec in specs]
    return tables


def _entries(runs: Iterable[PlannedRun], gaps: float) -> list[Record | Failure]:
    evaluations: dict[RunSpec, list[EvalSpec]] = {}
    for run in runs:
        rules = evaluations.setdefault(run.spec, [])
        rules += [] if run.evaluation in rules else [run.evaluation]
    entries: list[Record | Failure] = []
    for spec, rules in evaluations.items():
        # Variants of a method lack the same categories, so that tests between them can be made.
        if spec.category == "cable" and spec.method == "fmm_scsatt":
            entries.append(Failure(spec, "the loss is nan in epoch 3"))
        elif draw(spec.method, spec.category) >= gaps:
            entries.append(made_run(spec, rules))
    return entries


def made_run(spec: RunSpec, rules: Sequence[EvalSpec]) -> Record:
    """A record of one run with these evaluations; better than the reference by its options' luck."""
    level = 0.965 + 0.03 * draw(spec.category) + 0.004 * draw(spec.method, spec.options) + 0.002 * draw(spec.seed)
    metrics = {name: min(level - 0.01 * draw(name), 1.0) for name in METRIC_KEYS}
    entries = {rule.eval_id: {"spec": rule.as_json(), "metrics": metrics, "undefined": {}} for rule in rules}
    counts = {"train": 10, "test_good": 5, "test_defective": 5, "masks": 5}
    data: dict[str, Any] = {
        "manifest_sha256": spec.category, "counts": counts, "official_counts": counts, "complete": True
    }  # fmt: skip
    data |= {"image_sizes": [[900, 900]], "official_image_size": [900, 900], "resized": False}
    evidence = dict.fromkeys(spec.protocol.weights_evidence.values(), WEIGHTS) | {"data": data}
    cost = {"device": "NVIDIA H200", "seconds_train": 3000 + 300 * level, "seconds_latency": 0.0096}
    cost |= {"parameters_student": 33_200_000, "multiply_accumulates_student": 18.9e9}
    return Record(spec, rules[0].eval_id, entries, evidence, cost, {"versions": VERSIONS, "commit": None})


def made_scores(record: Record, _: EvalSpec) -> Scores:
    """A few images, anomalous ones higher by what the run's options give."""
    labels = np.arange(IMAGES) >= IMAGES // 2
    noise = np.array([draw(record.spec.category, record.spec.seed, image) for image in range(IMAGES)])
    lift = 0.2 + 0.6 * draw(record.spec.options, record.spec.protocol.student)
    return Scores(tuple(map(str, range(IMAGES))), labels, noise + lift * labels, np.full(IMAGES, 0.1))


def with_cell(built: BuiltTable, row: int, column: int, **changes: Any) -> BuiltTable:
    """The same table with another cell."""
    rows: list[list[Cell]] = [list(cells) for cells in built.cells]
    rows[row][column] = dataclasses.replace(rows[row][column], **changes)
    return dataclasses.replace(built, cells=rows)
