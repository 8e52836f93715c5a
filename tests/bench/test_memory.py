"""What the process keeps of freed memory while it trains, and gives back before the next run."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from anomaly_bench.bench import memory

FREED = """
import torch
from anomaly_bench.bench.memory import give_memory_back, keep_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20

keep_freed_memory()
start = resident()
torch.ones(50 * 2**18)  # 50 MiB, freed at once
kept = resident() - start
give_memory_back()
print(kept, resident() - start)
"""


@pytest.mark.skipif(memory._gnu_library() is None, reason="needs the GNU C library")
@pytest.mark.parametrize("told", [{}, {"MALLOC_TRIM_THRESHOLD_": "131072"}], ids=["", "told otherwise by the user"])
def test_freed_memory_is_kept_until_it_is_given_back(told: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, "-c", FREED], env=os.environ | told, capture_output=True, check=True)
    kept, after = map(int, done.stdout.split())
    assert kept > 45 if not told else kept < 10
    assert after < 10


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    memory._gnu_library.cache_clear()
    memory.keep_freed_memory()
    memory.give_memory_back()
    memory._gnu_library.cache_clear()
