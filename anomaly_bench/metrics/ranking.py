"""AUROC, average precision and F1-max, exactly, from the ranks of the anomalous scores among the normal ones.

Both ranking curves change only where a score occurs, and all three numbers need them only at the anomalous scores:

    TP(s) = #anomalous >= s      FP(s) = #normal >= s      FP'(s) = #normal > s

Anomalous scores are few (a few percent of all pixels), so the normal ones are sorted, in their own dtype, and the
anomalous ones looked up in them. Tied scores enter together, as in scikit-learn. N normal scores, P anomalous ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating[Any]]
Counts = NDArray[np.intp]


@dataclass(frozen=True)
class Ranking:
    """Where each anomalous score s, in ascending order, stands among all scores.

    Attributes:
        order: (P,) what sorts the anomalous scores; an array that belongs to them is aligned by `array[order]`.
        true_positives: (P,) TP(s), anomalous scores at or above s.
        false_positives: (P,) FP(s), normal scores at or above s.
        false_positives_above: (P,) FP'(s), normal scores above s; below FP(s) only where a normal score ties with s.
        normals: N, at least 1.
    """

    order: Counts
    true_positives: Counts
    false_positives: Counts
    false_positives_above: Counts
    normals: int


def rank_scores(sorted_normal: Scores, anomalous: Scores) -> Ranking:
    """Look every anomalous score up among the normal ones.

    Args:
        sorted_normal: (N,) ascending, N >= 1. The caller sorts, so that a large array can be sorted in place.
        anomalous: (P,) in any order, P >= 1.

    Raises:
        ValueError: one of the two is empty. Order and finiteness are the caller's word.
    """
    if not sorted_normal.size or not anomalous.size:
        raise ValueError(f"nothing to rank: {sorted_normal.size} normal and {anomalous.size} anomalous scores")
    order = np.argsort(anomalous)
    scores = anomalous[order]  # ascending keys keep the search within the cache
    below = np.searchsorted(sorted_normal, scores, side="left")
    at_or_below = below.copy()
    tied = sorted_normal.take(below, mode="clip") == scores  # few, so only they are searched again
    at_or_below[tied] = np.searchsorted(sorted_normal, scores[tied], side="right")
    return Ranking(
        order=order,
        true_positives=scores.size - _first_of_ties(scores),
        false_positives=sorted_normal.size - below,
        false_positives_above=sorted_normal.size - at_or_below,
        normals=sorted_normal.size,
    )


def _first_of_ties(scores: Scores) -> Counts:
    """For each of the (P,) ascending scores the index of the first that equals it."""
    first = np.arange(scores.size)
    first[1:][scores[1:] == scores[:-1]] = 0
    return np.maximum.accumulate(first)


def auroc(ranking: Ranking) -> float:
    """Chance that an anomalous score exceeds a normal one, a tie counting half.

    AUROC = 1 - sum_s (FP(s) + FP'(s)) / (2 N P); the sum is one of integers, so the only rounding is the division.
    """
    losses = int(ranking.false_positives.sum()) + int(ranking.false_positives_above.sum())
    return 1.0 - losses / (2 * ranking.normals * ranking.order.size)


def average_precision(ranking: Ranking) -> float:
    """Precision averaged over the anomalous scores: scikit-learn's sum over thresholds of (R_n - R_{n-1}) P_n.

    Recall rises only at anomalous scores, by 1/P for each, so AP = mean_s TP(s) / (TP(s) + FP(s)).
    """
    positives = ranking.true_positives + ranking.false_positives
    return float(np.mean(ranking.true_positives / positives))


def f1_max(ranking: Ranking) -> float:
    """Largest F1 = 2 TP / (TP + FP + P) over all thresholds, "score >= t" being called anomalous.

    Between two anomalous scores a lower threshold only adds false positives: the maximum is at an anomalous score.
    """
    positives = ranking.true_positives + ranking.false_positives
    return float(np.max(2 * ranking.true_positives / (positives + ranking.order.size)))
