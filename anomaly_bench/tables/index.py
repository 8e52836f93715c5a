"""The store's content by what a cell can ask for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from anomaly_bench.bench.spec import EvalSpec, PlannedRun, RunSpec
from anomaly_bench.bench.store import STANDS_IN, Failure, Record, Store
from anomaly_bench.tables.measures import MEASURES, MissingError, ScoresOf
from anomaly_bench.tables.paired import Interval, paired_interval
from anomaly_bench.tables.scores import Scores, stored_scores

LEAST_SEEDS = 3  # below, a paired test says nothing


def no_scores(_: Record, __: EvalSpec) -> Scores | None:
    """For a store without scores."""
    return None


@dataclass
class Index:
    """Records and failures, sorted by seed.

    Attributes:
        records: by spec without its seed.
        failures: by spec without its seed.
        revisions: specs by themselves without seed and revisions.
        scores_of: finds the image scores of a record's evaluation.
    """

    records: dict[RunSpec, list[Record]] = field(default_factory=dict)
    failures: dict[RunSpec, list[Failure]] = field(default_factory=dict)
    revisions: dict[RunSpec, list[RunSpec]] = field(default_factory=dict)
    scores_of: ScoresOf = no_scores

    @classmethod
    def of(cls, loaded: Iterable[Record | Failure], scores_of: ScoresOf = no_scores) -> Index:
        index = cls(scores_of=scores_of)
        for entry in loaded:
            if isinstance(entry, Failure):
                index.failures.setdefault(entry.spec.any_seed(), []).append(entry)
            else:
                index.records.setdefault(entry.spec.any_seed(), []).append(entry)
                index.revisions.setdefault(entry.spec.any_revision(), []).append(entry.spec)
        for record in [record for records in index.records.values() for record in records]:
            index.add_stand_in(record)
        for records in index.records.values():
            records.sort(key=lambda record: record.spec.seed)
        return index

    def add_stand_in(self, record: Record) -> None:
        """A run at half the batch also where one at the whole batch would be, had it found the memory."""
        for size in record.provenance.get(STANDS_IN, []):
            missing = replace(record.spec, protocol=replace(record.spec.protocol, batch_size=size))
            there = self.records.setdefault(missing.any_seed(), [])
            if record.spec.seed not in [one.spec.seed for one in there]:
                there.append(record)

    @classmethod
    def of_store(cls, store: Store) -> Index:
        """Of everything in it; scores are read when they are asked for, each once."""
        read: dict[tuple[str, str], Scores | None] = {}

        def scores_of(record: Record, evaluation: EvalSpec) -> Scores | None:
            key = (record.spec.run_id, evaluation.eval_id)
            if key not in read:
                read[key] = _scores(store, record, evaluation.eval_id)
            return read[key]

        return cls.of(store, scores_of)

    def measured(self, run: PlannedRun, metric: str) -> dict[int, tuple[float, Record]]:
        """By seed: the value and the record that it is from.

        Raises:
            MissingError: no record has it; says why.
        """
        found, missing = dict[int, tuple[float, Record]](), list[MissingError]()
        for record in self.records.get(run.spec.any_seed(), []):
            try:
                value = MEASURES[metric].read(record, run.evaluation, self.scores_of)
                found[record.spec.seed] = (value, record)
            except MissingError as reason:
                missing.append(reason)
        if found:
            return found
        raise missing[0] if missing else MissingError(self._why_not_run(run))

    def _why_not_run(self, run: PlannedRun) -> str:
        for failure in self.failures.get(run.spec.any_seed(), []):
            return f"failed: {failure.reason}"
        for old in self.revisions.get(run.spec.any_revision(), []):
            return _stale(old, run.spec)
        return "not run"

    def paired(
        self, side: Sequence[Record], evaluation: EvalSpec, other: Sequence[Record], rule: EvalSpec
    ) -> Interval | None:
        """The paired difference in image AUROC, over the categories and seeds that both sides have.

        None where these are fewer than `LEAST_SEEDS` seeds, the categories are not the same, scores are gone, or the
        two sides (or a side's seeds) saw other images.
        """
        ours, theirs = _by_place(side), _by_place(other)
        categories = sorted({category for category, _ in ours})
        seeds = sorted(
            set.intersection(*({s for c, s in ours.keys() & theirs.keys() if c == name} for name in categories))
        )
        if categories != sorted({category for category, _ in theirs}) or len(seeds) < LEAST_SEEDS:
            return None
        pairs = [
            [
                (self.scores_of(ours[category, seed], evaluation), self.scores_of(theirs[category, seed], rule))
                for seed in seeds
            ]
            for category in categories
        ]
        known = [[(a, b) for a, b in by_seed if a is not None and b is not None] for by_seed in pairs]
        if any(len(by_seed) < len(seeds) for by_seed in known):
            return None
        try:
            return paired_interval(known)
        except ValueError:  # other images: the header warns of it
            return None


def _scores(store: Store, record: Record, eval_id: str) -> Scores | None:
    if eval_id not in record.evaluations:
        return None
    try:
        scores, why = stored_scores(store, record, eval_id), "gone"
    except ValueError as error:
        scores, why = None, f"broken ({str(error).rstrip('.')}) and not used"
    if scores is None:
        store.complaints.append(f"the scores of run {record.spec.run_id} are {why}; run it --again.")
    return scores


def _by_place(records: Sequence[Record]) -> dict[tuple[str, int], Record]:
    return {(record.spec.category, record.spec.seed): record for record in records}


def _stale(old: RunSpec, new: RunSpec) -> str:
    if old.method_revision != new.method_revision:
        return f"stale: {new.method} revision {old.method_revision}, now {new.method_revision}"
    return f"stale: {new.dataset} revision {old.data_revision}, now {new.data_revision}"
