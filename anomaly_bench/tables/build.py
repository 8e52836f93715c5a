"""A table as a pure function of its YAML, the records and the printed numbers: no time, no host, a fixed order."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
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
from anomaly_bench.tables.sharing import Kept, grouped, to_cut
from anomaly_bench.tables.spec import Line, Query, TableSpec

BySeed = dict[int, float]
EVERYTHING = Kept()


@dataclass(frozen=True)
class Cell:
    """One cell; its numbers are in `unit`.

    Attributes:
        printed: what the paper prints.
        measurable: whether this suite measures it at all, or only quotes it.
        measure: what kind of number it is, None where it is only quoted.
        measured: mean over categories and seeds, or None with a `reason`.
        std: standard deviation over seeds (of a cell relative to another: over pairs), or None with fewer than two.
        seeds: seeds that are in, of `seeds_planned`.
        seeds_left_out: those that only some of the categories have.
        seeds_unshared: those that were measured and that other cells to be compared lack.
        seeds_differ: whether cells to be compared are of different seeds all the same.
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
    seeds_unshared: tuple[int, ...] = ()
    seeds_differ: bool = False
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
    def is_partial(self) -> bool:
        """Whether it is a mean over some of its categories alone."""
        return 0 < len(self.categories) < self.categories_planned

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
    half-measured ablation can be compared; a mean over all categories stays one. Then cells of one metric over the same
    categories are cut down to the seeds that they share: a variant of one seed is held against that seed of the others.

    Args:
        table: the table, already on the profile's data set.
        profile: the profile.
        index: the store.
        printed: the paper's numbers.
        data_root: only asked for category names where a data set has no official list.
    """
    context = _Context(table, profile, index, printed, data_root)
    places = list(itertools.product(table.rows, table.columns))
    cells = {place: context.cell(*place) for place in places}
    for alike in grouped((context.kind(*place), place) for place in places if cells[place].is_partial):
        for place, categories in to_cut({place: frozenset(cells[place].categories) for place in alike}):
            cells[place] = context.cell(*place, Kept(categories))
    for alike in grouped(((context.kind(*place), cells[place].categories), place) for place in places):
        for place, seeds in to_cut({place: frozenset(cells[place].seeds) for place in alike if cells[place].seeds}):
            cells[place] = context.cell(*place, Kept(frozenset(cells[place].categories), seeds))
        if len({cells[place].seeds for place in alike if cells[place].records}) > 1:
            cells |= {place: replace(cells[place], seeds_differ=bool(cells[place].records)) for place in alike}
    by_name = {(row.name, column.name): cell for (row, column), cell in cells.items()}
    rows = [
        [_against_reference(cells[row, column], row, column, by_name, index) for column in table.columns]
        for row in table.rows
    ]
    return BuiltTable(table, profile, rows)


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

    def cell(self, row: Line, column: Line, kept: Kept = EVERYTHING) -> Cell:
        """One cell, of what is `kept` of its categories and seeds."""
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
        filled = _fill(cell, query, runs, partners, self.index, kept)
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
        if printed is None or cell.caveat or not (row.is_compared_in(column) and column.is_compared_in(row)):
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
    kept: Kept,
) -> Cell:
    """With what the runs of a cell measured, category by category and seed by seed; or the reason for nothing."""
    values: dict[str, BySeed] = {}
    records: list[Record] = []
    left_out: list[str] = []
    planned, reasons = len(runs), dict[str, None]()
    for position, run in enumerate(runs):
        try:
            found, used = _values(run, partners[position] if partners else None, query, index)
            if kept.categories is not None and run.spec.category not in kept.categories:
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
    return _with_statistics(cell, values, kept.seeds, paired=partners is not None)


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


def _with_statistics(cell: Cell, values: dict[str, BySeed], kept: frozenset[int] | None, *, paired: bool) -> Cell:
    """Mean over categories, seed by seed, of the seeds that every category has; the spread is that of these seeds.

    Where no seed is common to all categories there is a mean of each category's own, and no spread. A cell that is
    `paired` with another has the spread of the pairs of these seeds.
    """
    everywhere = set.intersection(*(set(by_seed) for by_seed in values.values()))
    common = sorted(everywhere if kept is None else everywhere & kept)
    if not common:
        own = [statistics.fmean(seeds.values()) for seeds in values.values()]
        return replace(cell, measured=statistics.fmean(own))
    by_seed = [statistics.fmean(values[category][seed] for category in values) for seed in common]
    spread = [values[category][seed] for category in values for seed in common] if paired else by_seed
    return replace(
        cell,
        measured=statistics.fmean(by_seed),
        std=statistics.stdev(spread) if len(spread) > 1 else None,
        seeds=tuple(common),
        seeds_left_out=tuple(sorted(set().union(*values.values()) - everywhere)),
        seeds_unshared=tuple(sorted(everywhere - set(common))),
        records=tuple(record for record in cell.records if record.spec.seed in common),
    )
