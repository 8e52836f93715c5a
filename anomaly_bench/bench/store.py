"""The store: one folder a run, there whole or not at all, and the first finished writer wins."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from anomaly_bench.bench.claims import ClaimedElsewhereError, NoLocksError, claim
from anomaly_bench.bench.shape import check_shape
from anomaly_bench.bench.spec import EvalSpec, RunSpec
from anomaly_bench.bench.texts import replace_text, to_text, write_json
from anomaly_bench.errors import UserError

RECORD, FAILURE = "record.json", "failure.json"
STANDS_IN = "in_place_of_batch_size"  # in a record's provenance
PROBE_BYTES = 1 << 20
LEFTOVER = re.compile(r"\.([0-9a-f]{16})[.-]")  # a claim, a checkpoint, a folder that was not published


@dataclass(frozen=True)
class Record:
    """One finished run, as `record.json` holds it.

    Attributes:
        spec: what was run.
        evaluation: id of the method's own evaluation, whose metrics are `metrics`.
        evaluations: by id, `{"spec", "metrics", "undefined"}`; metrics are fractions in [0, 1] or null with a reason.
        evidence: `{"weights", "data"}`: hashes and counts of what the run saw.
        cost: seconds, images/s, bytes, parameters, multiply-accumulates, device.
        provenance: versions and commit.
    """

    spec: RunSpec
    evaluation: str
    evaluations: dict[str, dict[str, Any]]
    evidence: dict[str, Any]
    cost: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, float | None]:
        metrics: dict[str, float | None] = self.evaluations[self.evaluation]["metrics"]
        return metrics

    @property
    def device(self) -> str:
        return str(self.cost.get("device", "a device that is not in the record"))

    def as_json(self) -> dict[str, Any]:
        own = self.evaluations[self.evaluation]
        return {
            "run_id": self.spec.run_id,
            "spec": self.spec.as_json(),
            "metrics": own["metrics"],
            "undefined": own["undefined"],
            "evaluation": self.evaluation,
            "evaluations": self.evaluations,
            "evidence": self.evidence,
            "cost": self.cost,
            "provenance": self.provenance,
        }

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Record:
        """The inverse of `as_json`.

        Raises:
            ValueError: the spec does not hash to the run id, or a metric is no fraction.
            KeyError, TypeError: something is missing, or is of another type.
        """
        check_shape(plain)
        names = ("evaluation", "evaluations", "evidence", "cost", "provenance")
        record = cls(RunSpec.from_json(plain["spec"]), **{name: plain[name] for name in names})
        if record.spec.run_id != plain["run_id"]:
            raise ValueError(f"its spec has the id {record.spec.run_id}")
        for evaluation in record.evaluations.values():
            wrong = [name for name, value in evaluation["metrics"].items() if value is not None and not 0 <= value <= 1]
            if wrong:
                raise ValueError(f"{wrong[0]} is not a fraction in [0, 1]")
        if record.metrics != plain["metrics"]:
            raise ValueError("its metrics are not those of its own evaluation")
        evidence, versions = record.evidence, record.provenance["versions"]
        sources = [evidence[name]["source"] for name in record.spec.protocol.weights_evidence.values()]
        if not (all(sources) and evidence["data"]["manifest_sha256"] and versions):
            raise ValueError("it does not say where it comes from")
        return record


@dataclass(frozen=True)
class Failure:
    """A run that did not end, and why, in one sentence.

    Where it is not `final` the reason lies outside the run (a killed process, a damaged file), and the next start of
    the same command tries again by itself.
    """

    spec: RunSpec
    reason: str
    final: bool = True

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Failure:
        """From `failure.json`; raises like `Record.from_json`."""
        return cls(RunSpec.from_json(plain["spec"]), str(plain["reason"]), bool(plain["final"]))


Entry = TypeVar("Entry", Record, Failure)


class RunFailedError(Exception):
    """The run itself went wrong (not its input); kept in the store as the reason of an empty cell.

    `remedy` is what may help, where that is known: for a single run, since a table's settings are its own.
    """

    def __init__(self, sentence: str, *, out_of_memory: bool = False, remedy: str = "") -> None:
        super().__init__(sentence)
        self.out_of_memory, self.remedy = out_of_memory, remedy


class StoreError(UserError):
    """The results folder cannot be written to: no other run could be stored either."""


class UnfitRecordError(UserError):
    """A stored run was made from other data or weights than those at hand, or has lost the maps that are needed."""


class Store:
    """All runs below `<results>/runs`. Broken records are noted in `complaints` and count as not there."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self.runs = results / "runs"
        self.complaints: list[str] = []

    def folder(self, run_id: str) -> Path:
        return self.runs / run_id

    def load(self, run_id: str) -> Record | Failure | None:
        """The run's record, else its failure, else None."""
        folder = self.folder(run_id)
        record = self._read(folder / RECORD, Record.from_json)
        return record if record is not None else self._read(folder / FAILURE, Failure.from_json)

    def __iter__(self) -> Iterator[Record | Failure]:
        """Every run, sorted by id."""
        folders = sorted(self.runs.iterdir()) if self.runs.is_dir() else []
        for folder in folders:
            if folder.is_dir() and not folder.name.startswith("."):
                loaded = self.load(folder.name)
                if loaded is not None:
                    yield loaded

    def checkpoint(self, run_id: str) -> Path:
        """Where the state of a training is kept that is not done yet."""
        return self.runs / f".{run_id}.ckpt"

    @contextmanager
    def claim(self, run_id: str, *, wait: bool = True) -> Iterator[None]:
        """Nobody else trains or extends this run while the block lasts; see `claims.claim`.

        Raises:
            ClaimedElsewhereError: somebody else is at it, and `wait` is false.
            StoreError: the place cannot be written to, or has no locks.
        """
        claimed = claim(self.runs, run_id, wait=wait)
        try:
            with self.explained():
                claimed.__enter__()
        except NoLocksError as error:  # of every run
            raise StoreError(str(error)) from error
        try:
            yield
        finally:
            with self.explained():
                claimed.__exit__(None, None, None)

    def sweep(self) -> None:
        """Clear away what killed processes left behind, but for checkpoints of runs that are not done."""
        left = self.runs.glob(".*") if self.runs.is_dir() else []
        for run_id in sorted({match[1] for path in left if (match := LEFTOVER.match(path.name))}):
            with suppress(ClaimedElsewhereError), self.claim(run_id, wait=False), self.explained():
                self._sweep_run(run_id)

    def _sweep_run(self, run_id: str) -> None:
        folder, checkpoint = self.folder(run_id), self.checkpoint(run_id)
        for staged in self.runs.glob(f".{run_id}-*"):
            if (staged / run_id).exists() and not folder.exists():  # killed as one record was to replace another
                (staged / run_id).rename(folder)
            shutil.rmtree(staged)
        for text in folder.glob(".*-*"):
            text.unlink()
        checkpoint.with_suffix(".part").unlink(missing_ok=True)
        if (folder / RECORD).exists():
            checkpoint.unlink(missing_ok=True)

    def read_scores(self, run_id: str, eval_id: str) -> str | None:
        """The image scores of one evaluation, as CSV; None where they are gone."""
        try:
            return (self.folder(run_id) / f"scores-{eval_id}.csv").read_text(encoding="utf-8")
        except OSError:
            return None

    def _read(self, path: Path, parse: Callable[[dict[str, Any]], Entry]) -> Entry | None:
        try:
            entry = parse(json.loads(path.read_text(encoding="utf-8")))
            if entry.spec.run_id != path.parent.name:
                raise ValueError(f"it is the record of run {entry.spec.run_id}")
            return entry
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, UserError) as error:
            complaint = f"{path} is broken ({error}) and is not used; run it again, or delete {path.parent}."
            if complaint not in self.complaints:
                self.complaints.append(complaint)
            return None

    def check_writable(self, needed: int = 0) -> None:
        """Write and delete one MiB where the results will go, before hours of training; creates no folder.

        Args:
            needed: bytes that the run will leave there.

        Raises:
            StoreError: the place is read-only or full.
        """
        existing = next(path for path in (self.runs, *self.runs.parents) if path.exists())
        with self.explained(), tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(b"\0" * PROBE_BYTES)
            probe.flush()
            os.fsync(probe.fileno())
            free = shutil.disk_usage(existing).free
        if free < needed:
            raise StoreError(
                f"cannot write to the results folder {self.results} (a run takes {needed / 2**20:.1f} MiB, and "
                f"{free / 2**20:.1f} are free); free some space or choose another --results."
            )

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turns a failure to write into a StoreError."""
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            reason = "the disk is full" if full else (error.strerror or str(error))
            remedy = "free some space or choose another --results" if full else "choose another --results"
            raise StoreError(f"cannot write to the results folder {self.results} ({reason}); {remedy}.") from error

    @contextmanager
    def new_run(self, record_id: str, *, overwrite: bool = False) -> Iterator[Path]:
        """A folder to fill; when the block ends it becomes the run's folder by one rename, else it vanishes.

        Args:
            record_id: the run's id.
            overwrite: replace a finished record; otherwise the one that is there first stays.

        Raises:
            StoreError: the place is read-only or full; nothing is left behind.
        """
        with self.explained():
            self.runs.mkdir(parents=True, exist_ok=True)
            staged = Path(tempfile.mkdtemp(prefix=f".{record_id}-", dir=self.runs))
            staged.chmod(0o755)  # mkdtemp hides what it makes from everybody else
        try:
            with self.explained():
                yield staged
                self._publish(staged, record_id, overwrite=overwrite)
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def _publish(self, staged: Path, run_id: str, *, overwrite: bool) -> None:
        target = self.folder(run_id)
        if isinstance(self.load(run_id), Record) and not overwrite:
            return
        aside = Path(tempfile.mkdtemp(prefix=f".{run_id}-old-", dir=self.runs))
        try:
            if target.exists():
                target.rename(aside / run_id)
            staged.rename(target)
        except OSError as error:
            if (aside / run_id).exists() and not target.exists():
                (aside / run_id).rename(target)
            # Another writer was faster between the look and the rename: its record stands.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def write_failure(self, failure: Failure) -> None:
        """Keep why a run failed, so that its table cell can say so; a finished record is never touched.

        For whoever holds the run's claim: another suite would sweep away what it is about to publish.
        """
        spec = failure.spec
        if isinstance(self.load(spec.run_id), Record):
            return
        plain = {"run_id": spec.run_id, "spec": spec.as_json(), "reason": failure.reason, "final": failure.final}
        with self.new_run(spec.run_id) as folder:
            write_json(folder / FAILURE, plain)

    def claim_and_write_failure(self, failure: Failure) -> None:
        """As `write_failure`, by one who does not hold the claim; who holds it instead is at the run again."""
        with suppress(ClaimedElsewhereError), self.claim(failure.spec.run_id, wait=False):
            self.write_failure(failure)

    def add_evaluation(
        self, record: Record, evaluation: EvalSpec, entry: dict[str, Any], scores: str, *, own: bool
    ) -> Record:
        """A record that also holds `entry`, one more evaluation of the same run, on disk and returned.

        Where it is the method's `own` (under a new metrics revision), the record's `metrics` become its.
        """
        newest = self.load(record.spec.run_id)  # another process may have added an evaluation of its own
        current = newest if isinstance(newest, Record) else record
        shown = evaluation.eval_id if own else current.evaluation
        extended = replace(current, evaluation=shown, evaluations={**current.evaluations, evaluation.eval_id: entry})
        folder = self.folder(record.spec.run_id)
        with self.explained():
            replace_text(folder / scores_name(evaluation), scores)
            replace_text(folder / RECORD, to_text(extended.as_json()))
        return extended

    def add_stand_in(self, run_id: str, missing: RunSpec) -> None:
        """Note in a run's record that it stands in for one of another batch size, which found too little memory."""
        record = self.load(run_id)
        assert isinstance(record, Record)
        sizes = {*record.provenance.get(STANDS_IN, []), missing.protocol.batch_size}
        noted = replace(record, provenance={**record.provenance, STANDS_IN: sorted(sizes)})
        with self.explained():
            replace_text(self.folder(run_id) / RECORD, to_text(noted.as_json()))


def scores_name(evaluation: EvalSpec) -> str:
    return f"scores-{evaluation.eval_id}.csv"
