"""From a table to the runs it needs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from anomaly_bench.bench.catalog import load_dataset
from anomaly_bench.bench.profiles import Profile
from anomaly_bench.bench.resolve import NETWORKS, SAME, category_names, resolve
from anomaly_bench.bench.spec import PlannedRun
from anomaly_bench.errors import UserError, nearest
from anomaly_bench.tables.spec import ALL, EXPERIMENTS, Query, TableSpec


class LeftOutError(UserError):
    """The profile has no such variant, so the cell stays empty, which is no mistake of the user's."""


def query_categories(query: Query, profile: Profile, data_root: Path) -> list[str]:
    """The categories of a cell, `all` spelled out; raises UserError for one that does not exist."""
    assert query.dataset is not None
    if query.categories == (ALL,):
        return list(profile.categories) or category_names(query.dataset, data_root)
    if not set(query.categories) <= set(category_names(query.dataset, data_root)):
        for category in query.categories:
            load_dataset(query.dataset).check_category(data_root, category)
    return list(query.categories)


def cell_runs(query: Query, profile: Profile, data_root: Path, *, table: str, seed: int = 0) -> list[PlannedRun]:
    """The runs of one cell, one a category, for one seed; those that it is relative to are not among them.

    Raises:
        LeftOutError: the query names a network that the profile does not have.
        UserError: an option, a value or a category is wrong; names the table's file and what is wrong.
    """
    assert query.method is not None
    assert query.dataset is not None
    settings = _with_named_networks(dict(query.options), profile)
    try:
        categories = query_categories(query, profile, data_root)
        spec, evaluation = resolve(query.method, query.dataset, "", profile, seed=seed, settings=settings)
        return [PlannedRun(replace(spec, category=category), evaluation) for category in categories]
    except UserError as error:
        raise UserError(f"{EXPERIMENTS / table}.yaml: {error}") from error


def _with_named_networks(settings: dict[str, Any], profile: Profile) -> dict[str, Any]:
    for role in NETWORKS:
        named = settings.get(role)
        if named is None or str(named).partition(".")[0] == SAME:
            continue
        network = profile.named_network(named)
        if network is None:
            raise LeftOutError(f"left out of profile {profile.name}: needs {named}")
        settings[role] = network
    return settings


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
        UserError: a category that the table does not have, or any where the profile leaves nothing of the table.
    """
    asked = [table.query(row, column) for row in table.rows for column in table.columns]
    queries = dict.fromkeys(part for query in asked for part in (query, query.partner) if part and part.measurable)
    runs: dict[PlannedRun, None] = {}
    for seed, query in itertools.product(profile.seeds if seeds is None else seeds, queries):
        with suppress(LeftOutError):
            runs.update(dict.fromkeys(cell_runs(query, profile, data_root, table=table.name, seed=seed)))
    known = {run.spec.category for run in runs}
    if categories and not known:
        raise UserError(f"profile {profile.name} trains nothing for {table.name}; choose another --profile.")
    for category in categories or ():
        if category not in known:
            raise UserError(f"{table.name} has no category '{category}'{nearest(category, known)}")
    return [run for run in runs if categories is None or run.spec.category in categories]
