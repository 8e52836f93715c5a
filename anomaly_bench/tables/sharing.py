"""Which categories and seeds cells that are to be compared have in common, so that means are over the same runs."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T", bound=Hashable)
Thing = TypeVar("Thing", str, int)


@dataclass(frozen=True)
class Kept:
    """What a cell's mean is cut down to; None for no cut."""

    categories: frozenset[str] | None = None
    seeds: frozenset[int] | None = None


def shared_by_most(sets: Sequence[frozenset[Thing]]) -> frozenset[Thing]:
    """What most cells have: the things, times the square of how many cells have them all, are the most.

    The square is for the pairs in which cells are compared; that it is weighed against the things keeps a cell that has
    just begun from cutting all others down to its first one.
    """
    candidates = set(sets)
    for one in sets:
        candidates |= {one & other for other in candidates}

    def compared(shared: frozenset[Thing]) -> tuple[int, int, list[Any]]:
        cells = sum(shared <= own for own in sets)
        return len(shared) * cells**2, cells, sorted(shared)

    return max(candidates, key=compared)


def grouped(items: Iterable[tuple[Hashable, T]]) -> Iterator[list[T]]:
    """The items of each key, in the order of their coming."""
    groups: dict[Hashable, list[T]] = {}
    for key, item in items:
        groups.setdefault(key, []).append(item)
    yield from groups.values()


def to_cut(own: Mapping[T, frozenset[Thing]]) -> Iterator[tuple[T, frozenset[Thing]]]:
    """Of cells to be compared those that have more than they share with most, and what they share."""
    shared = shared_by_most(list(own.values())) if own else frozenset[Thing]()
    yield from ((place, shared) for place, things in own.items() if shared < things)
