"""What a cell can show of a run: its metrics, the image AUROC by size of defect, and what it cost.

A measure takes a record, the evaluation that the cell asks for and that evaluation's scores, and gives a number in
its unit, or raises `MissingError` with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from anomaly_bench.bench.few_images import too_few
from anomaly_bench.bench.spec import EvalSpec
from anomaly_bench.bench.store import Record
from anomaly_bench.metrics import METRIC_KEYS
from anomaly_bench.tables.scores import Scores, Size, auroc_of_size

ScoresOf = Callable[[Record, EvalSpec], Scores | None]
# Seeds alone move a percentage by about so much (points); the costs of one network differ by how they are counted.
POINTS, SHARE = 0.3, 0.01


class MissingError(Exception):
    """Why a record does not answer; `no_such_thing` where the data have nothing of what is asked about."""

    def __init__(self, reason: str, *, no_such_thing: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.no_such_thing = reason, no_such_thing


@dataclass(frozen=True)
class Measure:
    """One kind of number.

    Attributes:
        unit: as papers print it.
        read: from a record, an evaluation and where scores are found, to a number in that unit.
        decimals: how many are shown.
        tolerance: differences up to this are called a match: points of percent, or for other units a share.
    """

    unit: str
    read: Callable[[Record, EvalSpec, ScoresOf], float]
    decimals: int = 2
    tolerance: float = POINTS

    def matches(self, measured: float, printed: float) -> bool:
        scale = 1.0 if self.unit == "%" else abs(printed)
        return abs(measured - printed) <= self.tolerance * scale + 1e-9


def _metric(name: str, record: Record, evaluation: EvalSpec, _: ScoresOf) -> float:
    value = _evaluated(record, evaluation)["metrics"].get(name)
    if value is None:
        raise MissingError(f"undefined: {_evaluated(record, evaluation)['undefined'].get(name, 'not in the record')}")
    return 100 * float(value)


def _image_metric(name: str, record: Record, evaluation: EvalSpec, scores_of: ScoresOf) -> float:
    _require_images(record)
    return _metric(name, record, evaluation, scores_of)


def _require_images(record: Record) -> None:
    """Raises MissingError where next to no test images are there."""
    reason = too_few(record)
    if reason is not None:
        raise MissingError(reason)


def _evaluated(record: Record, evaluation: EvalSpec) -> dict[str, Any]:
    """The record's entry for an evaluation."""
    entry = record.evaluations.get(evaluation.eval_id)
    if entry is not None:
        return entry
    own = record.evaluations[record.evaluation]["spec"]["metrics_revision"]
    if own != evaluation.metrics_revision:
        raise MissingError(f"stale: metrics revision {own}, now {evaluation.metrics_revision}")
    raise MissingError("not evaluated by this rule")


def _of_size(size: Size, record: Record, evaluation: EvalSpec, scores_of: ScoresOf) -> float:
    _require_images(record)
    _evaluated(record, evaluation)
    scores = scores_of(record, evaluation)
    if scores is None:
        raise MissingError("the run's scores are gone; use --again")
    auroc = auroc_of_size(scores, size)
    if isinstance(auroc, str):
        raise MissingError(auroc, no_such_thing=auroc == "no such defects")
    return 100 * auroc


def _cost(name: str, scale: float, record: Record, _evaluation: EvalSpec, _: ScoresOf) -> float:
    if name not in record.cost:
        raise MissingError("not in the record, which is from before it was measured; use --again")
    return float(record.cost[name]) * scale


MEASURES: dict[str, Measure] = {
    **{
        name: Measure("%", partial(_image_metric if name.startswith("image_") else _metric, name))
        for name in METRIC_KEYS
    },
    "image_auroc_small": Measure("%", partial(_of_size, "small")),
    "image_auroc_middle": Measure("%", partial(_of_size, "middle")),
    "image_auroc_large": Measure("%", partial(_of_size, "large")),
    "parameters_student": Measure("M", partial(_cost, "parameters_student", 1e-6), tolerance=SHARE),
    "multiply_accumulates_student": Measure("G", partial(_cost, "multiply_accumulates_student", 1e-9), tolerance=SHARE),
    "latency": Measure("ms", partial(_cost, "seconds_latency", 1e3), decimals=1, tolerance=SHARE),
    "seconds_train": Measure("s", partial(_cost, "seconds_train", 1.0), decimals=1, tolerance=SHARE),
}
RELATIVE = Measure("%", MEASURES["seconds_train"].read)  # how a cell with `relative_to` is shown
