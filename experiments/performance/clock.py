"""What every contender of `train.py` measures in its own process; imports nothing of the package that takes time."""

from __future__ import annotations

import json
import time

from machine import hardware, peak_mib, precision_used, synchronise


class EpochClock:
    """Seconds of every epoch's training, from its start to the end of its last step; evaluation is not in it.

    Args:
        images: in an epoch.
        batch: images a step; the last may be short.
        precision: in which they are trained, as Lightning names it.
    """

    def __init__(self, images: int, batch: int, precision: str) -> None:
        self.images, self.batch, self.precision = images, batch, precision
        self.steps = -(-images // batch)
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
        """Print one JSON line; the first epoch, in which kernels are chosen and memory is asked for, is in no mean."""
        seconds = sum(self.seconds[1:]) / len(self.seconds[1:])
        measured = {
            "batch": self.batch,
            "precision": precision_used(self.precision),
            "images_per_second": self.images / seconds,
            "step_seconds": seconds / self.steps,
            "first_epoch_seconds": self.seconds[0],
            "peak_mib": peak_mib(),
            **hardware(),
        }
        print(json.dumps(measured), flush=True)
