"""What a cell can show of a record beside its metrics, and why it may have nothing to show."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from anomaly_bench.bench.spec import EvalSpec
from anomaly_bench.bench.store import Record
from anomaly_bench.tables.index import no_scores
from anomaly_bench.tables.measures import MEASURES, MissingError
from anomaly_bench.tables.scores import Scores
from tests.tables.made_store import made_record

OWN = EvalSpec()


def read(metric: str, record: Record, scores: Scores | None = None) -> float:
    return MEASURES[metric].read(record, OWN, lambda *_: scores)


def with_cost(**cost: Any) -> Record:
    return dataclasses.replace(made_record("bottle"), cost=cost)


@pytest.mark.parametrize(
    ("metric", "key", "in_record", "shown"),
    [
        ("parameters_student", "parameters_student", 33_211_456, 33.211456),
        ("multiply_accumulates_student", "multiply_accumulates_student", 18_946_000_000, 18.946),
        ("latency", "seconds_latency", 0.0101, 10.1),
        ("seconds_train", "seconds_train", 3308.5, 3308.5),
    ],
)
def test_costs_are_shown_in_the_papers_units(metric: str, key: str, in_record: float, shown: float) -> None:
    assert read(metric, with_cost(**{key: in_record})) == pytest.approx(shown)
    with pytest.raises(MissingError, match="from before it was measured"):
        read(metric, with_cost())


def test_sizes_of_defects_are_read_from_the_scores() -> None:
    shares = np.array([0.0, 0.01, 0.02, 0.1])
    scores = Scores(tuple("abcd"), shares > 0, np.array([0.5, 0.9, 0.1, 0.9]), shares)
    assert read("image_auroc_small", made_record("bottle"), scores) == 50.0
    assert read("image_auroc_middle", made_record("bottle"), scores) == 100.0
    with pytest.raises(MissingError) as missing:
        read("image_auroc_large", made_record("bottle"), scores)
    assert (missing.value.reason, missing.value.no_such_thing) == ("no such defects", True)
    with pytest.raises(MissingError) as missing:
        read("image_auroc_large", made_record("bottle"))
    assert (missing.value.reason, missing.value.no_such_thing) == ("the run's scores are gone; use --again", False)
    unknown = dataclasses.replace(scores, shares=np.full(4, np.nan))
    with pytest.raises(MissingError) as missing:
        read("image_auroc_small", made_record("bottle"), unknown)
    assert (missing.value.reason, missing.value.no_such_thing) == ("no masks, so no defect sizes", False)


def test_another_rule_is_no_answer_even_for_sizes() -> None:
    other = EvalSpec(sigma=2.0)
    for metric in ("image_auroc", "image_auroc_small"):
        with pytest.raises(MissingError, match="not evaluated by this rule"):
            MEASURES[metric].read(made_record("bottle"), other, no_scores)


@pytest.mark.parametrize(
    ("metric", "measured", "printed", "matches"),
    [
        ("image_auroc", 98.2, 98.5, True),
        ("image_auroc", 98.19, 98.5, False),
        ("parameters_student", 33.2114, 33.2, True),
        ("parameters_student", 33.3, 36.3, False),
        ("multiply_accumulates_student", 26.49, 26.6, True),
        ("multiply_accumulates_student", 18.78, 21.2, False),
    ],
)
def test_what_matches(metric: str, measured: float, printed: float, *, matches: bool) -> None:
    assert MEASURES[metric].matches(measured, printed) is matches
