"""A record by any honest means: from the store, by re-evaluating kept maps, or by training, in this order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from anomaly_bench.bench.spec import EvalSpec, RunSpec
from anomaly_bench.bench.store import Failure, Record, RunFailedError, Store, UnfitRecordError
from anomaly_bench.errors import UserError

if TYPE_CHECKING:
    from anomaly_bench.bench.places import Places

How = Literal["found", "re-evaluated", "trained"]


@dataclass(frozen=True)
class Obtained:
    """A record that holds the evaluation asked for, and what it took."""

    record: Record
    how: How


def obtain(
    spec: RunSpec,
    evaluation: EvalSpec,
    places: Places,
    store: Store,
    *,
    again: bool = False,
    wait: bool = True,
    retry_failed: bool = True,
    replace_unfit: bool = False,
) -> Obtained:
    """The run's record with `evaluation` in it.

    Args:
        spec: the run.
        evaluation: how it is evaluated.
        places: data, weights, results.
        store: where records are.
        again: train even if there is a record.
        wait: where another process is at this run, until it is done.
        retry_failed: a run whose failure is final is tried again.
        replace_unfit: a run that is of other data or weights, or has lost maps that are needed, is trained anew.

    Raises:
        ClaimedElsewhereError: another process is at it, and `wait` is false.
        UserError: the input cannot be used, or a stored record was made from other data or weights.
        RunFailedError: the run diverged or found too little memory, now or, without `retry_failed`, before.
    """
    found = None if again else _found(spec, evaluation, places, store, replace_unfit=replace_unfit)
    if found is not None:
        return Obtained(found, "found")
    with store.claim(spec.run_id, wait=wait):
        # By whoever held it until now.
        found = None if again else _found(spec, evaluation, places, store, replace_unfit=replace_unfit)
        if found is not None:
            return Obtained(found, "found")
        failure = store.load(spec.run_id)
        if isinstance(failure, Failure) and failure.final and not retry_failed:
            raise RunFailedError(f"{spec.label} failed: {failure.reason}.")
        return _make(spec, evaluation, places, store, again=again, replace_unfit=replace_unfit)


def _found(spec: RunSpec, evaluation: EvalSpec, places: Places, store: Store, *, replace_unfit: bool) -> Record | None:
    record = store.load(spec.run_id)
    if not isinstance(record, Record) or evaluation.eval_id not in record.evaluations:
        return None
    return record if _usable(record, evaluation, places, replace_unfit=replace_unfit) else None


def _usable(record: Record, evaluation: EvalSpec, places: Places, *, replace_unfit: bool) -> bool:
    """Whether it was made from what is at hand; raises UnfitRecordError where it was not and is to be kept."""
    try:
        compare_evidence(record, places)
        compare_background(record, evaluation, places)
    except UnfitRecordError:
        if not replace_unfit:
            raise
        return False
    return True


def _make(
    spec: RunSpec, evaluation: EvalSpec, places: Places, store: Store, *, again: bool, replace_unfit: bool
) -> Obtained:
    from anomaly_bench.bench.execute import check_evaluation, execute, re_evaluate

    check_evaluation(evaluation, places)
    record = None if again else store.load(spec.run_id)
    how: How = "re-evaluated"
    if isinstance(record, Record) and not _usable(record, evaluation, places, replace_unfit=replace_unfit):
        record, again = None, True
    if not isinstance(record, Record):
        record, how = execute(spec, places, store, again=again), "trained"
    if evaluation.eval_id not in record.evaluations:
        try:
            record = re_evaluate(record, evaluation, places, store)
        except UnfitRecordError:
            if how == "trained" or not replace_unfit:
                raise
            return _make(spec, evaluation, places, store, again=True, replace_unfit=False)
    return Obtained(record, how)


def compare_evidence(record: Record, places: Places) -> None:
    """Refuse a record made from other data or weights than those at hand; what is not at hand is not compared.

    Raises:
        UnfitRecordError: they differ.
    """
    differing = [
        name for name, differs in (("data", _data_differ), ("weights", _weights_differ)) if differs(record, places)
    ]
    if differing:
        raise UnfitRecordError(
            f"run {record.spec.run_id} ({record.spec.title}) was made from other {' and '.join(differing)} than those "
            "at hand; use --again to replace it, or another --results folder."
        )


def compare_background(record: Record, evaluation: EvalSpec, places: Places) -> None:
    """Refuse a stored evaluation that left the background out by other weights than those at hand.

    Raises:
        UnfitRecordError: they differ.
    """
    from anomaly_bench.bench.foreground import find_sam
    from anomaly_bench.weights import sha256

    used = record.evaluations.get(evaluation.eval_id, {}).get("evidence", {}).get("weights")
    at_hand = find_sam(places.weights_dir) if used else []
    if used and at_hand and used["sha256"] not in [sha256(path) for path in at_hand]:
        raise UnfitRecordError(
            f"run {record.spec.run_id} was evaluated with other SAM weights than {at_hand[0]}; use --again to replace "
            "it, or another --results folder."
        )


def _data_differ(record: Record, places: Places) -> bool:
    from anomaly_bench.bench.execute import open_data

    try:
        data = open_data(record.spec, places)
    except UserError:
        return False
    return data.manifest_sha256() != record.evidence["data"]["manifest_sha256"]


def _weights_differ(record: Record, places: Places) -> bool:
    from anomaly_bench.weights import find_weights

    for role, name in record.spec.protocol.networks.items():
        recorded = record.evidence[record.spec.protocol.weights_evidence[role]]
        if recorded["source"] != "random":
            found = find_weights(name, places.weights_dir, download=False)
            if found is not None and found.evidence["sha256"] != recorded["sha256"]:
                return True
    return False
