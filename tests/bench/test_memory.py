"""What the process keeps of freed memory while it trains, and gives back before the next run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from anomaly_bench.bench import memory

TOLD = [{"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}]
FREED = """
import torch
from anomaly_bench.bench.memory import give_memory_back, keep_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20

keep_freed_memory()
start = resident()
torch.ones(30 * 2**18)  # 30 MiB, freed at once
kept = resident() - start
give_memory_back()
print(kept, resident() - start)
"""


@pytest.mark.skipif(memory._gnu_library() is None, reason="needs the GNU C library")
@pytest.mark.parametrize("told", [{}, *TOLD], ids=repr)
def test_freed_memory_is_kept_until_it_is_given_back(told: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, "-c", FREED], env=os.environ | told, capture_output=True, check=True)
    kept, after = map(int, done.stdout.split())
    assert kept > 25 if not told else kept < 10
    assert after < 10


@pytest.mark.parametrize("most", [2**25, 2**40])
def test_an_old_library_is_told_what_it_takes(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[int, int] = {}

    def mallopt(name: int, value: int) -> bool:
        if name == memory.M_MMAP_THRESHOLD and value > most:
            return False
        told[name] = value
        return True

    monkeypatch.setattr(memory, "_gnu_library", lambda: SimpleNamespace(mallopt=mallopt))
    memory.keep_freed_memory()
    assert told == {memory.M_MMAP_THRESHOLD: min(most, 2**30), memory.M_TRIM_THRESHOLD: 2**30}


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    memory._gnu_library.cache_clear()
    memory.keep_freed_memory()
    memory.give_memory_back()
    memory._gnu_library.cache_clear()


def test_a_gpu_s_free_memory_is_of_this_process_s_share_and_counts_what_pytorch_keeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = memory.torch.device("cuda", 0)

    def is_of_cuda(free: int, share: float, reserved: int, allocated: int) -> int:
        answers = {
            "mem_get_info": (free, 1000),
            "get_per_process_memory_fraction": share,
            "memory_reserved": reserved,
            "memory_allocated": allocated,
        }
        for name, answer in answers.items():
            monkeypatch.setattr(memory.torch.cuda, name, lambda of, answer=answer: answer if of is device else None)
        return memory.free_memory(device)

    assert is_of_cuda(free=600, share=1.0, reserved=0, allocated=0) == 600
    assert is_of_cuda(free=600, share=0.25, reserved=0, allocated=0) == 250
    assert is_of_cuda(free=600, share=0.25, reserved=100, allocated=40) == 150 + 60


@pytest.mark.parametrize(
    "ask",
    [
        lambda: np.empty(1 << 60, dtype=np.uint8),
        lambda: torch.empty(1 << 55),
        lambda: torch.empty(1 << 40, 1 << 40),
    ],
)
def test_asking_for_too_much_is_known_as_that(ask: Callable[[], object]) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as found:
        ask()
    assert memory.is_for_memory(found.value)
    assert not memory.is_for_memory(RuntimeError("shape '[2, 2]' is invalid for input of size 3"))
