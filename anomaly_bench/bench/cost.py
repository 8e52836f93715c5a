"""What a run cost, and what it ran on: the part of a record that no table compares."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from anomaly_bench import __version__
from anomaly_bench.methods.base import DistillationMethod

PACKAGES = ("torch", "torchvision", "lightning", "timm", "numpy", "scipy", "scikit-image", "opencv-python", "pillow")
OPTIONAL = ("mamba-ssm", "segment-anything")


def parameter_counts(method: DistillationMethod) -> dict[str, int]:
    """Teacher and student apart: papers count one, the other, or both."""
    teacher = sum(parameter.numel() for parameter in method.teacher.parameters())
    everything = sum(parameter.numel() for parameter in method.parameters())
    return {"parameters_teacher": teacher, "parameters_student": everything - teacher}


@torch.no_grad()
def multiply_accumulates(method: DistillationMethod, image_size: int) -> int:
    """Of one image from input to stage maps, teacher included; convolutions and matrix products are counted."""
    was_training = method.training
    method.eval()
    image = torch.zeros(1, 3, image_size, image_size, device=next(method.parameters()).device)
    with FlopCounterMode(display=False) as counter:
        method.stage_maps(image)
    method.train(was_training)
    return counter.get_total_flops() // 2  # PyTorch counts a multiplication and an addition apart


def peak_memory(device: torch.device) -> dict[str, Any]:
    """On a GPU the run's own peak; elsewhere the whole process's, which earlier runs may have set."""
    if device.type == "cuda":
        return {"peak_memory_bytes": torch.cuda.max_memory_allocated(device), "peak_memory_of": "this run, GPU"}
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"peak_memory_bytes": peak, "peak_memory_of": "the process so far"}


def device_name(device: torch.device) -> str:
    """`NVIDIA ...`, or the processor's own name with the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def provenance() -> dict[str, Any]:
    """Versions, and the commit where the package is run from a clone."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    # Where it is installed, its kernel takes the place of our scan on a GPU.
    versions |= {name: importlib.metadata.version(name) for name in OPTIONAL if find_spec(name.replace("-", "_"))}
    versions |= {"python": platform.python_version(), "anomaly-bench": __version__}
    return {"versions": versions, "commit": _commit()}


def _commit() -> str | None:
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
