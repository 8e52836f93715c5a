"""What a run cost, and what it ran on: the part of a record that no table compares."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from anomaly_bench import __version__
from anomaly_bench.bench.processor import cpu_name
from anomaly_bench.methods.base import DistillationMethod

PACKAGES = ("torch", "torchvision", "lightning", "timm", "numpy", "scipy", "scikit-image", "opencv-python", "pillow")
LATENCY_WARM_UP, LATENCY_CALLS, LATENCY_SECONDS = 3, (8, 50), 0.5  # calls not counted; fewest and most; then enough
OPTIONAL = ("mamba-ssm", "segment-anything", "anomalib")
STAND_INS = {"opencv-python": "opencv-python-headless"}  # the same package by another name


def parameter_counts(method: DistillationMethod) -> dict[str, int]:
    """Teacher and student apart: papers count one, the other, or both."""
    teacher = sum(parameter.numel() for parameter in method.teacher.parameters())
    everything = sum(parameter.numel() for parameter in method.parameters())
    return {"parameters_teacher": teacher, "parameters_student": everything - teacher}


def multiply_accumulates(method: DistillationMethod, image_size: int) -> dict[str, int]:
    """Of one image from input to stage maps; convolutions and matrix products are counted, nothing else.

    `multiply_accumulates` has the teacher in it, `multiply_accumulates_student` not.
    """
    image = _one_image(method, image_size)
    everything, teacher = _counted(method, method.stage_maps, image), _counted(method, method.teacher, image)
    return {"multiply_accumulates": everything, "multiply_accumulates_student": everything - teacher}


@torch.no_grad()
def _counted(method: DistillationMethod, call: Callable[[Tensor], object], image: Tensor) -> int:
    with _in_evaluation(method), FlopCounterMode(display=False) as counter:
        call(image)
    return counter.get_total_flops() // 2  # PyTorch counts a multiplication and an addition apart


@torch.no_grad()
def latency(method: DistillationMethod, image_size: int) -> dict[str, float]:
    """`seconds_latency`: median time from one image to its stage maps, teacher included, after calls that warm up."""
    image, seconds = _one_image(method, image_size), list[float]()
    with _in_evaluation(method):
        while len(seconds) < LATENCY_CALLS[0] or (sum(seconds) < LATENCY_SECONDS and len(seconds) < LATENCY_CALLS[1]):
            start = time.perf_counter()
            method.stage_maps(image)
            if image.is_cuda:
                torch.cuda.synchronize(image.device)
            seconds.append(time.perf_counter() - start)
    return {"seconds_latency": statistics.median(seconds[LATENCY_WARM_UP:])}


def _one_image(method: DistillationMethod, image_size: int) -> Tensor:
    return torch.zeros(1, 3, image_size, image_size, device=next(method.parameters()).device)


@contextmanager
def _in_evaluation(method: DistillationMethod) -> Iterator[None]:
    was_training = method.training
    method.eval()
    try:
        yield
    finally:
        method.train(was_training)


def peak_memory(device: torch.device) -> dict[str, Any]:
    """On a GPU the run's own peak; elsewhere the whole process's, which earlier runs may have set."""
    if device.type == "cuda":
        return {"peak_memory_bytes": torch.cuda.max_memory_allocated(device), "peak_memory_of": "this run, GPU"}
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"peak_memory_bytes": peak, "peak_memory_of": "the process so far"}


def device_name(device: torch.device) -> str:
    """`NVIDIA ...`, or the processor's own name with its bfloat16 units, where that is known, and the threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name()}, {torch.get_num_threads()} threads"


def provenance() -> dict[str, Any]:
    """Versions, and the commit where the package is run from a clone."""
    versions = {name: _version(name) for name in PACKAGES}
    # Where it is installed, its kernel takes the place of our scan on a GPU.
    versions |= {name: importlib.metadata.version(name) for name in OPTIONAL if find_spec(name.replace("-", "_"))}
    versions |= {"python": platform.python_version(), "anomaly-bench": __version__}
    return {"versions": versions, "commit": commit()}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return importlib.metadata.version(STAND_INS.get(package, package))


def commit() -> str | None:
    """The clone's commit, with `+changes` where the package's files differ from it; None outside a clone."""
    package = Path(__file__).parent.parent

    def git(*words: str) -> str:
        command = ["git", "-C", str(package), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != package.parent.resolve():
            return None  # installed somewhere below another repository, whose commits say nothing
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--", str(package)) else "")
    except (OSError, subprocess.CalledProcessError):
        return None
