"""A table as a pure function of its YAML, the records and the printed numbers: no time, no host, a fixed order."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from anomaly_bench.bench.profiles import Profile
from anomaly_bench.bench.spec import EvalSpec, RunSpec
from anomaly_bench.bench.store import Failure, Record
from anomaly_bench.tables.plan import PlannedRun, cell_runs
from anomaly_bench.tables.printed import NOTHING, PrintedCell, PrintedTable
from anomaly_bench.tables.spec import Line, Query, TableSpec

PERCENT = 100.0


@dataclass(frozen=True)
class Cell:
    """One cell, in percent.

    Attributes:
        printed: what the paper prints.
        measurable: whether this suite measures it at all, or only quotes it.
        measured: mean over categories and seeds, or None with a `reason`.
        std: standard deviation over seeds, or None with fewer than two.
        seeds: seeds that are in, of `seeds_planned`.
        categories: categories that are in, of `categories_planned`.
        printed_over_same: the mean of what the paper prints for just these categories.
        difference: measured minus printed, over the same categories; None where nothing fair can be said.
        reason: why nothing is measured.
        caveat: what is wrong with what is measured; such a cell has no difference.
        records: the runs behind it.
    """

    printed: PrintedCell = NOTHING
    measurable: bool = False
    measured: float | None = None
    std: float | None = None
    seeds: tuple[int, ...] = ()
    seeds_planned: int = 0
    categories: tuple[str, ...] = ()
    categories_planned: int = 0
    printed_over_same: float | None = None
    difference: float | None = None
    reason: str = ""
    caveat: str = ""
    records: tuple[Record, ...] = ()


@dataclass(frozen=True)
class BuiltTable:
    """A table with its cells filled: `cells[row][column]`."""

    spec: TableSpec
    profile: Profile
    cells: list[list[Cell]]

    @property
    def records(self) -> list[Record]:
        """Every run that a cell shows, sorted by id."""
        used = {record.spec.run_id: record for row in self.cells for cell in row for record in cell.records}
        return [used[run_id] for run_id in sorted(used)]


@dataclass
class Index:
    """The store's content by what a cell can ask for."""

    records: dict[RunSpec, list[Record]] = field(default_factory=dict)  # by spec without its seed
    failures: dict[RunSpec, list[Failure]] = field(default_factory=dict)
    revisions: dict[RunSpec, list[RunSpec]] = field(default_factory=dict)  # by spec without seed and revisions

    @classmethod
    def of(cls, loaded: Iterable[Record | Failure]) -> Index:
        index = cls()
        for entry in loaded:
            if isinstance(entry, Failure):
                index.failures.setdefault(entry.spec.any_seed(), []).append(entry)
            else:
                index.records.setdefault(entry.spec.any_seed(), []).append(entry)
                index.revisions.setdefault(entry.spec.any_revision(), []).append(entry.spec)
        for records in index.records.values():
            records.sort(key=lambda record: record.spec.seed)
        return index


def build_table(table: TableSpec, profile: Profile, index: Index, printed: PrintedTable, data_root: Path) -> BuiltTable:
    """Fill every cell with what the paper prints and what the records say.

    Args:
        table: the table, already on the profile's data set.
        profile: the profile.
        index: the store.
        printed: the paper's numbers.
        data_root: only asked for category names where a data set has no official list.
    """
    context = _Context(table, profile, index, printed, data_root)
    return BuiltTable(table, profile, [[context.cell(row, column) for column in table.columns] for row in table.rows])


