"""The store: one folder a run, there whole or not at all, and the first finished writer wins."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anomaly_bench.bench.spec import EvalSpec, RunSpec
from anomaly_bench.errors import UserError

RECORD, FAILURE = "record.json", "failure.json"
PROBE_BYTES = 1 << 20


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
            KeyError, TypeError: something is missing.
        """
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
        return record


@dataclass(frozen=True)
class Failure:
    """A run that did not end, and why, in one sentence."""

    spec: RunSpec
    reason: str


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
        if record is not None:
            return record
        return self._read(folder / FAILURE, lambda plain: Failure(RunSpec.from_json(plain["spec"]), plain["reason"]))

    def __iter__(self) -> Iterator[Record | Failure]:
        """Every run, sorted by id."""
        folders = sorted(self.runs.iterdir()) if self.runs.is_dir() else []
        for folder in folders:
            if folder.is_dir() and not folder.name.startswith("."):
                loaded = self.load(folder.name)
                if loaded is not None:
                    yield loaded

    def _read(self, path: Path, parse: Any) -> Any:
        try:
            return parse(json.loads(path.read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, KeyError, TypeError, AttributeError, UserError) as error:
            complaint = f"{path} is broken ({error}) and is not used; run it again, or delete {path.parent}."
            if complaint not in self.complaints:
                self.complaints.append(complaint)
            return None

    def check_writable(self) -> None:
        """Write and delete one MiB where the results will go, before hours of training; creates no folder.

        Raises:
            UserError: the place is read-only or full.
        """
        existing = next(path for path in (self.runs, *self.runs.parents) if path.exists())
        with self._explained(), tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(b"\0" * PROBE_BYTES)
            probe.flush()
            os.fsync(probe.fileno())

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            reason = "the disk is full" if full else (error.strerror or str(error))
            remedy = "free some space" if full else "make it writable"
            raise UserError(
                f"cannot write to the results folder {self.results} ({reason}); {remedy}, or choose another --results."
            ) from error

    @contextmanager
    def new_run(self, record_id: str, *, replace: bool = False) -> Iterator[Path]:
        """A folder to fill; when the block ends it becomes the run's folder by one rename, else it vanishes.

        Args:
            record_id: the run's id.
            replace: replace a finished record; otherwise the one that is there first stays.

        Raises:
            UserError: the place is read-only or full; nothing is left behind.
        """
        with self._explained():
            self.runs.mkdir(parents=True, exist_ok=True)
            staged = Path(tempfile.mkdtemp(prefix=f".{record_id}-", dir=self.runs))
            staged.chmod(0o755)  # mkdtemp hides what it makes from everybody else
        try:
            with self._explained():
                yield staged
                self._publish(staged, record_id, replace=replace)
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def _publish(self, staged: Path, run_id: str, *, replace: bool) -> None:
        target = self.folder(run_id)
        if isinstance(self.load(run_id), Record) and not replace:
            return
        if target.exists():
            aside = Path(tempfile.mkdtemp(prefix=f".{run_id}-old-", dir=self.runs))
            target.rename(aside / run_id)
            shutil.rmtree(aside, ignore_errors=True)
        try:
            staged.rename(target)
        except OSError as error:
            # Another writer was faster between the look and the rename: its record stands.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise

    def write_failure(self, spec: RunSpec, reason: str) -> None:
        """Keep why a run failed, so that its table cell can say so; a finished record is never touched."""
        if isinstance(self.load(spec.run_id), Record):
            return
        with self.new_run(spec.run_id) as folder:
            write_json(folder / FAILURE, {"run_id": spec.run_id, "spec": spec.as_json(), "reason": reason})

    def add_evaluation(self, record: Record, evaluation: EvalSpec, entry: dict[str, Any], scores: str) -> Record:
        """A record that also holds `entry`, one more evaluation of the same run, on disk and returned."""
        entries = {**record.evaluations, evaluation.eval_id: entry}
        extended = Record(record.spec, record.evaluation, entries, record.evidence, record.cost, record.provenance)
        folder = self.folder(record.spec.run_id)
        with self._explained():
            replace_text(folder / scores_name(evaluation), scores)
            replace_text(folder / RECORD, to_text(extended.as_json()))
        return extended


def scores_name(evaluation: EvalSpec) -> str:
    return f"scores-{evaluation.eval_id}.csv"


def to_text(plain: dict[str, Any]) -> str:
    """Sorted JSON, one value a line; NaN is refused."""
    return json.dumps(plain, indent=2, sort_keys=True, allow_nan=False) + "\n"


def write_json(path: Path, plain: dict[str, Any]) -> None:
    path.write_text(to_text(plain), encoding="utf-8")


def replace_text(path: Path, text: str) -> None:
    """Write a file by rename: readers see the old text or the new, never half of one."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    staged = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        staged.chmod(0o644)
        staged.replace(path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
