"""Obtain a table's runs: what will be done, what is done, how long is left, and what went wrong."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from anomaly_bench.bench.catalog import load_method
from anomaly_bench.bench.execute import has_weights, open_data
from anomaly_bench.bench.launch import start_engine
from anomaly_bench.bench.launch.engine import Engine, hand_out
from anomaly_bench.bench.launch.work import Job, Outcome, with_half_the_batch
from anomaly_bench.bench.obtain import compare_evidence
from anomaly_bench.bench.places import Places
from anomaly_bench.bench.profiles import load_profile
from anomaly_bench.bench.progress import say
from anomaly_bench.bench.spec import PlannedRun
from anomaly_bench.bench.store import STANDS_IN, Failure, Record, Store, UnfitRecordError
from anomaly_bench.errors import UserError
from anomaly_bench.tables.suite import duration

LITE = str(load_profile("lite").settings["teacher"])
SHOWN = 40  # runs that are named before they are done


@dataclass(frozen=True)
class Work:
    """A table's runs by what is to be done with them; those in `failed` are not tried again."""

    done: list[PlannedRun] = field(default_factory=list)
    to_do: list[PlannedRun] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    without_data: list[PlannedRun] = field(default_factory=list)
    without_weights: list[PlannedRun] = field(default_factory=list)
    missing_networks: set[str] = field(default_factory=set)  # whose weights those lack


@dataclass(frozen=True)
class Workers:
    """Who works: `--launcher`, `--workers` and, by name, submitit's parameters."""

    launcher: str = "local"
    count: int = 1
    slurm: Mapping[str, str] = field(default_factory=dict)

    @property
    def in_this_process(self) -> bool:
        return self.launcher == "local" and self.count == 1

    def start(self, job: Job) -> Engine:
        return start_engine(self.launcher, self.count, job, self.slurm)


def sort_work(
    runs: Sequence[PlannedRun],
    places: Places,
    store: Store,
    *,
    asked_for: bool,
    retry_failed: bool = False,
    replace_unfit: bool = False,
    download: bool = True,
) -> Work:
    """Look at the store, the data and the weights, train nothing.

    Args:
        runs: the table's runs.
        places: where data and weights are.
        store: where records are.
        asked_for: the user named the categories, so that missing data is an error and not an empty cell.
        retry_failed: only runs that failed are to do.
        replace_unfit: runs that were made from other data or weights are to do.
        download: weights that are not here are fetched, and runs whose weights cannot be had are not to do.

    Raises:
        UnfitRecordError: a record was made from other data or weights, and is not to be replaced.
        UserError: the data of all runs (of any, if asked for) miss, or the weights of all.
    """
    work = Work()
    missing: UserError | None = None
    found = dict[str, bool]()  # networks, and whether their weights are
    # Category and evidence, and whether that is what is at hand: seeds share it, and hashing a category takes a moment.
    compared = list[tuple[str, dict[str, Any], bool]]()
    for run in runs:
        entry = store.load(run.spec.run_id)
        if isinstance(entry, Record) and _made_from_what_is_at_hand(
            entry, places, compared, replace_unfit=replace_unfit
        ):
            (work.done if run.evaluation.eval_id in entry.evaluations else work.to_do).append(run)
            continue
        if isinstance(entry, Failure) and entry.final and not retry_failed:
            if _has_stand_in(run, store):
                work.done.append(run)
            else:
                work.failed.append(entry)
            continue
        load_method(run.spec.method).require()
        try:
            open_data(run.spec, places)
        except UserError as error:
            missing = missing or error
            work.without_data.append(run)
            continue
        if entry is None and retry_failed:
            continue
        lacking = _lacking_weights(run, places, found, download=download)
        work.missing_networks.update(lacking)
        (work.without_weights if lacking and download else work.to_do).append(run)
    in_vain = not (work.done or work.to_do or work.failed or retry_failed)  # nothing to retry is no fault
    if missing and (asked_for or (in_vain and not work.without_weights)):
        raise missing
    if work.without_weights and not (work.done or work.to_do or work.failed):
        raise UserError(explain_missing_weights(work))
    return work


def _made_from_what_is_at_hand(
    record: Record, places: Places, compared: list[tuple[str, dict[str, Any], bool]], *, replace_unfit: bool
) -> bool:
    for category, evidence, same in compared:
        if (category, evidence) == (record.spec.category, record.evidence):
            return same
    try:
        compare_evidence(record, places)
        same = True
    except UnfitRecordError:
        if not replace_unfit:
            raise
        same = False
    compared.append((record.spec.category, record.evidence, same))
    return same


def _has_stand_in(run: PlannedRun, store: Store) -> bool:
    """Whether the cells of a run that found too little memory show one at half its batch."""
    batch = run.spec.protocol.batch_size
    record = store.load(with_half_the_batch(run.spec).run_id) if batch > 1 else None
    return (
        isinstance(record, Record)
        and batch in record.provenance.get(STANDS_IN, [])
        and run.evaluation.eval_id in record.evaluations
    )


