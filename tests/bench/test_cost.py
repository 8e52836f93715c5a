"""What a record says of the machine: the processor, how it multiplies bfloat16, and versions by whatever name."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
import torch

from anomaly_bench.bench import cost, processor

INTEL = "processor\t: 0\nmodel name\t: Some Xeon\nflags\t\t: fpu avx512f{}\n\nprocessor\t: 1\nmodel name\t: Some Xeon\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16\n"


@pytest.mark.parametrize(
    ("info", "units", "named"),
    [
        (INTEL.format(" avx512_bf16 amx_bf16"), "AMX", "Some Xeon, AMX bfloat16"),
        (INTEL.format(" avx512_bf16"), "AVX512", "Some Xeon, AVX512 bfloat16"),
        (INTEL.format(""), "", "Some Xeon, no bfloat16 units"),
        (ARM, "Arm", ", Arm bfloat16"),
        (None, None, ""),
    ],
)
def test_a_processor_is_named_with_its_bfloat16_units(
    info: str | None, units: str | None, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "CPU_INFO", tmp_path / "cpuinfo")
    if info is not None:
        (tmp_path / "cpuinfo").write_text(info)
    assert processor.bfloat16_units() == units
    assert cost.device_name(torch.device("cpu")).endswith(f"{named}, {torch.get_num_threads()} threads")


def test_opencv_without_windows_is_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {**dict.fromkeys(cost.PACKAGES, "1"), "opencv-python-headless": "2"}
    del versions["opencv-python"]

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(cost.importlib.metadata, "version", version)
    monkeypatch.setattr(cost, "OPTIONAL", ())
    assert cost.provenance()["versions"]["opencv-python"] == "2"
