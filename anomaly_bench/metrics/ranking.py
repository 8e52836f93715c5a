"""AUROC, average precision and F1-max, exactly, from the ranks of the anomalous scores among the normal ones.

Both ranking curves change only where a score occurs, and all three numbers need them only at the anomalous scores:

    TP(s) = #anomalous >= s      FP(s) = #normal >= s      FP'(s) = #normal > s

Anomalous scores are few (a few percent of all pixels), so the normal ones are sorted, in their own dtype, and the
anomalous ones looked up in them. Tied scores enter together, as in scikit-learn. N normal scores, P anomalous ones.

Ranks add up over any parts of the normal scores, so parts are sorted and searched side by side, a thread for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating[Any]]
Counts = NDArray[np.intp]
Part = TypeVar("Part")
Result = TypeVar("Result")


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


def side_by_side(function: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """`function` of every part, a thread for each: NumPy lets go of the interpreter while it sorts and searches."""
    if len(parts) == 1:
        return [function(parts[0])]
    with ThreadPoolExecutor(len(parts)) as pool:
        return list(pool.map(function, parts))


def rank_scores(sorted_normal: Scores, anomalous: Scores) -> Ranking:
    """Look every anomalous score up among the normal ones.

    Args:
        sorted_normal: (N,) ascending, N >= 1. The caller sorts, so that a large array can be sorted in place.
        anomalous: (P,) in any order, P >= 1.

    Raises:
        ValueError: one of the two is empty. Order and finiteness are the caller's word.
    """
    return rank_among([sorted_normal], anomalous)


def rank_among(parts: Sequence[Scores], anomalous: Scores) -> Ranking:
    """As `rank_scores`, with the N normal scores in parts, each ascending."""
    parts = [part for part in parts if part.size]
    normals = sum(part.size for part in parts)
    if not normals or not anomalous.size:
        raise ValueError(f"nothing to rank: {normals} normal and {anomalous.size} anomalous scores")
    order = np.argsort(anomalous)
    scores = anomalous[order]  # ascending keys keep the search within the cache
    above, ties = np.full(scores.size, normals), np.zeros(scores.size, dtype=np.intp)
    for below, tied, equal in side_by_side(lambda part: _look_up(part, scores), parts):
        above -= below
        ties[tied] += equal
    return Ranking(
        order=order,
        true_positives=scores.size - _first_of_ties(scores),
        false_positives=above,
        false_positives_above=above - ties,
        normals=normals,
    )


def _look_up(part: Scores, scores: Scores) -> tuple[Counts, Counts, Counts]:
    """How much of `part` is below each of the (P,) ascending scores; which of these it ties with, and how often."""
    below = np.searchsorted(part, scores, side="left")
    tied = np.flatnonzero(part.take(below, mode="clip") == scores)  # few, so only they are searched again
    return below, tied, np.searchsorted(part, scores[tied], side="right") - below[tied]


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
