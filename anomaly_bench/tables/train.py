"""Train what is to be done for a table: who works, how long is left, and what went wrong."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from anomaly_bench.bench.launch import start_engine
from anomaly_bench.bench.launch.engine import Engine, hand_out
from anomaly_bench.bench.launch.work import Job, Outcome
from anomaly_bench.bench.progress import say
from anomaly_bench.bench.spec import PlannedRun
from anomaly_bench.bench.store import Store
from anomaly_bench.tables.suite import duration
from anomaly_bench.tables.work_list import Work


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
