"""What is to be done for a table: its runs against what the store, the data and the weights at hand have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from anomaly_bench.bench.catalog import load_method
from anomaly_bench.bench.execute import has_weights, open_data
from anomaly_bench.bench.launch.work import with_half_the_batch
from anomaly_bench.bench.obtain import compare_evidence
from anomaly_bench.bench.places import Places
from anomaly_bench.bench.profiles import load_profile
from anomaly_bench.bench.resolve import own_evaluation
from anomaly_bench.bench.spec import PlannedRun, as_set
from anomaly_bench.bench.store import STANDS_IN, Failure, Record, Store, UnfitRecordError
from anomaly_bench.errors import UserError

LITE_TEACHER = str(load_profile("lite").settings["teacher"])
SHOWN = 40  # runs that are named before they are done


@dataclass(frozen=True)
class Work:
    """A table's runs by what is to be done with them; those in `failed` are not tried again.

    Attributes:
        done: the store has them.
        to_train: from the start, or from a checkpoint.
        to_evaluate: the store has the run, and its maps are to be evaluated by another rule.
        failed: for good.
        without_data: their category is not at hand.
        without_weights: a network's weights are not to be had.
        missing_networks: whose weights are not here.
    """

    done: list[PlannedRun] = field(default_factory=list)
    to_train: list[PlannedRun] = field(default_factory=list)
    to_evaluate: list[PlannedRun] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    without_data: list[PlannedRun] = field(default_factory=list)
    without_weights: list[PlannedRun] = field(default_factory=list)
    missing_networks: set[str] = field(default_factory=set)

    @property
    def to_do(self) -> list[PlannedRun]:
        return [*self.to_evaluate, *self.to_train]

    @property
    def in_vain(self) -> bool:
        """There is nothing to do, and nothing was ever done."""
        return not (self.done or self.to_train or self.to_evaluate or self.failed)


def sort_work(
    runs: Sequence[PlannedRun],
    places: Places,
    store: Store,
    *,
    asked_for: bool,
    retry_failed: bool = False,
    replace_unfit: bool = False,
    download: bool = True,
) -> Work:
    """Look at the store, the data and the weights, train nothing.

    Args:
        runs: the table's runs.
        places: where data and weights are.
        store: where records are.
        asked_for: the user named the categories, so that missing data is an error and not an empty cell.
        retry_failed: only runs that failed are to do.
        replace_unfit: runs that were made from other data or weights are to do.
        download: weights that are not here are fetched, and runs whose weights cannot be had are not to do.

    Raises:
        UnfitRecordError: a record was made from other data or weights, and is not to be replaced.
        UserError: the data of all runs (of any, if asked for) miss, or the weights of all; a network is unknown, or the
            weights folder cannot be used.
    """
    sorter = _Sorter(places, store, retry_failed=retry_failed, replace_unfit=replace_unfit, download=download)
    for run in runs:
        sorter.sort(run)
    work = sorter.work
    nothing = work.in_vain and not retry_failed  # nothing to retry is no fault
    if sorter.no_data and (asked_for or (nothing and not work.without_weights)):
        raise sorter.no_data
    if work.without_weights and work.in_vain:
        raise UserError(explain_missing_weights(work))
    return work


class _Sorter:
    """Puts runs where they belong in `work`; the first sentence about missing data is kept in `no_data`."""

    def __init__(
        self, places: Places, store: Store, *, retry_failed: bool, replace_unfit: bool, download: bool
    ) -> None:
        self.places, self.store = places, store
        self.retry_failed, self.replace_unfit, self.download = retry_failed, replace_unfit, download
        self.work = Work()
        self.no_data: UserError | None = None
        self._has_weights = dict[str, bool]()  # by network
        # Category and evidence, and whether that is at hand: seeds share it, and hashing a category takes a moment.
        self._compared = list[tuple[str, dict[str, Any], bool]]()

    def sort(self, run: PlannedRun) -> None:
        entry, work = self.store.load(run.spec.run_id), self.work
        if isinstance(entry, Record) and self._made_from_what_is_at_hand(entry):
            (work.done if run.evaluation.eval_id in entry.evaluations else work.to_evaluate).append(run)
        elif isinstance(entry, Failure) and entry.final and not self.retry_failed:
            if _has_stand_in(run, self.store):
                work.done.append(run)
            else:
                work.failed.append(entry)
        elif not self._has_data(run):
            work.without_data.append(run)
        elif entry is not None or not self.retry_failed:
            lacking = self._lacking_weights(run)
            work.missing_networks.update(lacking)
            (work.without_weights if lacking and self.download else work.to_train).append(run)

    def _made_from_what_is_at_hand(self, record: Record) -> bool:
        for category, evidence, same in self._compared:
            if (category, evidence) == (record.spec.category, record.evidence):
                return same
        try:
            compare_evidence(record, self.places)
            same = True
        except UnfitRecordError:
            if not self.replace_unfit:
                raise
            same = False
        self._compared.append((record.spec.category, record.evidence, same))
        return same

    def _has_data(self, run: PlannedRun) -> bool:
        load_method(run.spec.method).require()
        try:
            open_data(run.spec, self.places)
        except UserError as error:
            self.no_data = self.no_data or error
            return False
        return True

    def _lacking_weights(self, run: PlannedRun) -> list[str]:
        """The run's networks whose weights cannot be had, or without `download` are not here."""
        networks, known = run.spec.protocol.networks, self._has_weights
        for role, name in networks.items():
            if name not in known:
                known[name] = has_weights(name, role, self.places.weights_dir, download=self.download)
        return [name for name in networks.values() if not known[name]]


