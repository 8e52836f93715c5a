"""Hands runs out to workers: processes here, a Ray cluster, or Slurm. The store is all that they share."""

from __future__ import annotations

from collections.abc import Mapping

from anomaly_bench.bench.launch.engine import Engine
from anomaly_bench.bench.launch.work import Job
from anomaly_bench.errors import UserError, nearest

LAUNCHERS = ("local", "ray", "slurm")


def start_engine(launcher: str, workers: int, job: Job, slurm: Mapping[str, str]) -> Engine:
    """The engine, ready to take runs; to be used in a `with` block, which ends its workers.

    Args:
        launcher: one of `LAUNCHERS`.
        workers: runs at a time.
        job: what all runs have in common.
        slurm: submitit's parameters by name, such as `partition`.

    Raises:
        UserError: a name is unknown, a package is missing, or the cluster does not answer.
    """
    if launcher not in LAUNCHERS:
        raise UserError(f"unknown --launcher '{launcher}'{nearest(launcher, LAUNCHERS)}")
    if workers < 1:
        raise UserError(f"--workers must be at least 1, not {workers}.")
    if slurm and launcher != "slurm":
        raise UserError("--slurm needs --launcher slurm.")
    if launcher == "ray":
        from anomaly_bench.bench.launch.on_ray import RayEngine

        return RayEngine(job, workers)
    if launcher == "slurm":
        from anomaly_bench.bench.launch.on_slurm import submitit_engine

        return submitit_engine(job, workers, slurm)
    from anomaly_bench.bench.launch.local import Processes, ThisProcess

    return ThisProcess(job) if workers == 1 else Processes(job, workers)
