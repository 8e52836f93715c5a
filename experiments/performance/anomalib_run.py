"""anomalib's ReverseDistillation on one folder: trains, evaluates and writes as its `Engine` does; for `train.py`.

Run by an interpreter that has anomalib. Its backbone is given and its weights are random; all that no argument names is
anomalib's default.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from anomalib.data import MVTecAD
from anomalib.engine import Engine
from anomalib.models import ReverseDistillation
from clock import EpochClock
from lightning.pytorch import Callback


class Clock(Callback):
    """An `EpochClock` that Lightning winds."""

    def __init__(self, clock: EpochClock) -> None:
        self.clock = clock

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.clock.epoch_started()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.clock.step_ended(batch_idx)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder that holds the category")
    parser.add_argument("--category", required=True)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--images", type=int, required=True, help="training images in the folder")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--precision", default="32-true")
    options = parser.parse_args()
    data = MVTecAD(options.root, options.category, train_batch_size=options.batch, num_workers=options.workers)
    model = ReverseDistillation(backbone=options.backbone, pre_trained=False)
    clock = EpochClock(options.images, options.batch, options.precision)
    with tempfile.TemporaryDirectory() as results:
        engine = Engine(
            callbacks=[Clock(clock)],
            default_root_dir=results,
            max_epochs=options.epochs,
            precision=options.precision,
            devices=1,
            enable_progress_bar=False,
        )
        engine.fit(model, data)
        engine.test(model, data)
    clock.report()


if __name__ == "__main__":
    main()
