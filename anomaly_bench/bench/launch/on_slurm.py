"""Workers on a Slurm cluster, by way of submitit: one array job."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any
from uuid import uuid4

from anomaly_bench.bench.launch.engine import Engine, Ticket
from anomaly_bench.bench.launch.slurm_queue import Queue
from anomaly_bench.bench.launch.work import Job, Outcome, work
from anomaly_bench.bench.spec import PlannedRun
from anomaly_bench.errors import UserError

LOGS = "slurm"
EVERYTHING = 1 << 20  # runs: Slurm itself keeps all but `workers` of them waiting
ARRAY = 1000  # runs: the most that Slurm's default MaxArraySize allows in one array
ON_THIS_MACHINE = ("local", "debug")  # submitit's own stand-ins for a cluster, which start at once what they get
MINUTES = 240  # that a job may take, if --slurm does not say; submitit's 5 would end most runs
TIMES_UP = 100  # how often a run whose minutes are over is queued again


def submitit_engine(job: Job, workers: int, parameters: Mapping[str, str]) -> Engine:
    """The engine for the cluster that `--slurm` names, or else for Slurm.

    Args:
        job: what all runs have in common.
        workers: runs at a time.
        parameters: submitit's, by name (`partition`, `timeout_min`, `gpus_per_node` ...); `cluster` may be `local`.

    Raises:
        UserError: submitit is not installed, there is no Slurm here, or a parameter is unknown.
    """
    try:
        import submitit
    except ImportError as error:
        raise UserError("--launcher slurm needs submitit; pip install 'anomaly-bench[slurm]'.") from error
    cluster = parameters.get("cluster", "slurm")
    named = {name: parsed(value) for name, value in parameters.items() if name != "cluster"}
    if cluster in ON_THIS_MACHINE:
        return StandIn(job, workers, Submission(submitit, job, cluster, named))
    named["slurm_array_parallelism"] = workers
    return SlurmEngine(job, Submission(submitit, job, cluster, named))


def parsed(value: str) -> Any:
    """A parameter as submitit wants it: what JSON reads as a number, a switch or a list is that, the rest is text."""
    try:
        return json.loads(value)
    except ValueError:
        return value


class Submission:
    """How runs become submitit's jobs. All nodes need the same folders.

    Args:
        submitit: the package.
        job: what all runs have in common.
        cluster: submitit's name for it.
        parameters: submitit's, by name.

    Raises:
        UserError: there is no such cluster here, or a parameter is unknown.
    """

    def __init__(self, submitit: ModuleType, job: Job, cluster: str, parameters: Mapping[str, Any]) -> None:
        self._submitit, self._job, self._cluster = submitit, job, cluster
        self._parameters = {"timeout_min": MINUTES, **parameters}
        # Of its own: a cluster that is set up anew begins with the same numbers, and so the same names of answers.
        self.folder = job.places.results / LOGS / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid4().hex[:8]}"
        self._executor(None)

    def _executor(self, after: str | None) -> Any:
        limit = {} if self._cluster in ON_THIS_MACHINE else {f"{self._cluster}_max_num_timeout": TIMES_UP}
        follows = {"slurm_dependency": f"afterany:{after}"} if after else {}
        try:
            executor = self._submitit.AutoExecutor(self.folder, cluster=self._cluster, **limit)
            with warnings.catch_warnings(action="ignore"):  # it would rather have us write slurm_partition
                executor.update_parameters(name="anomaly-bench", **self._parameters, **follows)
        except RuntimeError as error:  # it found no srun
            raise UserError(
                f"Slurm cannot be used ({str(error).splitlines()[0]}); start this on a machine of the cluster, or "
                "leave out --launcher slurm."
            ) from error
        except (NameError, ValueError, TypeError, AssertionError) as error:
            raise UserError(f"Slurm cannot be used ({str(error).splitlines()[0]}); correct --slurm.") from error
        return executor

    def submit(self, runs: Sequence[PlannedRun], *, wait: bool, after: str | None = None) -> list[Any]:
        """A job each, in one array, which begins when the array `after` has ended."""
        executor = self._executor(after)
        try:
            with executor.batch():
                jobs = [executor.submit(RequeuedWork(), run, self._job, wait=wait) for run in runs]
        except self._submitit.core.utils.FailedJobError as error:
            if after is None:
                self._leave_nothing()
            said = str(error).strip().splitlines()[-1].removeprefix("sbatch: error: ")
            raise UserError(f"Slurm takes no job ({said}); correct --slurm.") from error
        return jobs

    def _leave_nothing(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # something else is in them
            self.folder.parent.rmdir()
            self.folder.parent.parent.rmdir()

    def why(self, error: Exception) -> str | None:
        """See `Engine.why`."""
        if isinstance(error, self._submitit.core.utils.UncompletedJobError):
            return f"its job ended without an answer ({type(error).__name__})"
        return None


class RequeuedWork:
    """`work`, in a job: when its minutes are over, or another job needs its node, submitit queues it again by this."""

    def __call__(self, run: PlannedRun, job: Job, *, wait: bool) -> Outcome:
        return work(run, job, wait=wait)

    def checkpoint(self, run: PlannedRun, job: Job, *, wait: bool) -> Any:
        """What the next job does: the same, from the last checkpoint, once this one has given the run back."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, run, job, wait=True)


class SlurmEngine:
    """One array job, of which so many runs run at a time; more runs than an array can have follow in another."""

    at_once = EVERYTHING

    def __init__(self, job: Job, submission: Submission) -> None:
        self.job = job
        self._submission, self._queue = submission, Queue(submission.folder)

    def __enter__(self) -> SlurmEngine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._queue.open:
            subprocess.run(["scancel", *sorted(self._queue.arrays())], check=False)

    def submit(self, runs: Sequence[PlannedRun], *, wait: bool) -> Sequence[Ticket]:
        tickets, previous = list[Ticket](), None
        for start in range(0, len(runs), ARRAY):
            jobs = self._submission.submit(runs[start : start + ARRAY], wait=wait, after=previous)
            previous = jobs[0].job_id.partition("_")[0]
            self._queue.add(job.job_id for job in jobs)
            tickets += [JobTicket(job, self._queue) for job in jobs]
        return tickets

    def why(self, error: Exception) -> str | None:
        if isinstance(error, LostJobError):
            return f"its job ended without an answer ({error})"
        return self._submission.why(error)


class LostJobError(Exception):
    """A job has ended, and there is no answer; its text is Slurm's word for how."""


class JobTicket:
    """A job of Slurm's."""

    def __init__(self, job: Any, queue: Queue) -> None:
        self.job, self.queue = job, queue

    def done(self) -> bool:
        return self.queue.ended(self.job.job_id)

    def result(self) -> Outcome:
        if state := self.queue.lost(self.job.job_id):
            raise LostJobError(state)
        outcome: Outcome = self.job.result()
        return outcome


class StandIn:
    """Jobs in processes of this machine, so many at a time."""

    def __init__(self, job: Job, workers: int, submission: Submission) -> None:
        self.job, self.at_once = job, workers
        self._submission = submission
        self._jobs: list[Any] = []

    def __enter__(self) -> StandIn:
        return self

    def __exit__(self, *_: object) -> None:
        for job in self._jobs:
            if not job.done():
                job.cancel(check=False)

    def submit(self, runs: Sequence[PlannedRun], *, wait: bool) -> Sequence[Ticket]:
        jobs = self._submission.submit(runs, wait=wait)
        self._jobs += jobs
        return jobs

    def why(self, error: Exception) -> str | None:
        return self._submission.why(error)
