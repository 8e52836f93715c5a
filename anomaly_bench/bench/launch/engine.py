"""What an engine is, and the loop that keeps it busy."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from anomaly_bench.bench.launch.work import Job, Outcome
from anomaly_bench.bench.spec import PlannedRun
from anomaly_bench.bench.store import Failure, Store, StoreError

LOOK = 0.1  # seconds between two looks at the workers


class Ticket(Protocol):
    """A run that was handed out."""

    def done(self) -> bool:
        """Whether there is an answer, or none to be hoped for."""

    def result(self) -> Outcome:
        """The answer; raises whatever ended the worker without one."""


class Engine(Protocol):
    """Takes runs, and works at several of them at a time; a context manager, whose end is that of its workers.

    Attributes:
        job: what all runs have in common.
        at_once: how many runs it wants to have.
    """

    job: Job
    at_once: int

    def __enter__(self) -> Engine: ...

    def __exit__(self, *_: object) -> None: ...

    def submit(self, runs: Sequence[PlannedRun], *, wait: bool) -> Sequence[Ticket]:
        """Begin with these runs, a ticket each; `wait` for those that another process is at."""

    def why(self, error: Exception) -> str | None:
        """Why a worker ended without an answer, in one sentence; None for an error that is not of that kind."""


class DoneTicket:
    """Of an engine that works at once."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    def done(self) -> bool:
        return True

    def result(self) -> Outcome:
        return self.outcome


class FutureTicket:
    """A run that a library's future stands for."""

    def __init__(self, future: Future[Any]) -> None:
        self.future = future

    def done(self) -> bool:
        return self.future.done()

    def result(self) -> Outcome:
        outcome: Outcome = self.future.result()
        return outcome


def hand_out(
    engine: Engine, runs: Sequence[PlannedRun], watch: Callable[[int], None], *, wait: bool
) -> Iterator[tuple[PlannedRun, Outcome]]:
    """Every run with its outcome, in the order in which they end.

    Args:
        engine: who works.
        runs: what is to be done.
        watch: told how many runs are being worked at, whenever that changes.
        wait: for runs that another process is at, until it is done.

    Raises:
        StoreError: the results folder cannot be written to; runs that are being worked at are given up.
    """
    waiting, running = deque(runs), dict[Ticket, PlannedRun]()
    while waiting or running:
        batch = [waiting.popleft() for _ in range(min(len(waiting), engine.at_once - len(running)))]
        if batch:
            watch(len(running) + len(batch))
            running |= dict(zip(engine.submit(batch, wait=wait), batch, strict=True))
        ended = [ticket for ticket in running if ticket.done()]
        for ticket in ended:
            run = running.pop(ticket)
            yield run, _outcome(ticket, run, engine)
        if not ended:
            time.sleep(LOOK)


def _outcome(ticket: Ticket, run: PlannedRun, engine: Engine) -> Outcome:
    try:
        outcome = ticket.result()
    except Exception as error:
        reason = engine.why(error)
        if reason is None:
            raise
        Store(engine.job.places.results).claim_and_write_failure(Failure(run.spec, reason, final=False))
        return Outcome("failed", f"{run.spec.label} failed: {reason}.")
    if outcome.ending == "stop":
        raise StoreError(outcome.reason)
    return outcome
