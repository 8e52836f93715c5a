"""What a run is, and its name: two runs are the same if and only if their canonical JSON is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

from anomaly_bench.errors import UserError
from anomaly_bench.methods.protocol import Protocol
from anomaly_bench.metrics import METRICS_REVISION

WIDEST = 1000  # pixels of smoothing; beyond the images of any paper, and a filter's memory grows with it


def canonical_json(value: Any) -> str:
    """Sorted keys, no spaces, and one way to write a number: Python's shortest."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def as_set(value: object) -> str:
    """A value as `--set` takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def short_hash(text: str) -> str:
    """The first 16 hex digits of the SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class RunSpec:
    """One training, complete without data or weights at hand.

    Attributes:
        method: name of the method.
        method_revision: its revision.
        options: those of its options that differ from their defaults, sorted by name.
        dataset: name of the data set.
        data_revision: its revision.
        category: name of the category.
        protocol: how it is trained.
        seed: the user's; every generator is seeded from (seed, data set, category, method), see `derive_seed`.
        train_images: training images kept, or None for all.
        test_images: test images kept, or None for all.
    """

    method: str
    method_revision: int
    dataset: str
    data_revision: int
    category: str
    protocol: Protocol
    options: tuple[tuple[str, Any], ...] = ()
    seed: int = 0
    train_images: int | None = None
    test_images: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain data; what has a default that changes nothing is left out where it has it (see `Protocol`)."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        protocol = {field: getattr(self.protocol, field.name) for field in fields(self.protocol)}
        plain["protocol"] = {field.name: value for field, value in protocol.items() if value != field.default}
        plain["options"] = dict(self.options)
        return {name: value for name, value in plain.items() if value is not None}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> RunSpec:
        """The inverse of `as_json`; raises KeyError or TypeError for anything else."""
        protocol = dict(plain["protocol"])
        protocol["betas"] = tuple(protocol["betas"])
        options = tuple(sorted((name, _frozen(value)) for name, value in plain["options"].items()))
        return cls(**{**plain, "protocol": Protocol(**protocol), "options": options})

    @cached_property
    def run_id(self) -> str:
        return short_hash(canonical_json(self.as_json()))

    def derive_seed(self, purpose: str) -> int:
        """A seed below 2**32 for one purpose ("model", "order", ...), the same alone or inside a suite."""
        text = canonical_json([self.seed, self.dataset, self.category, self.method, purpose])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")

    @property
    def title(self) -> str:
        """`rd mvtec/bottle seed 0`, for messages."""
        options = "".join(f" {name}={as_set(value)}" for name, value in self.options)
        return f"{self.method}{options} {self.dataset}/{self.category} seed {self.seed}"

    @property
    def label(self) -> str:
        """`rd mvtec/bottle seed 0 [3cd149c8f78d8a38]`: runs of one suite may have the same title."""
        return f"{self.title} [{self.run_id}]"

    def any_seed(self) -> RunSpec:
        """What the seeds of one table cell have in common."""
        return replace(self, seed=-1)

    def any_revision(self) -> RunSpec:
        """What remains the same when a revision is raised, whatever the seed."""
        return replace(self, seed=-1, method_revision=-1, data_revision=-1)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@dataclass(frozen=True)
class EvalSpec:
    """How stage maps become scores; its own identity, so that another rule re-evaluates and never retrains.

    Stage maps are rounded to float16 as they are made, the form in which they are kept: what is evaluated
    at once and what is re-evaluated later are the same numbers.

    Attributes:
        fusion: "sum" or "product" of the stage maps, each upsampled bilinearly (corners aligned) to the image.
        sigma: standard deviation of the Gaussian smoothing, in pixels; 0 for none.
        image_score: "max" or "mean" of the smoothed map.
        mean_kernel: side of a mean filter after the Gaussian, in pixels, odd; 1 for none.
        score_from: which of a method's maps are fused: its final ones ("precise"), "coarse" ones or "both".
        background: how the background is found that the image score leaves out; pixels are scored with it.
        metrics_revision: the metrics' revision.
    """

    fusion: Literal["sum", "product"] = "sum"
    sigma: float = 4.0
    image_score: Literal["max", "mean"] = "max"
    mean_kernel: int = 1
    score_from: Literal["precise", "coarse", "both"] = "precise"
    background: Literal["none", "otsu", "border", "grabcut", "sam"] = "none"
    metrics_revision: int = METRICS_REVISION

    def __post_init__(self) -> None:
        if not 0 <= self.sigma <= WIDEST:
            raise UserError(f"sigma must be 0 to {WIDEST} pixels, not {self.sigma:g}.")
        if not 1 <= self.mean_kernel <= WIDEST or self.mean_kernel % 2 == 0:
            raise UserError(f"mean_kernel must be odd, at least 1 and below {WIDEST} pixels, not {self.mean_kernel}.")

        if self.background != "none" and self.image_score == "mean":
            raise UserError("background needs image_score=max: a mean would also measure how large the object is.")

    def as_json(self) -> dict[str, Any]:
        """What differs from the defaults, and always the revision: a field added later moves no identity."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name == "metrics_revision" or getattr(self, field.name) != field.default
        }

    @cached_property
    def eval_id(self) -> str:
        return short_hash(canonical_json(self.as_json()))


@dataclass(frozen=True)
class PlannedRun:
    """One run, and the evaluation that is read from it."""

    spec: RunSpec
    evaluation: EvalSpec
