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
Spent = dict[str, dict[str, list[float]]]  # seconds of runs, by device and by kind


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
    """One line a paper and one for all: distinct runs, those that are done, and estimates for the others."""
    records = [entry for entry in store if isinstance(entry, Record)]
    done, spent = {record.spec for record in records}, _seconds_spent(records)
    papers = dict.fromkeys(name.split("/")[0] for name in suite)
    lines = [
        _line(paper, {name: runs for name, runs in suite.items() if name.startswith(f"{paper}/")}, done, spent)
        for paper in papers
    ]
    return "\n".join([*lines, _line("all papers", suite, done, spent)])


def _line(title: str, suite: Mapping[str, list[PlannedRun]], done: set[RunSpec], spent: Spent) -> str:
    needed = list(dict.fromkeys(run.spec for runs in suite.values() for run in runs))
    shown = sum(len({run.spec for run in runs}) for runs in suite.values())
    to_do = [_kind(spec) for spec in needed if spec not in done]
    parts = [
        f"{title}: {len(suite)} tables show {shown} runs, {len(needed)} distinct",
        f"{len(needed) - len(to_do)} done, {len(to_do)} to do",
        *_estimates(to_do, spent),
    ]
    return "; ".join(parts) + "."


def how_long(runs: Sequence[PlannedRun], store: Store) -> str:
    """What the trainings of some runs will take, as far as the store's records tell; nothing where there are none."""
    to_do = [_kind(spec) for spec in dict.fromkeys(run.spec for run in runs)]
    spent = _seconds_spent(entry for entry in store if isinstance(entry, Record))
    return "; ".join(_estimates(to_do, spent))


def _estimates(to_do: Sequence[str], spent: Spent) -> list[str]:
    """One for every device that made runs of these kinds, and how many nobody can tell."""
    told = [_estimate(to_do, device, kinds) for device, kinds in sorted(spent.items()) if kinds.keys() & set(to_do)]
    unknown = sum(all(kind not in kinds for kinds in spent.values()) for kind in to_do)
    return [*told, *([f"no record tells how long {unknown} take"] if unknown else [])]


def _estimate(to_do: Sequence[str], device: str, kinds: Mapping[str, Sequence[float]]) -> str:
    """How long runs take on a device, each as long as the median of the records of its kind that were made there."""
    known = [kind for kind in to_do if kind in kinds]
    seconds = sum(statistics.median(kinds[kind]) for kind in known)
    count = sum(len(kinds[kind]) for kind in set(known))
    source = f"{count} record{'s' if count > 1 else ''} of their kind"
    return f"about {duration(seconds)} for {len(known)} of these on '{device}', from {source}"


def _seconds_spent(records: Iterable[Record]) -> Spent:
    """Seconds of every run, to train and to evaluate, by what decides them: the device, and the kind of run.

    Which device there is now takes PyTorch to know, so that the user is told all of them by name.
    """
    devices: Spent = {}
    timed = (record for record in records if {"seconds_train", "seconds_evaluate"} <= record.cost.keys())
    for record in timed:
        kinds = devices.setdefault(record.device, {})
        seconds = record.cost["seconds_train"] + record.cost["seconds_evaluate"]
        kinds.setdefault(_kind(record.spec), []).append(seconds)
    return devices


def _kind(spec: RunSpec) -> str:
    """Runs of one kind take about equally long, whatever their category and their options."""
    protocol = spec.protocol
    size = (protocol.epochs, protocol.image_size, protocol.precision, spec.train_images, spec.test_images)
    return repr((spec.method, spec.dataset, protocol.teacher, protocol.student, size))


def duration(seconds: float) -> str:
    """`2 h 5 min`, `3 min 20 s` or `7 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
