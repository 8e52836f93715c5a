"""Workers on a Slurm cluster, by way of submitit: one array job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anomaly_bench.bench.launch.engine import Ticket
from anomaly_bench.bench.launch.work import Job, Outcome, work
from anomaly_bench.bench.spec import PlannedRun
from anomaly_bench.errors import UserError

LOGS = "slurm"
EVERYTHING = 1 << 20  # runs: Slurm itself keeps all but `workers` of them waiting
ON_THIS_MACHINE = ("local", "debug")  # submitit's own stand-ins for a cluster, which start at once what they get


class SlurmEngine:
    """One array job, of which so many runs run at a time. All nodes need the same folders.

    Args:
        job: what all runs have in common.
        workers: runs at a time.
        parameters: submitit's, by name (`partition`, `timeout_min`, `gpus_per_node` ...); `cluster` may be `local`.

    Raises:
        UserError: submitit is not installed, there is no Slurm here, or a parameter is unknown.
    """

    def __init__(self, job: Job, workers: int, parameters: Mapping[str, Any]) -> None:
        try:
            import submitit
        except ImportError as error:
            raise UserError("--launcher slurm needs submitit; pip install 'anomaly-bench[slurm]'.") from error
        self.job = job
        self._errors = (submitit.core.utils.UncompletedJobError, submitit.core.utils.FailedJobError)
        self._jobs: list[Any] = []
        cluster = parameters.get("cluster", "slurm")
        self.at_once = workers if cluster in ON_THIS_MACHINE else EVERYTHING
        named = {name: value for name, value in parameters.items() if name != "cluster"}
        if cluster not in ON_THIS_MACHINE:
            named["slurm_array_parallelism"] = workers
        try:
            self._executor = submitit.AutoExecutor(job.places.results / LOGS, cluster=cluster)
            self._executor.update_parameters(name="anomaly-bench", **named)
        except (RuntimeError, NameError, ValueError, TypeError) as error:
            raise UserError(f"Slurm cannot be used ({str(error).splitlines()[0]}); correct --slurm.") from error

    def __enter__(self) -> SlurmEngine:
        return self

    def __exit__(self, *_: object) -> None:
        for job in self._jobs:
            if not job.done():
                job.cancel(check=False)

    def submit(self, runs: Sequence[PlannedRun], *, wait: bool) -> Sequence[Ticket]:
        with self._executor.batch():
            jobs = [self._executor.submit(work, run, self.job, wait=wait) for run in runs]
        self._jobs += jobs
        return [JobTicket(job) for job in jobs]

    def why(self, error: Exception) -> str | None:
        if not isinstance(error, self._errors):
            return None
        return f"its job ended without an answer ({type(error).__name__})"


class JobTicket:
    """A submitit job."""

    def __init__(self, job: Any) -> None:
        self.job = job

    def done(self) -> bool:
        done: bool = self.job.done()
        return done

    def result(self) -> Outcome:
        outcome: Outcome = self.job.result()
        return outcome
