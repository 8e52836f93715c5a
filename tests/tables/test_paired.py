"""The paired bootstrap against loops over resamples, seeds, categories and pairs of drawn images."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from anomaly_bench.tables import paired
from anomaly_bench.tables.paired import SEED, Interval, SeedPair, paired_interval
from anomaly_bench.tables.scores import Scores

RESAMPLES = 2 * paired.CHUNK + 7  # two whole chunks and a part of one
Drawn = list[list[int]]


def made(labels: list[bool], scores: list[float]) -> Scores:
    names = tuple(f"{index}.png" for index in range(len(labels)))
    return Scores(names, np.array(labels), np.array(scores), np.zeros(len(labels)))


def tied_pairs() -> list[list[SeedPair]]:
    """Three categories of odd sizes, three seeds; five score levels, so that a fifth of all pairs of images tie."""
    rng, pairs = np.random.default_rng(3), []
    for good, anomalous in ((5, 3), (1, 4), (7, 9)):
        labels = rng.permutation([False] * good + [True] * anomalous).tolist()
        sides = [(rng.integers(0, 5, len(labels)) / 4).tolist() for _ in range(6)]
        pairs.append([(made(labels, sides[seed]), made(labels, sides[3 + seed])) for seed in range(3)])
    return pairs


def noisy_pairs(gains: list[float], noise: float = 0.5) -> list[list[SeedPair]]:
    """Two categories; the variant lifts anomalous scores by each seed's gain; both sides have noise of their own."""
    rng = np.random.default_rng(4)
    labels = [False] * 30 + [True] * 40
    pairs = []
    for _ in range(2):
        base = rng.normal(size=70) + np.array(labels)
        seeds = [
            (
                made(labels, (base + gain * np.array(labels) + noise * rng.normal(size=70)).tolist()),
                made(labels, (base + noise * rng.normal(size=70)).tolist()),
            )
            for gain in gains
        ]
        pairs.append(seeds)
    return pairs


def loop_auroc(scores: Scores, good_drawn: list[int], anomalous_drawn: list[int]) -> float:
    """AUROC over the drawn images, one drawn twice standing there twice; a tie is half a point."""
    good = [score for score, label in zip(scores.scores.tolist(), scores.labels.tolist(), strict=True) if not label]
    anomalous = [score for score, label in zip(scores.scores.tolist(), scores.labels.tolist(), strict=True) if label]
    won = 0.0
    for i in anomalous_drawn:
        for j in good_drawn:
            won += 1.0 if anomalous[i] > good[j] else 0.5 if anomalous[i] == good[j] else 0.0
    return won / (len(good_drawn) * len(anomalous_drawn))


def loop_statistic(pairs: list[list[SeedPair]], good: Drawn, anomalous: Drawn, seeds: list[int]) -> float:
    """mean_c mean_s (AUROC of the variant - AUROC of the reference)."""
    total = 0.0
    for category, good_drawn, anomalous_drawn in zip(pairs, good, anomalous, strict=True):
        for seed in seeds:
            variant, reference = category[seed]
            total += loop_auroc(variant, good_drawn, anomalous_drawn) / len(seeds) / len(pairs)
            total -= loop_auroc(reference, good_drawn, anomalous_drawn) / len(seeds) / len(pairs)
    return total


def percentile(values: list[float], part: float) -> float:
    place = part * (len(values) - 1)
    below, above = sorted(values)[math.floor(place)], sorted(values)[math.ceil(place)]
    return below + (above - below) * (place - math.floor(place))


def loop_interval(pairs: list[list[SeedPair]], level: float) -> Interval:
    """All resamples one by one, from the streams that the module gives: seeds, then each category's good, anomalous."""
    streams = [np.random.default_rng(stream) for stream in np.random.SeedSequence(SEED).spawn(1 + 2 * len(pairs))]
    labels = [category[0][0].labels.tolist() for category in pairs]
    seeds = streams[0].integers(3, size=(RESAMPLES, 3)).tolist()
    counts = [labels[category].count(label) for category in range(len(pairs)) for label in (False, True)]
    drawn = [s.integers(count, size=(RESAMPLES, count)).tolist() for s, count in zip(streams[1:], counts, strict=True)]
    values = []
    for r in range(RESAMPLES):
        values.append(loop_statistic(pairs, [d[r] for d in drawn[::2]], [d[r] for d in drawn[1::2]], seeds[r]))
    whole = [list(range(count)) for count in counts]
    difference = loop_statistic(pairs, whole[::2], whole[1::2], [0, 1, 2])
    return Interval(difference, percentile(values, (1 - level) / 2), percentile(values, (1 + level) / 2))


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_the_interval_is_that_of_a_loop_over_all_resamples(level: float) -> None:
    expected = loop_interval(tied_pairs(), level)
    measured = paired_interval(tied_pairs(), resamples=RESAMPLES, level=level)
    assert expected.low < expected.difference < expected.high
    assert dataclasses.astuple(measured) == pytest.approx(dataclasses.astuple(expected), rel=1e-6, abs=1e-12)


