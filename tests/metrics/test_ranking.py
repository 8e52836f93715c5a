"""AUROC, average precision and F1-max against their definitions and against scikit-learn."""

import runpy
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from anomaly_bench.metrics.ranking import auroc, average_precision, f1_max, rank_scores

REFERENCE = runpy.run_path(str(Path(__file__).parents[2] / "experiments" / "performance" / "reference_metrics.py"))

CASES = {
    "random": lambda rng: (rng.normal(0, 1, 500), rng.normal(1, 1, 40)),
    "heavy ties": lambda rng: (rng.integers(0, 4, 500) / 4, rng.integers(1, 6, 40) / 4),
    "one level": lambda rng: (np.full(30, 0.5), np.full(7, 0.5)),
    "separated": lambda rng: (rng.uniform(0, 1, 50), rng.uniform(2, 3, 20)),
    "upside down": lambda rng: (rng.uniform(2, 3, 50), rng.uniform(0, 1, 20)),
    "one of each": lambda rng: (np.array([0.25]), np.array([0.5])),
    "more anomalous than normal": lambda rng: (rng.integers(-3, 3, 9), rng.integers(-2, 4, 90)),
}


def metrics(normal: NDArray[np.floating], anomalous: NDArray[np.floating]) -> tuple[float, float, float]:
    ranking = rank_scores(np.sort(normal), anomalous)
    return auroc(ranking), average_precision(ranking), f1_max(ranking)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
def test_metrics_equal_scikit_learn(case: str, dtype: type) -> None:
    normal, anomalous = (scores.astype(dtype) for scores in CASES[case](np.random.default_rng(0)))
    labels = np.repeat([0, 1], [normal.size, anomalous.size])
    expected = REFERENCE["ranking_metrics"]("unit", np.concatenate([normal, anomalous]), labels)
    assert metrics(normal, anomalous) == pytest.approx(tuple(expected.values()), abs=1e-12)


def test_auroc_is_the_share_of_won_pairs_a_tie_counting_half() -> None:
    normal, anomalous = [1.0, 2.0, 2.0, 5.0], [2.0, 5.0, 7.0]
    won = sum(1.0 if high > low else 0.5 if high == low else 0.0 for high, low in product(anomalous, normal))
    assert metrics(np.array(normal), np.array(anomalous))[0] == won / 12


def test_f1_max_is_the_best_of_all_thresholds() -> None:
    normal, anomalous = [0.0, 1.0, 1.0, 3.0, 4.0], [1.0, 3.0, 3.0, 6.0]
    best = 0.0
    for threshold in normal + anomalous:
        found, false = sum(s >= threshold for s in anomalous), sum(s >= threshold for s in normal)
        best = max(best, 2 * found / (found + false + len(anomalous)))
    assert metrics(np.array(normal), np.array(anomalous))[2] == best


@pytest.mark.parametrize(("normals", "anomalous"), [(0, 3), (3, 0)])
def test_a_ranking_needs_both_kinds(normals: int, anomalous: int) -> None:
    with pytest.raises(ValueError, match=f"{normals} normal and {anomalous} anomalous"):
        rank_scores(np.zeros(normals), np.zeros(anomalous))
