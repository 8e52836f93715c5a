"""A stored run put together again, to score any image by the very rule of its record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from anomaly_bench.bench.catalog import load_method
from anomaly_bench.bench.evaluate import fuse_maps, score_images
from anomaly_bench.bench.execute import CHECKPOINT, build_method, check_networks, open_data
from anomaly_bench.bench.places import Places
from anomaly_bench.bench.precision import running_in
from anomaly_bench.bench.spec import EvalSpec, RunSpec
from anomaly_bench.bench.store import Failure, Record, Store
from anomaly_bench.data.base import PREDICT_BATCH
from anomaly_bench.errors import UserError
from anomaly_bench.methods.base import DistillationMethod, unit_range
from anomaly_bench.methods.protocol import Precision
from anomaly_bench.weights import WeightsFile, require_weights


@dataclass(frozen=True)
class Prediction:
    """What a run says of N images.

    Attributes:
        maps: (N, size, size), the stages fused and smoothed; higher is more anomalous, in the method's own unit.
        scores: (N,), higher is more anomalous.
    """

    maps: NDArray[np.float32]
    scores: NDArray[np.float32]


@dataclass(frozen=True)
class Predictor:
    """A trained method on a device, see `load_predictor`.

    Attributes:
        record: the run's.
        method: teacher and student, in evaluation mode.
        precision: in which the networks run; the run's own gives the record's numbers.
    """

    record: Record
    method: DistillationMethod
    precision: Precision

    @property
    def spec(self) -> RunSpec:
        return self.record.spec

    @property
    def evaluation(self) -> EvalSpec:
        """The rule of the record's own metrics."""
        rule = EvalSpec(**self.record.evaluations[self.record.evaluation]["spec"])
        assert rule.background == "none", "no method's own rule leaves the background out"
        return rule

    @property
    def image_size(self) -> int:
        """Height and width of the images, in pixels."""
        return self.spec.protocol.image_size

    def predict(self, images: NDArray[np.uint8]) -> Prediction:
        """Maps and scores of RGB images, (N, size, size, 3), as `data.images.read_image` gives them."""
        # Rounded as the store keeps them, and as the record's metrics were computed from them.
        kept = {name: maps.astype(np.float16) for name, maps in self.stage_maps(images).items()}
        maps = fuse_maps(kept, self.image_size, self.evaluation)
        return Prediction(maps, score_images(maps, self.evaluation))

    @torch.inference_mode()
    def stage_maps(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """The maps before fusion, (N, h_k, w_k) by name."""
        batches = []
        with running_in(self.precision, self.method.device):
            for batch in torch.split(torch.from_numpy(images), PREDICT_BATCH):
                pixels = unit_range(batch.to(self.method.device).permute(0, 3, 1, 2))  # (N, 3, H, W)
                stages = self.method.stage_maps(pixels)
                batches.append({name: maps.float().cpu().numpy() for name, maps in stages.items()})
        return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def find_run(store: Store, prefix: str) -> Record:
    """The one finished run whose id begins with `prefix`.

    Raises:
        UserError: there is none, there are several, or it failed or is broken.
    """
    folders = store.runs.iterdir() if store.runs.is_dir() else []
    found = sorted(path.name for path in folders if path.is_dir() and path.name.startswith(prefix) and prefix)
    found = [prefix] if prefix in found else [name for name in found if not name.startswith(".")]
    if not found:
        raise UserError(f"no run in {store.runs} begins with '{prefix}'; `anomaly-bench list runs` shows all.")
    if len(found) > 1:
        raise UserError(f"{len(found)} runs begin with '{prefix}' ({', '.join(found)}); give more of the id.")
    entry = store.load(found[0])
    if isinstance(entry, Record):
        return entry
    if isinstance(entry, Failure):
        raise UserError(f"run {found[0]} failed ({entry.reason}); choose another, or train it anew by `run --again`.")
    raise UserError(store.complaints[-1] if store.complaints else f"{store.folder(found[0])} holds no record.")


def load_predictor(record: Record, places: Places, *, device: str | None = None) -> Predictor:
    """The run's trained method, its teacher from the weights at hand.

    Args:
        record: the run's.
        places: where its folder and the weights are; the data are not needed.
        device: PyTorch's name of it; by default a GPU where there is one.

    Raises:
        UserError: the checkpoint is gone or damaged, the teacher's weights are missing or are not the run's, the
            method has changed since, or a package that it needs is not installed.
    """
    spec = record.spec
    _check_revision(spec)
    load_method(spec.method).require()
    check_networks(spec)
    state = _read_checkpoint(Store(places.results).folder(spec.run_id) / CHECKPOINT)
    # A student of its own begins untrained: all its weights are in the checkpoint.
    method = build_method(spec, {"teacher": _own_teacher(record, places.weights_dir), "student": None})
    if state.keys() != method.student_state().keys():
        raise UserError(f"the checkpoint of run {spec.run_id} is of another network; train it anew by `run --again`.")
    method.load_state_dict(state, strict=False)  # the teacher's part is in its own file
    found = device or ("cuda" if torch.cuda.is_available() else "cpu")
    method.to(found, memory_format=torch.channels_last).eval()
    return Predictor(record, method, spec.protocol.precision)


def _check_revision(spec: RunSpec) -> None:
    revision = load_method(spec.method).revision
    if revision != spec.method_revision:
        raise UserError(
            f"run {spec.run_id} was trained with revision {spec.method_revision} of {spec.method}, which is now at "
            f"{revision}; train it anew."
        )


def _own_teacher(record: Record, weights_dir: Path | None) -> WeightsFile | None:
    """The teacher's weights at hand, which must be the run's; None for an untrained teacher."""
    weights = require_weights(record.spec.protocol.teacher, weights_dir)
    recorded = record.evidence[record.spec.protocol.weights_evidence["teacher"]]
    if weights is not None and weights.evidence["sha256"] != recorded["sha256"]:
        raise UserError(
            f"{weights.path} is not the teacher that run {record.spec.run_id} was trained with; put {recorded['file']} "
            f"of SHA-256 {recorded['sha256'][:16]}... into --weights-dir."
        )
    return weights


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        raise UserError(
            f"{path} is not there (checkpoints are kept out of git, and --keep may leave them out); train the run anew "
            "by `run --again`."
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); train the run anew by `run --again`.") from error


def check_rate(false_positive_rate: float) -> None:
    """Raise UserError unless it is in [0, 1)."""
    if not 0 <= false_positive_rate < 1:
        raise UserError(f"a false-positive rate is at least 0 and below 1, not {false_positive_rate:g}.")


def threshold_at(scores: NDArray[np.floating], false_positive_rate: float) -> float:
    """The lowest of `scores`, of normal images, that at most this share of them is above.

    Args:
        scores: (N,).
        false_positive_rate: in [0, 1).

    Raises:
        UserError: the rate is out of range.
    """
    check_rate(false_positive_rate)
    allowed = int(false_positive_rate * len(scores) + 1e-9)  # 0.07 * 100 is a little more than 7, 0.29 * 100 less
    return float(np.sort(scores)[len(scores) - 1 - allowed])


def training_scores(predictor: Predictor, places: Places) -> NDArray[np.float32]:
    """The scores of the images that the run was trained on, (N,).

    Raises:
        UserError: the data are not at hand, or are not the run's.
    """
    data = open_data(predictor.spec, places)
    if data.manifest_sha256() != predictor.record.evidence["data"]["manifest_sha256"]:
        raise UserError(
            f"the data in {data.folder} are not those that run {predictor.spec.run_id} was made from; name the folder "
            "that holds them by --data-root, or leave --fpr out."
        )
    data.setup()
    assert data.train_pixels is not None
    batches = torch.split(data.train_pixels, PREDICT_BATCH)  # (N, H, W, 3) each
    return np.concatenate([predictor.predict(batch.numpy()).scores for batch in batches])
