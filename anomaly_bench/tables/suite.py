"""All tables together: which runs they need, how many tables share, and how long they will take."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from anomaly_bench.bench.profiles import Profile
from anomaly_bench.bench.spec import PlannedRun, RunSpec
from anomaly_bench.bench.store import Record, Store
from anomaly_bench.errors import UserError, nearest
from anomaly_bench.tables.plan import table_runs
from anomaly_bench.tables.publish import profile_table
from anomaly_bench.tables.spec import table_names

Suite = dict[str, list[PlannedRun]]


def suite_runs(
    profile: Profile, data_root: Path, *, categories: Sequence[str] | None = None, seeds: Sequence[int] | None = None
) -> Suite:
    """Every table's runs by its name; `categories` and `seeds` limit them.

    Raises:
        UserError: a category that no table has.
    """
    tables = [profile_table(name, profile, data_root) for name in table_names()]
    suite = {table.name: table_runs(table, profile, data_root, seeds=seeds) for table in tables}
    known = {run.spec.category for runs in suite.values() for run in runs}
    for category in categories or ():
        if category not in known:
            raise UserError(f"no table has a category '{category}'{nearest(category, known)}")
    if categories is None:
        return suite
    return {name: [run for run in runs if run.spec.category in categories] for name, runs in suite.items()}


def describe_suite(suite: Suite, store: Store) -> str:
    """One line a paper and one for all: distinct runs, those that are done, and an estimate for the others."""
    records = [entry for entry in store if isinstance(entry, Record)]
    done, seconds = {record.spec for record in records}, _seconds_by_kind(records)
    papers = dict.fromkeys(name.split("/")[0] for name in suite)
    lines = [
        _line(paper, {name: runs for name, runs in suite.items() if name.startswith(f"{paper}/")}, done, seconds)
        for paper in papers
    ]
    return "\n".join([*lines, _line("all papers", suite, done, seconds)])


def _line(title: str, suite: Mapping[str, list[PlannedRun]], done: set[RunSpec], seconds: Mapping[str, float]) -> str:
    needed = list(dict.fromkeys(run.spec for runs in suite.values() for run in runs))
    shown = sum(len({run.spec for run in runs}) for runs in suite.values())
    to_do = [spec for spec in needed if spec not in done]
    known = [seconds[kind] for kind in map(_kind, to_do) if kind in seconds]
    parts = [
        f"{title}: {len(suite)} tables show {shown} runs, {len(needed)} distinct",
        f"{len(needed) - len(to_do)} done, {len(to_do)} to do",
    ]
    if known:
        parts.append(f"about {duration(sum(known))} for {len(known)} of these, as long as records of their kind took")
    if len(known) < len(to_do):
        parts.append(f"no record tells how long {len(to_do) - len(known)} take")
    return "; ".join(parts) + "."


def _seconds_by_kind(records: Iterable[Record]) -> dict[str, float]:
    """Median seconds of a run, to train and to evaluate, by what mostly decides them."""
    kinds: dict[str, list[float]] = {}
    for record in records:
        spent = record.cost["seconds_train"] + record.cost["seconds_evaluate"]
        kinds.setdefault(_kind(record.spec), []).append(spent)
    return {kind: statistics.median(seconds) for kind, seconds in kinds.items()}


def _kind(spec: RunSpec) -> str:
    """Runs of one kind take about equally long, whatever their category and their options."""
    protocol = spec.protocol
    size = (protocol.epochs, protocol.image_size, spec.train_images, spec.test_images)
    return repr((spec.method, spec.dataset, protocol.teacher, protocol.student, size))


def duration(seconds: float) -> str:
    """`2 h 5 min`, `3 min 20 s` or `7 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
