"""Obtain a table's runs one after the other, saying what will be done, what is done, and how long is left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from anomaly_bench.bench.execute import Places, RunFailedError, open_data
from anomaly_bench.bench.obtain import Obtained, compare_evidence, obtain
from anomaly_bench.bench.progress import say
from anomaly_bench.bench.store import Record, Store, StoreError
from anomaly_bench.errors import UserError
from anomaly_bench.tables.plan import PlannedRun


@dataclass(frozen=True)
class Work:
    """A table's runs by what is to be done with them."""

    done: list[PlannedRun]
    to_do: list[PlannedRun]
    without_data: list[PlannedRun]


def sort_work(runs: Sequence[PlannedRun], places: Places, store: Store, *, asked_for: bool) -> Work:
    """Look at the store and the data, train nothing.

    Args:
        runs: the table's runs.
        places: where data and weights are.
        store: where records are.
        asked_for: the user named the categories, so that missing data is an error and not an empty cell.

    Raises:
        UserError: a record was made from other data or weights; or the data of all runs (of any, if asked for) miss.
    """
    work = Work([], [], [])
    missing: UserError | None = None
    compared = []  # evidence that was compared already: seeds share it, and hashing a category takes a moment
    for run in runs:
        record = store.load(run.spec.run_id)
        if isinstance(record, Record):
            if (run.spec.category, record.evidence) not in compared:
                compare_evidence(record, places)
                compared.append((run.spec.category, record.evidence))
            (work.done if run.evaluation.eval_id in record.evaluations else work.to_do).append(run)
            continue
        try:
            open_data(run.spec, places)
        except UserError as error:
            missing = error
            work.without_data.append(run)
        else:
            work.to_do.append(run)
    if missing and (asked_for or not (work.done or work.to_do)):
        raise missing
    return work


def describe(work: Work) -> str:
    """What will be done, in a few lines."""
    lines = [f"{len(work.done)} runs are done, {len(work.to_do)} are to do."]
    if work.without_data:
        names = sorted({f"{run.spec.dataset}/{run.spec.category}" for run in work.without_data})
        lines.append(f"No data for {len(names)} categories, whose cells stay empty: {', '.join(names)}.")
    lines += [f"  to do: {run.spec.title} [{run.spec.run_id}]" for run in work.to_do]
    return "\n".join(lines)


def do_work(work: Work, places: Places, store: Store) -> list[Exception]:
    """Every run that is to do; what went wrong with those that failed, which does not stop the others.

    Raises:
        StoreError: the results folder cannot be written to.
    """
    failures: list[Exception] = []
    start = time.monotonic()
    for number, run in enumerate(work.to_do, start=1):
        say(f"[{number} of {len(work.to_do)}] {run.spec.title}")
        try:
            obtained: Obtained = obtain(run.spec, run.evaluation, places, store)
        except StoreError:
            raise  # no other run could be stored either
        except (RunFailedError, UserError) as error:
            failures.append(error)
            say(f"  {error}")
            continue
        spent = time.monotonic() - start
        left = spent / number * (len(work.to_do) - number)
        auroc = obtained.record.evaluations[run.evaluation.eval_id]["metrics"]["image_auroc"]
        shown = "undefined" if auroc is None else f"{auroc:.4f}"
        say(f"  {obtained.how}, image AUROC {shown}; {duration(spent)} spent, about {duration(left)} left")
    return failures


def duration(seconds: float) -> str:
    """`2 h 5 min`, `3 min 20 s` or `7 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
