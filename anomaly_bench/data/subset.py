"""Which images of a split a subset keeps; always the same ones."""

from __future__ import annotations

from anomaly_bench.data.layout import Sample


def spaced(samples: list[Sample], count: int | None) -> list[Sample]:
    """`count` samples at even distances, or all."""
    if count is None or count >= len(samples):
        return samples
    return [samples[index * len(samples) // count] for index in range(count)]


def stratified(samples: list[Sample], count: int | None) -> list[Sample]:
    """`count` samples, taken from every defect type (and the good ones) in turn, in their own order; or all."""
    if count is None or count >= len(samples):
        return samples
    ranks: dict[str, int] = {}
    ranked = []
    for position, sample in enumerate(samples):
        ranks[sample.defect] = ranks.get(sample.defect, -1) + 1
        ranked.append((ranks[sample.defect], position))
    return [samples[position] for position in sorted(position for _, position in sorted(ranked)[:count])]
