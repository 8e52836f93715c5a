"""Where a cell's number is from: what opens over it by hover, click, touch or keyboard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby

from anomaly_bench.bench.spec import EvalSpec, as_set
from anomaly_bench.bench.store import Record
from anomaly_bench.tables.build import Cell
from anomaly_bench.tables.paired import Interval
from anomaly_bench.tables.report.markup import Html, definitions, element, fragment, items

MINUS = "\N{MINUS SIGN}"


def signed(value: float, decimals: int) -> str:
    """With its sign; a minus as long as the plus is wide."""
    return f"{value:+.{decimals}f}".replace("-", MINUS)


def spread(cell: Cell, decimals: int) -> str:
    """Mean and standard deviation, in the cell's unit."""
    assert cell.measured is not None
    std = "" if cell.std is None else f" ± {cell.std:.{decimals}f}"
    return f"{cell.measured:.{decimals}f}{std}".replace("-", MINUS)


VERDICTS = {"○": "no difference that holds", "▲": "above, and it holds", "▼": "below, and it holds"}


def verdict(interval: Interval) -> tuple[str, str]:
    """A sign and the same in words."""
    return interval.sign, VERDICTS[interval.sign]


def bounds(interval: Interval) -> str:
    """The interval in points of percent."""
    return f"{signed(100 * interval.low, 2)} to {signed(100 * interval.high, 2)}"


def shortfalls(cell: Cell) -> list[str]:
    """What a measured cell lacks, in few words; they stand below its number."""
    found = {
        cell.caveat: bool(cell.caveat),
        f"{len(cell.seeds)} of {cell.seeds_planned} seeds": len(cell.seeds) < cell.seeds_planned,
        f"without seed {', '.join(map(str, cell.seeds_left_out))}": bool(cell.seeds_left_out),
        f"without seed {', '.join(map(str, cell.seeds_unshared))}, which others lack": bool(cell.seeds_unshared),
        "other seeds than cells to be compared": cell.seeds_differ,
        f"{len(cell.categories)} of {cell.categories_planned} categories": (
            len(cell.categories) < cell.categories_planned
        ),
        f"without {', '.join(cell.categories_left_out)}, which others lack": bool(cell.categories_left_out),
    }
    return [text for text, holds in found.items() if holds]


def why_not_compared(cell: Cell) -> str:
    """In few words, for a measured cell without a difference; what its caveat says stands below its number."""
    if cell.printed.value is None:
        return "nothing printed"
    if len(cell.categories) < cell.categories_planned and cell.printed_over_same is None:
        return "printed over other categories"
    return "" if cell.caveat else "numbers of two kinds"


def provenance(cell: Cell, title: str, name: str) -> Html:
    """The box of a measured cell.

    Args:
        cell: the cell, measured.
        title: its row and column.
        name: the box's id.
    """
    close = element("button", "Close", type="button", popovertarget=name, popovertargetaction="hide")
    heading = element("p", element("strong", title), close)
    return element("div", heading, definitions(_lines(cell)), id=name, popover="auto", class_="origin")


def _lines(cell: Cell) -> Iterator[tuple[str, str]]:
    assert cell.evaluation is not None
    categories = f"{len(cell.categories)} of {cell.categories_planned}: {', '.join(cell.categories)}"
    seeds = ", ".join(map(str, cell.seeds)) or "none that all categories have"
    yield "Measured", f"{spread(cell, 4)} {cell.unit}"
    yield from _printed(cell)
    if cell.interval is not None:
        sign, words = verdict(cell.interval)
        difference = f"{signed(100 * cell.interval.difference, 2)} points, 95 % interval {bounds(cell.interval)}"
        yield f"Against {cell.reference}", f"{sign} {words}: {difference}"
    if cell.caveat:
        yield "Caveat", cell.caveat
    yield "Method", _distinct(_variant(record) for record in cell.records)
    yield "Seeds", f"{seeds} ({len(cell.seeds)} of {cell.seeds_planned})"
    yield "Categories", categories
    yield "Evaluation", _evaluation(cell.evaluation)
    yield "Device", _distinct(record.device for record in cell.records)
    yield "Runs", _runs(cell.records)


def _printed(cell: Cell) -> Iterator[tuple[str, str]]:
    if cell.printed_over_same is not None:
        yield "Printed", f"{cell.printed_over_same:.2f} {cell.unit}, the paper's mean over the same categories"
    elif cell.printed.text:
        yield "Printed", f"{cell.printed.text} {cell.printed.unit}"
    if cell.difference is not None and cell.measure is not None:
        yield "Difference", f"{signed(cell.difference, cell.measure.decimals)}: {cell.status}"


def _distinct(texts: Iterator[str]) -> str:
    return "; ".join(dict.fromkeys(texts))


def _variant(record: Record) -> str:
    return " ".join([record.spec.method, *(f"{name}={as_set(value)}" for name, value in record.spec.options)])


def _evaluation(evaluation: EvalSpec) -> str:
    rule = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in asdict(evaluation).items())
    return f"{rule}; id {evaluation.eval_id}"


def _runs(records: Sequence[Record]) -> Html:
    """A line a category and method, each run by its seed, linked to its record."""
    groups = groupby(records, key=lambda record: (_variant(record), record.spec.category))
    lines = [fragment([f"{category}:", *map(_run, group)]) for (_, category), group in groups]
    return items(lines, class_="runs")


def _run(record: Record) -> Html:
    run_id = record.spec.run_id
    record_link = element("a", run_id, href=f"../runs/{run_id}/record.json")
    return fragment([" ", element("span", f"seed {record.spec.seed} ", record_link)])
