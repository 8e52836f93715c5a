"""Does the difference between two variants hold? A paired bootstrap over test images and seeds.

Statistic   D = mean_c mean_s (AUROC of the variant - AUROC of the reference), image AUROC of category c and seed s.
Images      In each resample every category's good images are drawn with replacement, as many as there are, and so are
            its anomalous ones: apart, so that the AUROC is always defined. Both variants and all seeds of the category
            get the same draw, so what makes an image hard for both cancels.
Seeds       In each resample S of the S seeds are drawn with replacement, once for all categories and both variants.
Interval    The percentiles of D over the resamples that leave (1 - level) / 2 on each side.

The image AUROC is that of `anomaly_bench.metrics.ranking` with a weight for every image, how often it was drawn. With
w for anomalous images, v for good ones, and ties counting half,

    AUROC = 1 - sum_i w_i (FP_v(s_i) + FP'_v(s_i)) / (2 sum w sum v)

where FP_v(s) and FP'_v(s) are the weights of the good images at or above s, and above s.

One of three seeds drawn three times is a resample in 27, more than 2.5 %: at the level of 0.95 a difference over three
seeds hardly ever holds unless it holds with each seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import Generator, SeedSequence, default_rng
from numpy.typing import NDArray

from anomaly_bench.metrics.ranking import Ranking, auroc, rank_scores
from anomaly_bench.tables.scores import Scores

SEED = 0  # the same in every call, so that tables are the same bytes and all variants see the same draws
CHUNK = 64  # resamples at a time: the weights of 10 000 images then take 5 MB, which a processor's cache holds

SeedPair = tuple[Scores, Scores]  # the variant, the reference


@dataclass(frozen=True)
class Interval:
    """A difference of AUROCs and the interval around it, in fractions; above 0 the variant is better."""

    difference: float
    low: float
    high: float

    @property
    def holds(self) -> bool:
        """Whether the interval leaves 0 out."""
        return not self.low <= 0 <= self.high

    @property
    def sign(self) -> str:
        """▲ above, ▼ below, ○ no difference that holds."""
        if not self.holds:
            return "○"
        return "▲" if self.difference > 0 else "▼"


def paired_interval(pairs: Sequence[Sequence[SeedPair]], *, resamples: int = 1000, level: float = 0.95) -> Interval:
    """The mean difference in image AUROC between a variant and its reference, with its bootstrap interval.

    The same input gives the same result, whatever was called before.

    Args:
        pairs: `pairs[category][seed]`, the scores of the variant and those of the reference.
        resamples: how many; of 1,000 a bound wanders by about a twelfth of the difference's spread, of 10,000 by a
            fortieth.
        level: part of the resamples inside the interval, in (0, 1).

    Raises:
        ValueError: there is nothing to compare, categories differ in their number of seeds, the scores of a category
            are not all of the same images with the same labels in the same order, or a category lacks good or
            anomalous images.
    """
    seeds = _check(pairs)
    drawn = _stream(0).integers(seeds, size=(resamples, seeds))
    observed, resampled = 0.0, np.zeros((resamples, seeds))
    for number, category in enumerate(pairs):
        sides = [[_resample(scores, number, resamples) for scores in pair] for pair in category]
        observed += sum(variant.auroc - reference.auroc for variant, reference in sides) / seeds / len(pairs)
        differences = [variant.resampled - reference.resampled for variant, reference in sides]
        resampled += np.stack(differences, axis=1) / len(pairs)
    means = np.take_along_axis(resampled, drawn, axis=1).mean(axis=1)  # (resamples,)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Interval(observed, low, high)


def _stream(number: int) -> Generator:
    """Independent of all others: how much of one is used changes none of them."""
    return default_rng(SeedSequence(SEED, spawn_key=(number,)))


def _check(pairs: Sequence[Sequence[SeedPair]]) -> int:
    """The number of seeds, once all pairs can be compared."""
    counts = sorted({len(category) for category in pairs})
    if len(counts) != 1 or counts[0] == 0:
        raise ValueError(f"every category needs the same number of seeds, at least one, not {counts}")
    for index, category in enumerate(pairs):
        first = category[0][0]
        for seed, scores in ((seed, scores) for seed, pair in enumerate(category) for scores in pair):
            if scores.names != first.names or not np.array_equal(scores.labels, first.labels):
                raise ValueError(f"in category {index} the images of seed {seed} are not those it is compared with")
    return counts[0]


@dataclass(frozen=True)
class _Side:
    """One side's scores, ready for any weights: G good images, P anomalous ones.

    Attributes:
        order: (G,) what sorts the good images, highest score first.
        at_or_above, above: (P,) for each anomalous image, in the order of the file, how many good ones score so.
    """

    order: NDArray[np.intp]
    at_or_above: NDArray[np.intp]
    above: NDArray[np.intp]
    ranking: Ranking

    @classmethod
    def of(cls, scores: Scores) -> _Side:
        good, anomalous = scores.scores[~scores.labels], scores.scores[scores.labels]
        order = np.argsort(good)
        ranking = rank_scores(good[order], anomalous)
        at_or_above, above = np.empty_like(ranking.order), np.empty_like(ranking.order)
        at_or_above[ranking.order] = ranking.false_positives
        above[ranking.order] = ranking.false_positives_above
        return cls(order[::-1], at_or_above, above, ranking)

    def auroc(self, good: NDArray[np.float64], anomalous: NDArray[np.float64]) -> NDArray[np.float64]:
        """(B,), of the weights (G, B) and (P, B) of B resamples; whole numbers, so that only the division rounds."""
        highest = np.zeros((len(good) + 1, good.shape[1]))  # row k: the weight of the k highest good scores
        np.cumsum(good[self.order], axis=0, out=highest[1:])
        losses = highest[self.at_or_above]  # (P, B)
        losses += highest[self.above]
        lost = np.einsum("pb,pb->b", losses, anomalous)
        return 1.0 - lost / (2 * len(good) * len(anomalous))


@dataclass(frozen=True)
class _Resampled:
    """One side's AUROC, and (B,) those of B resamples."""

    auroc: float
    resampled: NDArray[np.float64]


@lru_cache(maxsize=8192)  # of 8 kB; a reference is held against many variants, and stands in many tables
def _resample(scores: Scores, number: int, resamples: int) -> _Resampled:
    """One side of a comparison's category number `number`, which decides what is drawn for it."""
    side, aurocs = _Side.of(scores), list[NDArray[np.float64]]()
    good = _draw(2 * number + 1, side.ranking.normals, resamples)
    anomalous = _draw(2 * number + 2, side.ranking.order.size, resamples)
    for weights in zip(good, anomalous, strict=True):
        # Whole numbers as floats are exact, and faster in what follows.
        aurocs.append(side.auroc(*(counts.astype(np.float64) for counts in weights)))
    return _Resampled(auroc(side.ranking), np.concatenate(aurocs))


@lru_cache(maxsize=64)  # of 0.1 MB for 100 images, two for every category of a data set
def _draw(stream: int, images: int, resamples: int) -> list[NDArray[np.uint8]]:
    """How often each image is among as many drawn with replacement, (images, CHUNK) for every chunk of resamples."""
    generator, chunks = _stream(stream), list[NDArray[np.uint8]]()
    for start in range(0, resamples, CHUNK):
        size = min(CHUNK, resamples - start)
        drawn = generator.integers(images, size=(size, images))
        places = drawn * size + np.arange(size)[:, None]
        counts = np.bincount(places.ravel(), minlength=images * size).reshape(images, size)
        chunks.append(counts.astype(np.uint8))  # 20 times the same image is a chance of 1e-19
    return chunks