@dataclass(frozen=True)
class _Context:
    table: TableSpec
    profile: Profile
    index: Index
    printed: PrintedTable
    data_root: Path

    def cell(self, row: Line, column: Line) -> Cell:
        query = self.table.query(row, column)
        cell = Cell(printed=self.printed.get((row.printed, column.printed), NOTHING))
        if not query.measurable:
            return cell
        runs = cell_runs(query, self.profile, self.data_root, table=self.table.name)
        found = {run.spec.category: self._records(run, query) for run in runs}
        there = {category: records for category, records in found.items() if records}
        cell = replace(
            cell,
            measurable=True,
            categories=tuple(there),
            categories_planned=len(runs),
            seeds_planned=len(self.profile.seeds),
            caveat=_caveat(there),
            records=tuple(record for records in there.values() for record in records),
        )
        if not there:
            return replace(cell, reason=self._reason(runs, query))
        return self._compared(_with_statistics(cell, there, runs[0].evaluation, query), row, column)

    def _records(self, run: PlannedRun, query: Query) -> list[Record]:
        """The records of one category, all seeds, that hold the metric under the right evaluation."""
        records = self.index.records.get(run.spec.any_seed(), [])
        return [record for record in records if _metric(record, run.evaluation, query) is not None]

    def _reason(self, runs: Sequence[PlannedRun], query: Query) -> str:
        reasons = dict.fromkeys(self._why_missing(run, query) for run in runs)
        return "; ".join(reasons)

    def _why_missing(self, run: PlannedRun, query: Query) -> str:
        assert query.metric is not None
        for record in self.index.records.get(run.spec.any_seed(), []):
            entry = record.evaluations.get(run.evaluation.eval_id)
            if entry is not None:
                return f"undefined: {entry['undefined'].get(query.metric, 'no such metric in the record')}"
            own = record.evaluations[record.evaluation]["spec"]["metrics_revision"]
            if own != run.evaluation.metrics_revision:
                return f"stale: metrics revision {own}, now {run.evaluation.metrics_revision}"
            return "not evaluated by this rule"
        for failure in self.index.failures.get(run.spec.any_seed(), []):
            return f"failed: {failure.reason}"
        for old in self.index.revisions.get(run.spec.any_revision(), []):
            return _stale(old, run.spec)
        return "not run"

    def _compared(self, cell: Cell, row: Line, column: Line) -> Cell:
        """With the difference, where both sides are means over the same categories of the same data set."""
        measured = cell.measured
        assert measured is not None
        if self.profile.dataset is not None:
            return cell
        if len(cell.categories) == cell.categories_planned:
            printed = cell.printed.value
        else:
            printed = self._printed_over(cell.categories, column)
            cell = replace(cell, printed_over_same=printed)
        if printed is None or cell.caveat or not (row.compare and column.compare):
            return cell
        return replace(cell, difference=measured - printed)

    def _printed_over(self, categories: Sequence[str], column: Line) -> float | None:
        """The mean of the column's printed values over some categories, where each has a row of its own."""
        rows = {row.query.categories[0]: row for row in self.table.rows if len(row.query.categories) == 1}
        cells = [
            self.printed.get((rows[category].printed, column.printed), NOTHING) if category in rows else NOTHING
            for category in categories
        ]
        values = [cell.value for cell in cells if cell.value is not None]
        return statistics.fmean(values) if len(values) == len(categories) else None


def _stale(old: RunSpec, new: RunSpec) -> str:
    if old.method_revision != new.method_revision:
        return f"stale: {new.method} revision {old.method_revision}, now {new.method_revision}"
    return f"stale: {new.dataset} revision {old.data_revision}, now {new.data_revision}"


def _metric(record: Record, evaluation: EvalSpec, query: Query) -> float | None:
    assert query.metric is not None
    entry = record.evaluations.get(evaluation.eval_id)
    value: float | None = entry["metrics"].get(query.metric) if entry else None
    return value


def _caveat(there: dict[str, list[Record]]) -> str:
    """Names the categories of which images are missing: their numbers are not those of the data set."""
    incomplete = [
        category
        for category, records in there.items()
        if any(record.evidence["data"]["complete"] is False for record in records)
    ]
    return f"on INCOMPLETE data ({', '.join(incomplete)}), so no difference is given" if incomplete else ""


def _with_statistics(cell: Cell, there: dict[str, list[Record]], evaluation: EvalSpec, query: Query) -> Cell:
    """Mean over categories, seed by seed, of the seeds that every category has; the spread is that of these seeds.

    Where no seed is common to all categories there is a mean of each category's own, and no spread.
    """
    values = {
        category: {
            record.spec.seed: PERCENT * value
            for record in records
            if (value := _metric(record, evaluation, query)) is not None
        }
        for category, records in there.items()
    }
    common = sorted(set.intersection(*(set(by_seed) for by_seed in values.values())))
    by_seed = [statistics.fmean(values[category][seed] for category in values) for seed in common]
    if not common:
        by_seed = [statistics.fmean(statistics.fmean(seeds.values()) for seeds in values.values())]
    std = statistics.stdev(by_seed) if len(by_seed) > 1 else None
    return replace(cell, measured=statistics.fmean(by_seed), std=std, seeds=tuple(common))
