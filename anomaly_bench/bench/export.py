"""A run as one ONNX file: images in, anomaly maps and scores out, by the rule of the run's own record.

In      `images`, (N, size, size, 3) uint8, RGB, already resized as `data.images.read_image` resizes
Out     `maps`, (N, size, size) float32, fused and smoothed; `scores`, (N,) float32
Inside  everything between: normalisation, teacher, student, distances, fusion, smoothing, score; in float32
Checked before the file is there: onnxruntime's maps against PyTorch's, on photographs that scikit-image ships

What the rule does with SciPy is exact here too: a Gaussian with mirrored borders is linear in the rows and in the
columns of a map, so that it is one matrix on either side, and SciPy itself says which.
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn

from anomaly_bench.bench.evaluate import fuse_maps, fuse_stages, score_images
from anomaly_bench.bench.predictor import Prediction, Predictor
from anomaly_bench.data.images import fill_colours
from anomaly_bench.errors import UserError
from anomaly_bench.methods.base import unit_range

PACKAGES = ("onnx", "onnxscript", "onnxruntime")  # of the extra `export`
TOLERANCE = 1e-3  # of maps as large as three stages of cosine distances can be, or smaller
LARGEST = 6.0  # such maps' largest value; a distance of PaDiM's is in the hundreds, and float32 has so many digits
PHOTOGRAPHS = ("astronaut", "brick", "camera", "coins", "grass", "gravel")


class ExportFailedError(Exception):
    """The run cannot be exported, or its file does not give PyTorch's maps; no file is left."""


@dataclass(frozen=True)
class ExportCheck:
    """How far the file is from PyTorch, over `images` images.

    Attributes:
        images: how many were compared.
        maps: largest difference of a pixel to PyTorch in float32.
        allowed: `TOLERANCE`, and in proportion more where the maps go beyond `LARGEST`.
        scores: largest difference of a score to PyTorch in float32.
        own_precision: largest difference of a score to PyTorch in the run's own precision, in which `predict` runs.
    """

    images: int
    maps: float
    allowed: float
    scores: float
    own_precision: float


class ExportableRun(nn.Module):
    """`Predictor.predict` as one graph of tensors.

    Args:
        predictor: its method must be on the CPU.
    """

    smoothing: Tensor

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.method, self.rule, self.size = predictor.method, predictor.evaluation, predictor.image_size
        self.register_buffer("smoothing", smoothing_matrix(self.size, self.rule.sigma))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, size, size, 3) uint8 to maps (N, size, size) and scores (N,)."""
        stage_maps = self.method.stage_maps(unit_range(images.permute(0, 3, 1, 2)))
        maps = fuse_stages(stage_maps, self.size, self.rule)
        maps = self.smoothing @ maps @ self.smoothing.T
        side = self.rule.mean_kernel
        if side > 1:
            maps = F.avg_pool2d(maps[:, None], side, stride=1, padding=side // 2, count_include_pad=False)[:, 0]
        return maps, maps.amax(dim=(1, 2)) if self.rule.image_score == "max" else maps.mean(dim=(1, 2))


def smoothing_matrix(size: int, sigma: float) -> Tensor:
    """G for which G X G^T is `scipy.ndimage.gaussian_filter(X, sigma)` of a (size, size) map, in float32."""
    identity = np.eye(size)
    matrix = gaussian_filter1d(identity, sigma, axis=0) if sigma else identity
    return torch.from_numpy(matrix.astype(np.float32))


def export_onnx(predictor: Predictor, path: Path) -> ExportCheck:
    """Write the run to `path`, after its maps there have been found equal to PyTorch's.

    Args:
        predictor: the run, on the CPU.
        path: the file, which is replaced whole.

    Raises:
        UserError: a package is missing, or the file cannot be written.
        ExportFailedError: the method cannot be exported, what is exported cannot be run, or its maps differ by more
            than is allowed.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(f"export needs {' and '.join(missing)}; run pip install 'anomaly-bench[export]'.")
    with _staged(path) as staged:
        _write_graph(predictor, staged)
        checked = _compare(predictor, staged)
        if not checked.maps <= checked.allowed:  # NaN is no pass
            raise ExportFailedError(
                f"the exported maps of run {predictor.spec.run_id} differ from PyTorch's by {checked.maps:.2g}, more "
                f"than {checked.allowed:.2g}; {path} was not written."
            )
    return checked


@contextmanager
def _staged(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its place when the block ends well, and else vanishes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=".onnx", dir=path.parent)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); choose another --out.") from error
    os.close(descriptor)
    staged = Path(name)
    try:
        yield staged
        staged.chmod(0o644)
        staged.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); choose another --out.") from error
    finally:
        staged.unlink(missing_ok=True)


def _write_graph(predictor: Predictor, path: Path) -> None:
    size = predictor.image_size
    model = ExportableRun(predictor).eval()
    # Two images: the exporter would take a batch of one for a constant.
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    try:
        with _quiet():
            program: Any = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=["maps", "scores"],
                dynamic_shapes={"images": {0: torch.export.Dim("n", min=1)}},
            )
    except Exception as error:  # the exporter's own, of many kinds
        raise ExportFailedError(f"run {predictor.spec.run_id} cannot be exported ({_reason(error)}).") from error
    program.model.metadata_props.update({"run": predictor.spec.run_id, "title": predictor.spec.title})
    program.save(path, external_data=False)


def _reason(error: BaseException) -> str:
    """The first line of what went wrong first; what the exporter wraps around it is advice to its developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes to its own developers."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)


def _compare(predictor: Predictor, path: Path) -> ExportCheck:
    images = check_images(predictor.image_size)
    try:
        exported = run_onnx(path, images)
    except Exception as error:  # onnxruntime's own, of many kinds
        raise ExportFailedError(
            f"onnxruntime cannot run the exported run {predictor.spec.run_id} ({_reason(error)}); no file was written."
        ) from error
    own, rule = predictor.predict(images), predictor.evaluation
    stages = replace(predictor, precision="32-true").stage_maps(images)
    maps = fuse_maps(stages, predictor.image_size, rule)
    return ExportCheck(
        images=len(images),
        maps=float(np.abs(exported.maps - maps).max()),
        allowed=TOLERANCE * max(1.0, float(np.abs(maps).max()) / LARGEST),
        scores=float(np.abs(exported.scores - score_images(maps, rule)).max()),
        own_precision=float(np.abs(exported.scores - own.scores).max()),
    )


def check_images(size: int) -> NDArray[np.uint8]:
    """(6, size, size, 3): photographs that nothing was trained on, so that maps are large somewhere."""
    from skimage import data

    images = np.empty((len(PHOTOGRAPHS), size, size, 3), dtype=np.uint8)
    for image, name in zip(images, PHOTOGRAPHS, strict=True):
        fill_colours(image, getattr(data, name)())
    return images


def run_onnx(path: Path, images: NDArray[np.uint8]) -> Prediction:
    """What onnxruntime makes of the file on the CPU, image by image as a production line would; (N, size, size, 3)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    answers = [session.run(["maps", "scores"], {"images": image[None]}) for image in images]
    maps, scores = (np.concatenate(parts) for parts in zip(*answers, strict=True))
    return Prediction(maps, scores)
