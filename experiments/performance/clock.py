"""What every contender of `train.py` measures in its own process; imports nothing of the package."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch


class EpochClock:
    """Seconds of every epoch's training, from its start to the end of its last step; evaluation is not in it.

    Args:
        images: in an epoch.
        batch: images a step; the last may be short.
    """

    def __init__(self, images: int, batch: int) -> None:
        self.images, self.steps = images, -(-images // batch)
        self.seconds: list[float] = []
        self.started = 0.0

    def epoch_started(self) -> None:
        synchronise()
        self.started = time.perf_counter()

    def step_ended(self, index: int) -> None:
        """After step `index`, counted from 0; the GPU is waited for at the last one alone."""
        if index == self.steps - 1:
            synchronise()
            self.seconds.append(time.perf_counter() - self.started)

    def report(self) -> None:
        """Print one JSON line; the first epoch, which warms up and fills caches, counts in no mean."""
        seconds = sum(self.seconds[1:]) / len(self.seconds[1:])
        measured = {
            "images_per_second": self.images / seconds,
            "step_seconds": seconds / self.steps,
            "first_epoch_seconds": self.seconds[0],
            "peak_mib": peak_mib(),
        }
        print(json.dumps(measured), flush=True)


def synchronise() -> None:
    """Wait for the GPU where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_mib() -> float:
    """The most memory in use so far: of the GPU where there is one, else of this process without its workers."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 2**10
