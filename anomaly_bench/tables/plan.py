"""From a table to the runs it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from anomaly_bench.bench.catalog import load_dataset
from anomaly_bench.bench.profiles import Profile
from anomaly_bench.bench.resolve import resolve
from anomaly_bench.bench.spec import EvalSpec, RunSpec
from anomaly_bench.errors import UserError, nearest
from anomaly_bench.tables.spec import ALL, EXPERIMENTS, Query, TableSpec


@dataclass(frozen=True)
class PlannedRun:
    """One run of a table, and the evaluation that the table reads from it."""

    spec: RunSpec
    evaluation: EvalSpec


def query_categories(query: Query, data_root: Path) -> list[str]:
    """The categories of a cell, `all` spelled out; raises UserError for one that does not exist."""
    assert query.dataset is not None
    dataset = load_dataset(query.dataset)
    if query.categories == (ALL,):
        return dataset.category_names(data_root)
    for category in query.categories:
        dataset.check_category(data_root, category)
    return list(query.categories)


def cell_runs(query: Query, profile: Profile, data_root: Path, *, table: str, seed: int = 0) -> list[PlannedRun]:
    """The runs of one cell, one a category, for one seed."""
    assert query.method is not None
    assert query.dataset is not None
    try:
        return [
            PlannedRun(
                *resolve(query.method, query.dataset, category, profile, seed=seed, settings=dict(query.options))
            )
            for category in query_categories(query, data_root)
        ]
    except UserError as error:
        raise UserError(f"{EXPERIMENTS / table}.yaml: {error}") from error


def table_runs(
    table: TableSpec,
    profile: Profile,
    data_root: Path,
    *,
    categories: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> list[PlannedRun]:
    """Every distinct run of the table, seed by seed, in the order of its cells.

    Args:
        table: the table, already on the profile's data set.
        profile: the profile.
        data_root: where data are.
        categories: only these, or all of the table's where None.
        seeds: only these, or the profile's where None.

    Raises:
        UserError: a category that the table does not have.
    """
    queries = [table.query(row, column) for row in table.rows for column in table.columns]
    runs: dict[PlannedRun, None] = {}
    for seed in profile.seeds if seeds is None else seeds:
        for query in queries:
            if query.measurable:
                runs.update(dict.fromkeys(cell_runs(query, profile, data_root, table=table.name, seed=seed)))
    known = {run.spec.category for run in runs}
    for category in categories or ():
        if category not in known:
            raise UserError(f"{table.name} has no category '{category}'{nearest(category, known)}")
    return [run for run in runs if categories is None or run.spec.category in categories]
