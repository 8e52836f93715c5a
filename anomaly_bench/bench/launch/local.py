"""Workers on this machine: this very process, or several of its own."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import tempfile
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from filelock import FileLock, Timeout
from pebble import ProcessExpired, ProcessPool

from anomaly_bench.bench.launch.engine import DoneTicket, FutureTicket, Ticket
from anomaly_bench.bench.launch.work import Job, work
from anomaly_bench.bench.processes import end_with_parent, how_it_ended
from anomaly_bench.bench.spec import PlannedRun
from anomaly_bench.errors import UserError

BROKEN = (
    "a worker ended before its first run (killed, perhaps for want of memory, or unable to begin); start the same "
    "command again, or use --workers 1."
)


class ThisProcess:
    """One run after the other, here."""

    at_once = 1

    def __init__(self, job: Job) -> None:
        self.job = job

    def __enter__(self) -> ThisProcess:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def submit(self, runs: Sequence[PlannedRun], *, wait: bool) -> Sequence[Ticket]:
        return [DoneTicket(work(run, self.job, wait=wait)) for run in runs]

    def why(self, error: Exception) -> str | None:
        return None


class Processes:
    """So many processes, each with its share of the cores and of one GPU; a killed one is replaced.

    Args:
        job: what all runs have in common.
        workers: processes.
    """

    def __init__(self, job: Job, workers: int) -> None:
        self.job, self.at_once = job, workers

    def __enter__(self) -> Processes:
        self._slots = Path(tempfile.gettempdir()) / f"anomaly-bench-{os.getpid()}"
        # Not forked: CUDA and the threads of PyTorch do not survive that.
        self._pool = ProcessPool(
            max_workers=self.at_once,
            initializer=_begin,
            initargs=(self._slots, self.at_once),
            context=multiprocessing.get_context("spawn"),
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()
        shutil.rmtree(self._slots, ignore_errors=True)

    def submit(self, runs: Sequence[PlannedRun], *, wait: bool) -> Sequence[Ticket]:
        try:
            return [FutureTicket(self._pool.schedule(work, (run, self.job), {"wait": wait})) for run in runs]
        except RuntimeError as error:  # so the pool says that it has broken down since
            raise UserError(BROKEN) from error

    def why(self, error: Exception) -> str | None:
        """See `Engine.why`.

        Raises:
            UserError: a worker ended while none was at a run, which is the end of the pool.
        """
        if isinstance(error, BrokenProcessPool):
            raise UserError(BROKEN) from error
        if not isinstance(error, ProcessExpired):
            return None
        return f"its process {how_it_ended(error.exitcode)}"


def _begin(slots: Path, workers: int) -> None:
    """In a new worker, before its first run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal; the parent decides
    end_with_parent()
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    gpus = torch.cuda.device_count()  # asks the driver, starts nothing
    if gpus:
        gpu, share = gpu_share(_slot(slots, workers), gpus, workers)
        os.environ["CUDA_VISIBLE_DEVICES"] = _visible(gpu)
        torch.cuda.set_per_process_memory_fraction(share)


_held: list[FileLock] = []


def _slot(slots: Path, workers: int) -> int:
    """This worker's number: one that no living worker has; held as long as this process lives."""
    slots.mkdir(exist_ok=True)
    for number in range(workers):
        lock = FileLock(slots / f"{number}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            continue
        _held.append(lock)
        return number
    raise RuntimeError(f"more than {workers} workers at a time")


def gpu_share(slot: int, gpus: int, workers: int) -> tuple[int, float]:
    """Which GPU a worker uses, and the part of its memory that it may take, in (0, 1]."""
    gpu = slot % gpus
    sharing = len(range(gpu, workers, gpus))
    return gpu, 1.0 if sharing == 1 else 0.95 / sharing  # the rest is what CUDA takes for each, outside PyTorch's count


def _visible(gpu: int) -> str:
    """The name of the `gpu`-th of those that the user lets us see."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return named.split(",")[gpu] if named else str(gpu)
