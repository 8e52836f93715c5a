"""The processor: its name, and whether it multiplies bfloat16 numbers itself. Imports next to nothing."""

from __future__ import annotations

import platform
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512", "bf16": "Arm"}


def cpu_name() -> str:
    """The processor's own name where the system tells it, else its architecture; then its bfloat16 units, if known."""
    names, units = _told("model name"), bfloat16_units()
    known = {None: "", "": ", no bfloat16 units"}.get(units, f", {units} bfloat16")
    return (names[0] if names else platform.processor() or platform.machine()) + known


def bfloat16_units() -> str | None:
    """What multiplies bfloat16 numbers in this processor; "" for nothing, None where the system does not tell."""
    features = {word for line in [*_told("flags"), *_told("Features")] for word in line.split()}
    return next((name for flag, name in BFLOAT16_FLAGS.items() if flag in features), "") if features else None


def _told(field: str) -> list[str]:
    """What Linux says under that name of each processor; nothing elsewhere."""
    lines = CPU_INFO.read_text(encoding="utf-8").splitlines() if CPU_INFO.exists() else []
    return [value.strip() for name, _, value in (line.partition(":") for line in lines) if name.strip() == field]
