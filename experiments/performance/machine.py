"""The machine that a script measures: what it is, and when it is done. Imports nothing of the package."""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import Any

import torch


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def hardware() -> dict[str, Any]:
    """The columns by which a row says where it was measured."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def cpu_name() -> str:
    """The processor's name where the system tells it, else its architecture."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.machine()


def device_slug() -> str:
    """`cpu`, or such as `nvidia-h200`."""
    return torch.cuda.get_device_name().lower().replace(" ", "-") if torch.cuda.is_available() else "cpu"


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
