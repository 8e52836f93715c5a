"""Workers of a Ray cluster: that of RAY_ADDRESS, or one on this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Any

from anomaly_bench.bench.launch.engine import FutureTicket, Ticket
from anomaly_bench.bench.launch.work import Job, work
from anomaly_bench.bench.spec import PlannedRun
from anomaly_bench.errors import UserError

KNOCK = 10.0  # seconds
MOVES = 3  # how often a run whose node is lost begins again on another one, from its last checkpoint


class RayEngine:
    """So many tasks, each with its share of the cluster's cores and GPUs. All nodes need the same folders.

    Args:
        job: what all runs have in common.
        workers: tasks at a time.

    Raises:
        UserError: Ray is not installed, or the cluster does not answer.
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
        shares = {kind: self._share(name) for kind, name in (("num_cpus", "CPU"), ("num_gpus", "GPU"))}
        self._task = self._ray.remote(work).options(max_retries=MOVES, **shares)
        return self

    def _share(self, resource: str) -> float:
        """A task's part of a resource: whole units where there is one or more for each worker, as Ray wants it."""
        share = self._ray.cluster_resources().get(resource, 0) / self.at_once
        return int(share) if share >= 1 else share

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


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at `host:port`: Ray itself would try for minutes."""
    host, separator, port = address.rpartition(":")
    if separator and "/" not in address:
        socket.create_connection((host, int(port)), timeout=KNOCK).close()
