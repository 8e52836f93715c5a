"""The machine that a script measures: what it is, and when it is done. Imports nothing that takes time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from anomaly_bench.bench.processor import bfloat16_units, cpu_name

# cuBLAS reads it when it starts, and has no deterministic kernels without it; Lightning sets it for a run.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def hardware() -> dict[str, Any]:
    """The columns by which a row says where it was measured."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def device_slug() -> str:
    """Such as `nvidia-h200`, or `cpu`, with its bfloat16 units where it has some: `cpu-amx`."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name().lower().replace(" ", "-")
    return "-".join(filter(None, ["cpu", (bfloat16_units() or "").lower()]))


def precision_used(precision: str) -> str:
    """The precision asked for, and that a GPU's convolutions round their inputs to TF32 where PyTorch was left to."""
    rounds = precision == "32-true" and torch.cuda.is_available() and torch.backends.cudnn.allow_tf32
    return f"{precision}, TF32 convolutions" if rounds else precision


def synchronise() -> None:
    """Wait for the GPU where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_mib() -> float:
    """The most memory in use so far: of the GPU where there is one, else of this process without its workers."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return process_peak_mib()


def process_peak_mib() -> float:
    """Of this process without its workers; Linux only. Not `getrusage`, whose peak a process has from its parent."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 2**10