def test_a_clear_difference_holds_in_either_direction() -> None:
    up = paired_interval(noisy_pairs([1.0, 1.1, 0.9]))
    down = paired_interval([[(b, a) for a, b in category] for category in noisy_pairs([1.0, 1.1, 0.9])])
    assert up.holds
    assert 0 < up.low < up.difference < up.high
    assert down.holds
    assert dataclasses.astuple(down) == pytest.approx((-up.difference, -up.high, -up.low), abs=1e-12)


def test_identical_variants_differ_by_exactly_nothing() -> None:
    same = paired_interval([[(a, a) for a, _ in category] for category in tied_pairs()])
    assert same == Interval(0.0, 0.0, 0.0)
    assert not same.holds


def test_a_difference_within_the_noise_of_the_images_does_not_hold() -> None:
    noise = paired_interval(noisy_pairs([0.1, 0.1, 0.1], noise=1.0))
    assert noise.low < 0 < noise.high
    assert not noise.holds


def test_a_difference_that_one_of_three_seeds_denies_does_not_hold() -> None:
    """The same gain on average as one that holds: what the images alone say would be about the same interval."""
    assert paired_interval(noisy_pairs([0.5, 0.5, 0.5])).holds
    denied = paired_interval(noisy_pairs([1.0, 1.0, -0.5]))
    assert denied.difference > 0
    assert not denied.holds


def test_both_sides_get_the_same_images_so_what_they_have_in_common_cancels() -> None:
    """Without pairing the common part of the scores would make this interval about as wide as that of noise alone."""
    rng, labels = np.random.default_rng(5), [False] * 30 + [True] * 40
    base = rng.normal(size=70) + np.array(labels)
    nearly = base + 0.01 * rng.normal(size=70)
    close = paired_interval([[(made(labels, nearly.tolist()), made(labels, base.tolist()))] * 3])
    other = made(labels, (rng.normal(size=70) + np.array(labels)).tolist())
    apart = paired_interval([[(other, made(labels, base.tolist()))] * 3])
    assert close.high - close.low < (apart.high - apart.low) / 10


def test_the_result_depends_on_no_earlier_call_and_not_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    first = paired_interval(tied_pairs(), resamples=RESAMPLES)
    np.random.default_rng(SEED).normal(size=9)
    paired_interval(noisy_pairs([0.0]), resamples=3)
    assert paired_interval(tied_pairs(), resamples=RESAMPLES) == first
    monkeypatch.setattr(paired, "CHUNK", 5)
    paired._draw.cache_clear()
    assert paired_interval(tied_pairs(), resamples=RESAMPLES) == first


def changed(scores: Scores, order: list[int], **fields: Any) -> Scores:
    parts = {name: getattr(scores, name)[order] for name in ("labels", "scores", "shares")}
    return Scores(**({"names": tuple(scores.names[i] for i in order)} | parts | fields))


def test_scores_of_other_images_or_labels_or_in_another_order_are_refused() -> None:
    pairs = tied_pairs()
    variant, reference = pairs[0][2]
    size = len(reference.names)
    wrong = [
        changed(reference, list(range(size))[::-1]),
        changed(reference, list(range(size - 1))),
        changed(reference, list(range(size)), labels=~reference.labels),
        changed(reference, list(range(size)), names=tuple(f"other/{name}" for name in reference.names)),
    ]
    for side in wrong:
        with pytest.raises(ValueError, match="category 0 the images of seed 2"):
            paired_interval([[*pairs[0][:2], (variant, side)], *pairs[1:]])
        # A seed whose two sides agree, but not with the other seeds, cannot get their draw.
        with pytest.raises(ValueError, match="category 0 the images of seed 2"):
            paired_interval([[*pairs[0][:2], (side, side)], *pairs[1:]])


def test_categories_without_pairs_or_with_unlike_seeds_or_of_one_kind_are_refused() -> None:
    pairs = tied_pairs()
    unlike: list[list[list[SeedPair]]] = [[], [[]], [pairs[0], pairs[1][:2]]]
    for wrong in unlike:
        with pytest.raises(ValueError, match="the same number of seeds"):
            paired_interval(wrong)
    one_kind = made([True, True], [0.0, 1.0])
    with pytest.raises(ValueError, match="0 normal"):
        paired_interval([[(one_kind, one_kind)]])
