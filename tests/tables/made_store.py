"""A hand-made store: every value says which category, metric and seed it belongs to, so that any mix-up shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_bench.bench.catalog import load_dataset
from anomaly_bench.bench.profiles import PROFILES, Profile
from anomaly_bench.bench.resolve import resolve
from anomaly_bench.bench.spec import EvalSpec, PlannedRun, RunSpec
from anomaly_bench.bench.store import RECORD, Record
from anomaly_bench.bench.texts import write_json
from anomaly_bench.data.mvtec import OFFICIAL
from anomaly_bench.metrics import METRIC_KEYS
from anomaly_bench.tables.plan import table_runs
from anomaly_bench.tables.scores import Scores
from anomaly_bench.tables.spec import TableSpec

CATEGORIES = list(OFFICIAL)
WEIGHTS = {"file": "made-up.pth", "sha256": "0123456789abcdef" * 4, "source": "folder"}
VERSIONS = {"anomaly-bench": "0.1.0", "torch": "2.15.0", "timm": "1.0.31", "numpy": "2.4.6", "pillow": "13.0.0"}


FIRST = {"rd": 50, "fmm_scsatt": 70, "ast_mfr": 30}


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
    evidence = dict.fromkeys(spec.protocol.weights_evidence.values(), WEIGHTS) | {"data": data}
    provenance = {"versions": VERSIONS, "commit": None}
    return Record(spec, own.eval_id, {own.eval_id: entry}, evidence, {}, provenance)


def with_data(record: Record, **changes: Any) -> Record:
    """The same record with other evidence of its data."""
    data = record.evidence["data"] | changes
    return dataclasses.replace(record, evidence=record.evidence | {"data": data})


@dataclasses.dataclass(frozen=True)
class MadeStore:
    """Every run of one table, none trained: `percent` and `cost` say what a cell must then show.

    A variant is a distinct training or evaluation, numbered in the order in which the table's rows and columns ask
    for them; categories are numbered as their data set lists them. Percentages read VC.CMS: variant, category
    (times 0.6), metric (times 0.05), seed (times 0.003).
    """

    records: list[Record]
    variants: list[tuple[RunSpec, EvalSpec]]

    def percent(self, run: PlannedRun, metric: str) -> float:
        names = load_dataset(run.spec.dataset).category_names(Path())
        number = self.variants.index(variant(run)), names.index(run.spec.category)
        return 10 * number[0] + 0.6 * number[1] + 0.05 * METRIC_KEYS.index(metric) + 0.003 * run.spec.seed

    def cost(self, run: PlannedRun) -> dict[str, Any]:
        number = self.variants.index(variant(run)) + 1
        return {
            "parameters_student": 1_110_000 * number,
            "multiply_accumulates_student": 2_220_000_000 * number,
            "seconds_latency": 0.0333 * number,
            "seconds_train": 1000.0 * number + run.spec.seed,
            "seconds_evaluate": 1.0,
            "device": "a made-up device",
        }

    def above_good(self, run: PlannedRun, size: int) -> int:
        """How many of 100 defects of a size (0, 1, 2) score higher than every good image."""
        return 40 + 3 * load_dataset(run.spec.dataset).category_names(Path()).index(run.spec.category) + size

    def scores_of(self, record: Record, evaluation: EvalSpec) -> Scores:
        """One good image and 100 defects of each size, but for zipper none that is large."""
        run = PlannedRun(record.spec, evaluation)
        shares, scores = [0.0], [0.5]
        for size, share in enumerate((0.01, 0.1, 0.5)):
            if (record.spec.category, size) != ("zipper", 2):
                shares += [share] * 100
                scores += [0.9] * self.above_good(run, size) + [0.1] * (100 - self.above_good(run, size))
        names = tuple(f"test/{index}.png" for index in range(len(scores)))
        return Scores(names, np.array(shares) > 0, np.array(scores), np.array(shares))


def variant(run: PlannedRun) -> tuple[RunSpec, EvalSpec]:
    return dataclasses.replace(run.spec, seed=-1, category=""), run.evaluation


def made_table_store(table: TableSpec, profile: Profile, *, seeds: Sequence[int] | None = None) -> MadeStore:
    """Records of everything that `table` asks for, on complete data."""
    runs = table_runs(table, profile, Path(), seeds=seeds)
    made = MadeStore([], list(dict.fromkeys(variant(run) for run in runs)))
    for spec in dict.fromkeys(run.spec for run in runs):
        asked = [run for run in runs if run.spec == spec]
        entries = {
            run.evaluation.eval_id: {
                "spec": run.evaluation.as_json(),
                "metrics": {metric: made.percent(run, metric) / 100 for metric in METRIC_KEYS},
                "undefined": {},
            }
            for run in asked
        }
        counts = {"train": 1, "test_good": 1, "test_defective": 1, "masks": 1}
        data = {
            "manifest_sha256": "00", "counts": counts, "official_counts": counts, "complete": True,
            "image_sizes": [[9, 9]], "official_image_size": [9, 9], "resized": False,
        }  # fmt: skip
        evidence = dict.fromkeys(spec.protocol.weights_evidence.values(), WEIGHTS) | {"data": data}
        provenance = {"versions": VERSIONS, "commit": None}
        record = Record(spec, asked[0].evaluation.eval_id, entries, evidence, made.cost(asked[0]), provenance)
        made.records.append(record)
    return made


def write_run(folder: Path, record: Record) -> None:
    """The record in its folder, with scores that the run's id decides."""
    folder.mkdir(parents=True)
    write_json(folder / RECORD, record.as_json())
    counts = record.evidence["data"]["counts"]
    labels = np.repeat([0, 1], [counts["test_good"], counts["test_defective"]])
    scores = np.random.default_rng(int(record.spec.run_id, 16)).normal(size=len(labels)) + labels
    pairs = enumerate(zip(labels, scores, strict=True))
    lines = [f"test/{index:03}.png,any,{label},{score},0.1,0.1" for index, (label, score) in pairs]
    text = "\n".join(["path,defect,label,score,share_original,share_evaluated", *lines, ""])
    for evaluation in record.evaluations:
        (folder / f"scores-{evaluation}.csv").write_text(text, encoding="utf-8")
