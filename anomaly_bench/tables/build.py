"""A table as a pure function of its YAML, the records and the printed numbers: no time, no host, a fixed order."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from anomaly_bench.bench.profiles import Profile
from anomaly_bench.bench.spec import EvalSpec, PlannedRun
from anomaly_bench.bench.store import Record
from anomaly_bench.tables.index import Index
from anomaly_bench.tables.measures import MEASURES, RELATIVE, Measure, MissingError
from anomaly_bench.tables.paired import Interval
from anomaly_bench.tables.plan import LeftOutError, cell_runs
from anomaly_bench.tables.printed import NOTHING, PrintedCell, PrintedTable
from anomaly_bench.tables.spec import Line, Query, TableSpec

BySeed = dict[int, float]


@dataclass(frozen=True)
class Cell:
    """One cell; its numbers are in `unit`.

    Attributes:
        printed: what the paper prints.
        measurable: whether this suite measures it at all, or only quotes it.
        measure: what kind of number it is, None where it is only quoted.
        measured: mean over categories and seeds, or None with a `reason`.
        std: standard deviation over seeds (of a cell relative to another: over all pairs), or None with fewer than two.
        seeds: seeds that are in, of `seeds_planned`.
        seeds_left_out: those that only some of the categories have.
        categories: categories that are in, of `categories_planned`.
        categories_left_out: those that were measured and that another partial mean of the same metric lacks.
        printed_over_same: the mean of what the paper prints for just these categories.
        difference: measured minus printed, over the same categories; None where nothing fair can be said.
        reason: why nothing is measured.
        caveat: what is wrong with what is measured; such a cell has no difference.
        records: the runs behind it.
        evaluation: the rule by which they were evaluated.
        reference: name of the row or column that it is held against.
        interval: the paired difference to that one, in fractions; None with fewer than three common seeds.
    """

    printed: PrintedCell = NOTHING
    measurable: bool = False
    measure: Measure | None = None
    measured: float | None = None
    std: float | None = None
    seeds: tuple[int, ...] = ()
    seeds_planned: int = 0
    seeds_left_out: tuple[int, ...] = ()
    categories: tuple[str, ...] = ()
    categories_planned: int = 0
    categories_left_out: tuple[str, ...] = ()
    printed_over_same: float | None = None
    difference: float | None = None
    reason: str = ""
    caveat: str = ""
    records: tuple[Record, ...] = ()
    evaluation: EvalSpec | None = None
    reference: str = ""
    interval: Interval | None = None

    @property
    def unit(self) -> str:
        return self.measure.unit if self.measure else self.printed.unit

    @property
    def status(self) -> str:
        """`matches`, `below` or `above` (what is printed), `not compared`, `not measured`, or `quoted only`."""
        if not self.measurable:
            return "quoted only"
        if self.measured is None:
            return "not measured"
        if self.difference is None:
            return "not compared"
        assert self.measure is not None
        if self.measure.matches(self.measured, self.measured - self.difference):
            return "matches"
        return "below" if self.difference < 0 else "above"


@dataclass(frozen=True, eq=False)
class BuiltTable:
    """A table with its cells filled: `cells[row][column]`; equal to itself alone."""

    spec: TableSpec
    profile: Profile
    cells: list[list[Cell]]

    @cached_property
    def records(self) -> list[Record]:
        """Every run that a cell shows, sorted by id."""
        used = {record.spec.run_id: record for row in self.cells for cell in row for record in cell.records}
        return [used[run_id] for run_id in sorted(used)]


def build_table(table: TableSpec, profile: Profile, index: Index, printed: PrintedTable, data_root: Path) -> BuiltTable:
    """Fill every cell with what the paper prints and what the records say.

    Means over some of the categories are cut down to those that such means of one metric share, so that the rows of a
    half-measured ablation can be compared; a mean over all categories stays one.

    Args:
        table: the table, already on the profile's data set.
        profile: the profile.
        index: the store.
        printed: the paper's numbers.
        data_root: only asked for category names where a data set has no official list.
    """
    context = _Context(table, profile, index, printed, data_root)
    cells = {(row.name, column.name): context.cell(row, column) for row in table.rows for column in table.columns}
    for row, column, shared in list(_to_cut_down(cells, context)):
        cells[row.name, column.name] = context.cell(row, column, only=shared)
    rows = [
        [_against_reference(cells[row.name, column.name], row, column, cells, index) for column in table.columns]
        for row in table.rows
    ]
    return BuiltTable(table, profile, rows)


def _to_cut_down(
    cells: Mapping[tuple[str, str], Cell], context: _Context
) -> Iterator[tuple[Line, Line, frozenset[str]]]:
    """Cells that are means over some of the categories, and those of them that they are to be over."""
    partial: dict[tuple[object, ...], list[tuple[Line, Line, frozenset[str]]]] = {}
    for row, column in itertools.product(context.table.rows, context.table.columns):
        cell = cells[row.name, column.name]
        if 0 < len(cell.categories) < cell.categories_planned:
            partial.setdefault(context.kind(row, column), []).append((row, column, frozenset(cell.categories)))
    for alike in partial.values():
        shared = _shared_by_most([categories for _, _, categories in alike])
        yield from ((row, column, shared) for row, column, own in alike if shared < own)


def _shared_by_most(sets: Sequence[frozenset[str]]) -> frozenset[str]:
    """The categories that most cells have: they, times the square of how many cells have them all, are the most.

    The square is for the pairs in which cells are compared; that it is weighed against categories keeps a cell that has
    just begun from cutting all others down to its first one.
    """
    candidates = set(sets)
    for one in sets:
        candidates |= {one & other for other in candidates}

    def compared(shared: frozenset[str]) -> tuple[int, int, list[str]]:
        cells = sum(shared <= own for own in sets)
        return len(shared) * cells**2, cells, sorted(shared)

    return max(candidates, key=compared)


def _against_reference(cell: Cell, row: Line, column: Line, cells: dict[tuple[str, str], Cell], index: Index) -> Cell:
    """With the paired difference to the cell of its row's reference, or else its column's."""
    place = (row.reference, column.name) if row.reference else (row.name, column.reference)
    other = cells.get(place)
    if other is None or not (
        cell.measure is other.measure is MEASURES["image_auroc"] and cell.records and other.records
    ):
        return cell
    assert cell.evaluation is not None
    assert other.evaluation is not None
    interval = index.paired(cell.records, cell.evaluation, other.records, other.evaluation)
    return replace(cell, reference=row.reference or column.reference, interval=interval)


@dataclass(frozen=True)
class _Context:
    table: TableSpec
    profile: Profile
    index: Index
    printed: PrintedTable
    data_root: Path

    def kind(self, row: Line, column: Line) -> tuple[object, ...]:
        """Alike for cells that are means of one metric over the same categories."""
        query = self.table.query(row, column)
        return query.metric, query.partner is None, query.dataset, query.categories

    def cell(self, row: Line, column: Line, only: frozenset[str] = frozenset()) -> Cell:
        """One cell; of the categories `only`, if any are given."""
        query = self.table.query(row, column)
        cell = Cell(printed=self.printed.get((row.printed, column.printed), NOTHING))
        if not query.measurable:
            return cell
        assert query.metric is not None
        cell = replace(
            cell,
            measurable=True,
            measure=RELATIVE if query.partner else MEASURES[query.metric],
            seeds_planned=len(self.profile.seeds),
        )
        try:
            runs = self._runs(query)
            partners = self._runs(query.partner) if query.partner else None
        except LeftOutError as left_out:
            return replace(cell, reason=str(left_out))
        filled = _fill(cell, query, runs, partners, self.index, only)
        return filled if filled.measured is None else self._compared(filled, row, column)

    def _runs(self, query: Query) -> list[PlannedRun]:
        return cell_runs(query, self.profile, self.data_root, table=self.table.name)

    def _compared(self, cell: Cell, row: Line, column: Line) -> Cell:
        """With the difference, where both sides are means over the same categories of the same data set."""
        measured = cell.measured
        assert measured is not None
        if self.profile.dataset is not None:
            return cell
        if len(cell.categories) == cell.categories_planned:
            printed = cell.printed.value
        else:
            printed = self._printed_over(cell.categories, row, column)
            cell = replace(cell, printed_over_same=printed)
        if printed is None or cell.caveat or not (row.compare and column.compare):
            return cell
        return replace(cell, difference=measured - printed)

    def _printed_over(self, categories: Sequence[str], row: Line, column: Line) -> float | None:
        """The mean of what is printed for some categories, where each has a row (or else column) of its own."""
        cells = [self._printed_for(category, row, column) for category in categories]
        values = [cell.value for cell in cells if cell.value is not None]
        return statistics.fmean(values) if len(values) == len(categories) else None

    def _printed_for(self, category: str, row: Line, column: Line) -> PrintedCell:
        metric = self.table.query(row, column).metric
        for line in self.table.rows if row.query.categories else self.table.columns:
            there = (line, column) if row.query.categories else (row, line)
            query = self.table.query(*there)
            if query.categories == (category,) and query.metric == metric:
                return self.printed.get((there[0].printed, there[1].printed), NOTHING)
        return NOTHING


def _fill(
    cell: Cell,
    query: Query,
    runs: Sequence[PlannedRun],
    partners: Sequence[PlannedRun] | None,
    index: Index,
    only: frozenset[str],
) -> Cell:
    """With what the runs of a cell measured, category by category and seed by seed; or the reason for nothing."""
    values: dict[str, BySeed] = {}
    records: list[Record] = []
    left_out: list[str] = []
    planned, reasons = len(runs), dict[str, None]()
    for position, run in enumerate(runs):
        try:
            found, used = _values(run, partners[position] if partners else None, query, index)
            if only and run.spec.category not in only:
                left_out.append(run.spec.category)
                continue
            values[run.spec.category] = found
            records += used
        except MissingError as missing:
            planned -= missing.no_such_thing
            reasons[missing.reason] = None
    cell = replace(
        cell,
        categories=tuple(values),
        categories_planned=planned,
        categories_left_out=tuple(left_out),
        caveat=_caveat(records, {run.spec.protocol.batch_size for run in (*runs, *(partners or ()))}),
        records=tuple(records),
        evaluation=runs[0].evaluation,
    )
    if not values:
        return replace(cell, reason="; ".join(reasons))
    return _with_statistics(cell, values, paired=partners is not None)


def _values(run: PlannedRun, partner: PlannedRun | None, query: Query, index: Index) -> tuple[BySeed, list[Record]]:
    """A category's values by seed, and the records behind them; raises MissingError where there is none."""
    assert query.metric is not None
    own = index.measured(run, query.metric)
    if partner is None:
        return {seed: value for seed, (value, _) in own.items()}, [record for _, record in own.values()]
    other = index.measured(partner, query.metric)
    pairs = [seed for seed in sorted(own.keys() & other.keys()) if own[seed][1].device == other[seed][1].device]
    if not pairs:
        raise MissingError("no pair of runs with one seed on one device")
    ratios = {seed: 100 * (own[seed][0] / other[seed][0] - 1) for seed in pairs}
    return ratios, [side[seed][1] for seed in pairs for side in (own, other)]