def _lacking_weights(run: PlannedRun, places: Places, found: dict[str, bool], *, download: bool) -> list[str]:
    """The run's networks whose weights cannot be had, or without `download` are not here."""
    networks = run.spec.protocol.networks
    for role, name in networks.items():
        if name not in found:
            found[name] = has_weights(name, role, places.weights_dir, download=download)
    return [name for name in networks.values() if not found[name]]


def explain_missing_weights(work: Work) -> str:
    """Which weights cannot be had, and what to do; one sentence for all runs that lack them."""
    names = sorted(work.missing_networks)
    file = names[0].partition(".")[0]
    smaller = "smoke, which needs no file" if LITE in names else f"lite, which needs {LITE} alone"
    return (
        f"no weights for {', '.join(names)}, for {_count(work.without_weights)} of the runs: connect to the Hugging "
        f"Face hub once, or put a file named after each ({file}*.safetensors or {file}*.pth) into --weights-dir "
        f"(make: WEIGHTS=FOLDER), or choose --profile {smaller}."
    )


def _count(runs: Sequence[PlannedRun]) -> int:
    """Trainings; several evaluations of one are one."""
    return len({run.spec.run_id for run in runs})


def describe(work: Work) -> str:
    """What will be done, in a few lines."""
    failed = f", {len(work.failed)} failed before (--retry-failed tries them again)" if work.failed else ""
    lines = [f"{len(work.done)} runs are done, {len(work.to_do)} are to do{failed}."]
    if work.without_data:
        names = sorted({f"{run.spec.dataset}/{run.spec.category}" for run in work.without_data})
        lines.append(f"No data for {len(names)} categories, whose cells stay empty: {', '.join(names)}.")
    if work.without_weights:
        lines.append(f"No weights for {', '.join(sorted(work.missing_networks))}: {_count(work.without_weights)} runs "
                     "cannot be trained, and their cells stay empty.")  # fmt: skip
    elif work.missing_networks:
        lines.append(f"The weights of {', '.join(sorted(work.missing_networks))} are not here: they are fetched from "
                     "the Hugging Face hub when training starts.")  # fmt: skip
    for spec in (run.spec for run in work.to_do[:SHOWN]):
        lines.append(f"  to do: {spec.title} ({spec.protocol.summary}) [{spec.run_id}]")
    if len(work.to_do) > SHOWN:
        lines.append(f"  to do: {len(work.to_do) - SHOWN} more")
    return "\n".join(lines)


def do_work(work: Work, job: Job, workers: Workers) -> list[str]:
    """Every run that is to do; a sentence for each that failed, which does not stop the others.

    A run that another process is at is left to it, and waited for at the end.

    Raises:
        StoreError: the results folder cannot be written to.
        UserError: the workers cannot be started.
    """
    if not work.to_do:
        return []
    store, view = Store(job.places.results), Overview(len(work.to_do), workers.count)
    store.sweep()
    with _ended_by_sigterm(), workers.start(job) as engine:
        elsewhere = []
        for run, outcome in hand_out(engine, work.to_do, view.show_running, wait=False):
            if outcome.ending == "elsewhere":
                elsewhere.append(run)
                continue
            view.end(run, outcome)
        if elsewhere:
            say(f"another process is at {len(elsewhere)} of the runs; waiting for it.")
        for run, outcome in hand_out(engine, elsewhere, view.show_running, wait=True):
            view.end(run, outcome)
    view.close()
    store.sweep()
    return view.failures


class Overview:
    """One view of all workers: a bar, or a line for each run that ends where there is no terminal."""

    def __init__(self, total: int, workers: int) -> None:
        self.total, self.workers, self.ended, self.running = total, workers, 0, 0
        self.failures: list[str] = []
        self.start = time.monotonic()
        self.bar: tqdm[Any] = tqdm(total=total, desc="runs", unit="run", disable=None)

    def show_running(self, count: int) -> None:
        """So many runs are handed out; those above the number of workers wait for one in a cluster's queue."""
        self.running = count
        self.bar.set_postfix_str(self._state())

    def end(self, run: PlannedRun, outcome: Outcome) -> None:
        """One more has ended."""
        self.ended, self.running = self.ended + 1, max(self.running - 1, 0)
        if outcome.ending == "failed":
            self.failures.append(outcome.reason)
        self.bar.set_postfix_str(self._state(), refresh=False)
        self.bar.update()
        spent = time.monotonic() - self.start
        left = spent / self.ended * (self.total - self.ended)
        times = f"{duration(spent)} spent, about {duration(left)} left"
        say(f"[{self.ended} of {self.total}] {_line(run, outcome)}; {self._state()}; {times}")

    def _state(self) -> str:
        return f"{min(self.running, self.workers)} running, {len(self.failures)} failed"

    def close(self) -> None:
        self.bar.close()


def _line(run: PlannedRun, outcome: Outcome) -> str:
    if outcome.ending == "failed":
        return outcome.reason.rstrip(".")
    shown = "undefined" if outcome.image_auroc is None else f"{outcome.image_auroc:.4f}"
    return f"{run.spec.label}: {outcome.ending}, image AUROC {shown}"


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the workers first, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit(*_: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)
