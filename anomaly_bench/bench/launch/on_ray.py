"""Workers of a Ray cluster: that of RAY_ADDRESS, or one on this machine."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from anomaly_bench.bench.launch.engine import FutureTicket, Ticket
from anomaly_bench.bench.launch.work import Job, work
from anomaly_bench.bench.spec import PlannedRun
from anomaly_bench.errors import UserError

KNOCK = 10.0  # seconds
PRECISION = 10000  # parts of a unit that Ray tells apart
MOVES = 3  # how often a run whose node is lost begins again on another one, from its last checkpoint


class RayEngine:
    """So many tasks, each with its share of a node's cores and GPUs. All nodes need the same folders.

    Args:
        job: what all runs have in common.
        workers: tasks at a time.

    Raises:
        UserError: Ray is not installed, or the cluster does not answer or has no CPU.
    """

    def __init__(self, job: Job, workers: int) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError("--launcher ray needs Ray; pip install 'anomaly-bench[ray]'.") from error
        self.job, self.at_once = job, workers
        self._ray = ray
        self._running: list[Any] = []

    def __enter__(self) -> RayEngine:
        try:
            _knock(os.environ.get("RAY_ADDRESS", ""))
            self._ray.init(log_to_driver=False, configure_logging=False)
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(
                f"the Ray cluster does not answer ({str(error).splitlines()[0]}); correct RAY_ADDRESS, or unset it."
            ) from error
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        self._task = self._ray.remote(work).options(max_retries=MOVES, **task_share(nodes, self.at_once))
        return self

    def __exit__(self, *_: object) -> None:
        for task in self._running:
            self._ray.cancel(task, force=True)
        self._ray.shutdown()

    def submit(self, runs: Sequence[PlannedRun], *, wait: bool) -> Sequence[Ticket]:
        tasks = [self._task.remote(run, self.job, wait=wait) for run in runs]
        self._running += tasks
        return [FutureTicket(task.future()) for task in tasks]

    def why(self, error: Exception) -> str | None:
        if isinstance(error, self._ray.exceptions.OutOfMemoryError):
            return "its process was ended by Ray for want of memory"
        if isinstance(error, self._ray.exceptions.RayError):
            return f"its worker was lost ({type(error).__name__})"
        return None


def task_share(nodes: Sequence[Mapping[str, float]], workers: int) -> dict[str, float]:
    """What each of so many tasks may ask for, that all of them run at a time: of GPUs the most, then of cores the most.

    A task runs on one node, and Ray waits in silence for one that has all it asks for. Of what is less than a unit Ray
    keeps four decimals; from one unit on it wants whole ones.

    Args:
        nodes: what each living node has, as Ray says it: `{"CPU": 16.0, "GPU": 2.0, ...}`.
        workers: tasks at a time.

    Returns:
        `num_cpus` and `num_gpus`, as `ray.remote` takes them; no GPU where no node has one and a core beside it.

    Raises:
        UserError: no node has a core.
    """
    sizes = [(node.get("CPU", 0.0), int(node.get("GPU", 0.0))) for node in nodes if node.get("CPU", 0.0) > 0]
    if not sizes:
        raise UserError("no node of the Ray cluster has a CPU for a run; start one by ray start with --num-cpus.")
    gpus = _largest(_shares([gpu for _, gpu in sizes], [1.0], workers), lambda gpus: _tasks(sizes, 0, gpus) >= workers)
    cores = [cpu for cpu, _ in sizes]
    cpus = _largest(_shares(cores, cores, workers), lambda cpus: _tasks(sizes, cpus, gpus) >= workers)
    return {"num_cpus": cpus, "num_gpus": gpus}


def _shares(whole: Sequence[float], divided: Sequence[float], workers: int) -> Iterator[float]:
    """What a task may ask for, most first: whole units up to the most there are, then parts of what is `divided`."""
    yield from range(int(max(whole)), 0, -1)
    # Down, or the last of them would not fit; a little up before, for what floating point took.
    parts = {
        math.floor(size / number * PRECISION + 1e-6) / PRECISION for size in divided for number in range(1, workers + 1)
    }
    yield from sorted((part for part in parts if 0 < part < 1), reverse=True)


def _largest(shares: Iterator[float], fits: Callable[[float], bool]) -> float:
    return next(filter(fits, shares), 0)


def _tasks(sizes: Sequence[tuple[float, int]], cpus: float, gpus: float) -> float:
    """How many tasks of such shares run at a time on nodes with so many cores and GPUs; a part is of a single GPU."""
    return sum(
        min(_times(cpu, cpus), gpu * _times(1, gpus) if 0 < gpus < 1 else _times(gpu, gpus)) for cpu, gpu in sizes
    )


def _times(size: float, share: float) -> float:
    """How often a share is to be had; without end where it is nothing."""
    return math.floor(size / share + 1e-6) if share else math.inf


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at `host:port`: Ray itself would try for minutes."""
    host, separator, port = address.rpartition(":")
    if separator and "/" not in address:
        socket.create_connection((host, int(port)), timeout=KNOCK).close()