def _caveat(records: Sequence[Record], batch_sizes: set[int]) -> str:
    """Names the categories whose numbers are not those asked for: images are missing, or the batch was halved."""
    incomplete = dict.fromkeys(r.spec.category for r in records if r.evidence["data"]["complete"] is False)
    halved = dict.fromkeys(r.spec.category for r in records if r.spec.protocol.batch_size not in batch_sizes)
    parts = [
        *([f"on INCOMPLETE data ({', '.join(incomplete)})"] if incomplete else []),
        *([f"at HALF THE BATCH for want of memory ({', '.join(halved)})"] if halved else []),
    ]
    return f"{' and '.join(parts)}, so no difference is given" if parts else ""


def _with_statistics(cell: Cell, values: dict[str, BySeed], *, paired: bool) -> Cell:
    """Mean over categories, seed by seed, of the seeds that every category has; the spread is that of these seeds.

    Where no seed is common to all categories there is a mean of each category's own, and no spread. A cell that is
    `paired` with another has the spread of all its pairs.
    """
    common = sorted(set.intersection(*(set(by_seed) for by_seed in values.values())))
    by_seed = [statistics.fmean(values[category][seed] for category in values) for seed in common]
    if not common:
        by_seed = [statistics.fmean(statistics.fmean(seeds.values()) for seeds in values.values())]
    spread = [value for seeds in values.values() for value in seeds.values()] if paired else by_seed
    std = statistics.stdev(spread) if len(spread) > 1 else None
    cell = replace(cell, measured=statistics.fmean(by_seed), std=std, seeds=tuple(common))
    if not common:
        return cell
    cell = replace(cell, seeds_left_out=tuple(sorted(set().union(*values.values()) - set(common))))
    if paired:  # whose spread is of the seeds left out as well
        return cell
    return replace(cell, records=tuple(record for record in cell.records if record.spec.seed in common))
