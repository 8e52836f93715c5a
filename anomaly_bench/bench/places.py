"""Where things are on this machine, and how runs are carried out on it: no part of a run's identity."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from anomaly_bench.bench.onlookers import Onlookers

Keep = Literal["all", "maps", "scores"]


@dataclass(frozen=True)
class Conduct:
    """How a run is carried out.

    Attributes:
        show: progress of the training, on standard error.
        keep: what stays of a finished run beside its record, scores and curves: "all" (maps and the student's
            weights), "maps", or nothing more ("scores").
        checkpoint_seconds: least time between two checkpoints of a training.
        devices: GPUs (or, without any, processes) that share one training.
        feature_cache: the teacher's features are kept in memory while a run trains.
        onlookers: who else watches it.
    """

    show: bool = True
    keep: Keep = "all"
    checkpoint_seconds: float = 60.0
    devices: int = 1
    feature_cache: bool = True
    onlookers: Onlookers = field(default_factory=Onlookers)


@dataclass(frozen=True)
class Places:
    """Where data, weights and results are."""

    data_root: Path
    results: Path
    weights_dir: Path | None = None
    allow_unverified: bool = False  # data whose checksums are not the official ones
    cache: Path | None = None  # decoded images, kept between runs
    conduct: Conduct = Conduct()

    def __post_init__(self) -> None:
        """Folders may be given as plain text."""
        for name in ("data_root", "results", "weights_dir", "cache"):
            folder = getattr(self, name)
            object.__setattr__(self, name, None if folder is None else Path(folder))

    def absolute(self) -> Places:
        """For a process with another working directory."""
        weights, cache = (path.absolute() if path else None for path in (self.weights_dir, self.cache))
        here = self.data_root.absolute(), self.results.absolute()
        return replace(self, data_root=here[0], results=here[1], weights_dir=weights, cache=cache)