def _has_stand_in(run: PlannedRun, store: Store) -> bool:
    """Whether the cells of a run that found too little memory show one at half its batch."""
    batch = run.spec.protocol.batch_size
    record = store.load(with_half_the_batch(run.spec).run_id) if batch > 1 else None
    return (
        isinstance(record, Record)
        and batch in record.provenance.get(STANDS_IN, [])
        and run.evaluation.eval_id in record.evaluations
    )


def explain_missing_weights(work: Work) -> str:
    """Which weights cannot be had, and what to do; one sentence for all runs that lack them."""
    names = sorted(work.missing_networks)
    file = names[0].partition(".")[0]
    smaller = "smoke needs no file" if LITE_TEACHER in names else f"lite needs {LITE_TEACHER} alone, for fewer rows"
    return (
        f"no weights for {', '.join(names)}, for {_trainings(work.without_weights)} of the runs: connect to the "
        f"Hugging Face hub once, or put a file named after each ({file}*.safetensors or {file}*.pth) into "
        f"--weights-dir (make: WEIGHTS=FOLDER), or choose another --profile ({smaller})."
    )


def _trainings(runs: Sequence[PlannedRun]) -> int:
    """Trainings; several evaluations of one are one."""
    return len({run.spec.run_id for run in runs})


def describe(work: Work) -> str:
    """What will be done, in a few lines."""
    failed = f", {len(work.failed)} failed before (--retry-failed tries them again)" if work.failed else ""
    lines = [f"{len(work.done)} runs are done, {len(work.to_do)} are to do{failed}."]
    if work.without_data:
        names = sorted({f"{run.spec.dataset}/{run.spec.category}" for run in work.without_data})
        lines.append(f"No data for {len(names)} categories, whose cells stay empty: {', '.join(names)}.")
    networks = ", ".join(sorted(work.missing_networks))
    if work.without_weights:
        count = _trainings(work.without_weights)
        lines.append(f"No weights for {networks}: {count} runs cannot be trained, and their cells stay empty.")
    elif networks:
        lines.append(f"The weights of {networks} are not here: training will ask the Hugging Face hub for them.")
    lines += [f"  to do: {_named(run, evaluated=run in work.to_evaluate)}" for run in work.to_do[:SHOWN]]
    if len(work.to_do) > SHOWN:
        lines.append(f"  to do: {len(work.to_do) - SHOWN} more")
    return "\n".join(lines)


def _named(run: PlannedRun, *, evaluated: bool) -> str:
    spec = run.spec
    if not evaluated:
        return f"{spec.title} ({spec.protocol.summary}) [{spec.run_id}]"
    own, asked = asdict(own_evaluation(spec.method)), asdict(run.evaluation)
    rule = " ".join(f"{name}={as_set(value)}" for name, value in asked.items() if value != own[name])
    return f"{spec.title} [{spec.run_id}], evaluated from its kept maps with {rule or 'its own rule'}"
