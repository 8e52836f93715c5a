"""What a worker does with one run, and what it answers: nothing that goes wrong with one run stops the others."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from anomaly_bench.bench.claims import ClaimedElsewhereError
from anomaly_bench.bench.few_images import shown_metrics
from anomaly_bench.bench.obtain import How, obtain
from anomaly_bench.bench.places import Places
from anomaly_bench.bench.spec import PlannedRun, RunSpec
from anomaly_bench.bench.store import Failure, RunFailedError, Store, StoreError
from anomaly_bench.errors import UserError

Ending = How | Literal["failed", "elsewhere", "stop"]


@dataclass(frozen=True)
class Job:
    """What the runs of a suite have in common.

    Attributes:
        places: data, weights, results; absolute, since a worker may have another working directory.
        halve_batch: a run that found too little memory is tried once more at half its batch size.
        retry_failed: runs whose failure is final are tried again.
        replace_unfit: runs that were made from other data or weights, or lack needed maps, are trained anew.
    """

    places: Places
    halve_batch: bool = False
    retry_failed: bool = False
    replace_unfit: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        ending: as in `obtain`; or "failed"; or "elsewhere", where another process is at it; or "stop", where no other
            run could be stored either.
        reason: of a failure or a stop, in one sentence.
        image_auroc: in [0, 1], or None.
    """

    ending: Ending
    reason: str = ""
    image_auroc: float | None = None


def work(run: PlannedRun, job: Job, *, wait: bool) -> Outcome:
    """Obtain one run; whatever goes wrong is in the answer, and in the store where it concerns this run alone.

    Args:
        run: what to obtain.
        job: what it has in common with others.
        wait: where another process is at it, until that is done.
    """
    store = Store(job.places.results)
    try:
        return _obtain(run, job, store, wait=wait)
    except ClaimedElsewhereError:
        return Outcome("elsewhere")
    except StoreError as error:
        return Outcome("stop", str(error))
    except RunFailedError as error:
        outcome, out_of_memory = Outcome("failed", str(error)), error.out_of_memory
    except UserError as error:
        return _fail(run.spec, _without_places(str(error), job.places), store)
    except Exception as error:  # a defect of ours, a broken driver: the other runs may be well all the same
        return _fail(run.spec, f"{type(error).__name__}: {error}".splitlines()[0], store)
    if out_of_memory and job.halve_batch and run.spec.protocol.batch_size > 1:
        return _at_half_the_batch(run, job, store)  # not above, where the error still holds the failed training
    return outcome


def _obtain(run: PlannedRun, job: Job, store: Store, *, wait: bool) -> Outcome:
    obtained = obtain(
        run.spec,
        run.evaluation,
        job.places,
        store,
        wait=wait,
        retry_failed=job.retry_failed,
        replace_unfit=job.replace_unfit,
    )
    metrics, _ = shown_metrics(obtained.record, run.evaluation.eval_id)
    return Outcome(obtained.how, "", metrics["image_auroc"])


def _at_half_the_batch(run: PlannedRun, job: Job, store: Store) -> Outcome:
    halved = replace(run, spec=with_half_the_batch(run.spec))
    outcome = work(halved, replace(job, halve_batch=False), wait=True)
    if outcome.ending in ("failed", "stop"):
        return outcome
    with store.claim(halved.spec.run_id):
        store.add_stand_in(halved.spec.run_id, run.spec)
    with suppress(ClaimedElsewhereError), store.claim(run.spec.run_id, wait=False), store.explained():
        store.checkpoint(run.spec.run_id).unlink(missing_ok=True)  # nobody will go on from it
    return outcome


def with_half_the_batch(spec: RunSpec) -> RunSpec:
    """The run that stands in for one that found too little memory."""
    return replace(spec, protocol=replace(spec.protocol, batch_size=spec.protocol.batch_size // 2))


def _fail(spec: RunSpec, reason: str, store: Store) -> Outcome:
    try:
        store.claim_and_write_failure(Failure(spec, reason.rstrip("."), final=False))
    except StoreError as error:
        return Outcome("stop", str(error))
    return Outcome("failed", f"{spec.label} failed: {reason.rstrip('.')}.")


def _without_places(reason: str, places: Places) -> str:
    """A table shows the reason, and is the same wherever the data are."""
    for folder in (places.data_root, places.results, places.weights_dir):
        reason = reason.replace(f"{folder}/", "") if folder else reason
    return reason
