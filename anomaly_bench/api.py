"""The suite from Python, as in a notebook: train or find a run, read its metrics, score images with it.

    from pathlib import Path
    from anomaly_bench.api import Places, open_run, train

    places = Places(data_root=Path("datasets"), results=Path("results"))
    run = train("rd", "folder", "screws", places, profile="lite", settings={"epochs": 10})
    print(run.id, run.metrics["image_auroc"], run.evaluate({"sigma": 2})["pixel_auroc"])
    found = run.predict(sorted(Path("new").glob("*.png")))
    print(found.scores > run.threshold(0.01), found.maps.shape)

What is wrong with the input is an `anomaly_bench.errors.UserError` whose text says what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_bench.bench.obtain import obtain
from anomaly_bench.bench.places import Places
from anomaly_bench.bench.predictor import (
    Prediction,
    Predictor,
    find_run,
    load_predictor,
    threshold_at,
    training_scores,
)
from anomaly_bench.bench.profiles import load_profile
from anomaly_bench.bench.resolve import evaluation_with, resolve
from anomaly_bench.bench.store import Record, Store
from anomaly_bench.data.images import parallel, read_image
from anomaly_bench.errors import UserError

__all__ = ["Places", "Prediction", "Record", "Run", "open_run", "train"]


@dataclass(frozen=True)
class Run:
    """One finished run, in the store.

    Attributes:
        record: all that `record.json` holds.
        places: where the run, its data and its weights are.
    """

    record: Record
    places: Places

    def __repr__(self) -> str:
        return f"Run({self.record.spec.label})"

    @property
    def id(self) -> str:
        """By which `open_run` finds it."""
        return self.record.spec.run_id

    @property
    def metrics(self) -> dict[str, float | None]:
        """Of the method's own evaluation, fractions in [0, 1]; None where one is undefined."""
        return self.record.metrics

    def evaluate(self, settings: Mapping[str, Any]) -> dict[str, float | None]:
        """The metrics under another rule, such as `{"sigma": 2}`, from the kept maps: nothing is trained.

        Raises:
            UserError: a setting is unknown, or the maps or the data are not at hand.
        """
        rule = evaluation_with(self.record.spec.method, settings)
        record = obtain(self.record.spec, rule, self.places, Store(self.places.results)).record
        metrics: dict[str, float | None] = record.evaluations[rule.eval_id]["metrics"]
        return metrics

    @cached_property
    def predictor(self) -> Predictor:
        """Teacher and student, loaded at first use; raises UserError as `load_predictor` does."""
        return load_predictor(self.record, self.places)

    def predict(self, images: Sequence[Path | str]) -> Prediction:
        """Maps and scores of image files, in their order; raises UserError for a file that cannot be read, or none."""
        if isinstance(images, str | Path) or not images:
            raise UserError("predict takes a list of image files, at least one.")
        decoded = parallel(lambda path: read_image(Path(path), self.predictor.image_size), images)
        return self.predictor.predict(np.stack([image.pixels for image in decoded]))

    def threshold(self, false_positive_rate: float) -> float:
        """A score that at most this share of the training images is above: optimistic, for it was trained on them.

        Raises:
            UserError: the rate is not in [0, 1), or the run's data are not at hand.
        """
        return threshold_at(training_scores(self.predictor, self.places), false_positive_rate)


def train(
    method: str,
    dataset: str,
    category: str,
    places: Places,
    *,
    profile: str = "paper",
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    again: bool = False,
) -> Run:
    """Train and evaluate one run, or find it in the store: as `anomaly-bench run` does.

    Args:
        method: see `anomaly-bench list methods`.
        dataset: see `anomaly-bench list datasets`.
        category: one category of it.
        places: where data, weights and results are.
        profile: "paper", "lite" or "smoke".
        seed: the run's.
        settings: what `--set` takes, such as `{"epochs": 10}`.
        again: train even if there is a record, and replace it.

    Raises:
        UserError: a name or a value is wrong, or data or weights are not at hand.
        RunFailedError: the training diverged.
    """
    spec, rule = resolve(method, dataset, category, load_profile(profile), seed=seed, settings=settings)
    return Run(obtain(spec, rule, places, Store(places.results), again=again).record, places)


def open_run(run_id: str, places: Places) -> Run:
    """A finished run by its id, or by the beginning of it; raises UserError where there is none or several."""
    return Run(find_run(Store(places.results), run_id), places)
