"""Lets W&B and Lightning's loggers watch a run. They change no number.

What goes wrong with one of them is said in one line; it then sees no more of the run, and the training goes on.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from anomaly_bench.bench import wandb_run
from anomaly_bench.bench.ddp import shared_batches
from anomaly_bench.bench.evaluate import StageMaps
from anomaly_bench.bench.onlookers import LoggerName, Onlookers
from anomaly_bench.bench.progress import say
from anomaly_bench.bench.spec import RunSpec
from anomaly_bench.bench.store import Record
from anomaly_bench.data.base import AnomalyDataModule
from anomaly_bench.methods.base import ImageBatch

T = TypeVar("T")


@contextmanager
def watch_run(onlookers: Onlookers, spec: RunSpec, results: Path) -> Iterator[Watch]:
    """Onlookers watch one run while the block lasts.

    Args:
        onlookers: who.
        spec: the run.
        results: the results folder, of which `logs/` and (without WANDB_DIR) `wandb/` are filled.
    """
    watch = Watch()
    if onlookers.logger != "none":
        watch.add_logger(onlookers.logger, spec, results)
    if onlookers.wandb != "off":
        watch.add_wandb(onlookers, spec, results)
    try:
        yield watch
    except BaseException:
        watch.finish(failed=True)
        raise
    watch.finish(failed=False)


class Guard:
    """Keeps what an onlooker raises away from the run: says it in one line, and calls that onlooker no more."""

    def __init__(self, name: str) -> None:
        self.name, self.failed = name, False

    def attempt(self, act: Callable[[], T]) -> T | None:
        """What `act` returns; None where it raises, or where an earlier one raised."""
        if self.failed:
            return None
        try:
            return act()
        except Exception as error:
            self.failed = True
            reason = " ".join(str(error).split()) or type(error).__name__
            say(f"warning: {self.name} has failed ({reason}); all else goes on without it.")
            return None


class GuardedLogger(Logger):
    """A logger that cannot stop a training; it counts epochs from 1, as the run's curves do."""

    def __init__(self, logger: Logger, guard: Guard) -> None:
        super().__init__()
        self._logger, self._guard = logger, guard

    @property
    def name(self) -> str | None:
        return self._guard.attempt(lambda: self._logger.name)

    @property
    def version(self) -> int | str | None:
        return self._guard.attempt(lambda: self._logger.version)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        shifted = metrics | ({"epoch": metrics["epoch"] + 1} if "epoch" in metrics else {})
        self._guard.attempt(lambda: self._logger.log_metrics(shifted, step))

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        self._guard.attempt(lambda: self._logger.log_hyperparams(params))

    def save(self) -> None:
        self._guard.attempt(self._logger.save)

    def finalize(self, status: str) -> None:
        self._guard.attempt(lambda: self._logger.finalize(status))


def open_logger(name: LoggerName, spec: RunSpec, results: Path) -> Logger:
    """One of Lightning's loggers into `<results>/logs/<run id>/version_<n>/`, the run's spec already in it."""
    folder = results / "logs"
    if name == "csv":
        logger: Logger = CSVLogger(folder, name=spec.run_id)
    else:
        logger = TensorBoardLogger(folder, name=spec.run_id, default_hp_metric=False)
    logger.log_hyperparams(spec.as_json())
    logger.save()
    return logger


class Watch:
    """Those who watch one run.

    Attributes:
        loggers: what the trainer tells of every epoch.
    """

    def __init__(self) -> None:
        self.loggers: list[Logger] = []
        self._wandb: Any = None  # the W&B run
        self._guard = Guard("Weights & Biases")

    @property
    def callbacks(self) -> list[Callback]:
        return [Pace()] if self.loggers else []

    def add_logger(self, name: LoggerName, spec: RunSpec, results: Path) -> None:
        """One of Lightning's; none where it cannot be opened."""
        guard = Guard(f"the {name} logger")
        logger = guard.attempt(lambda: open_logger(name, spec, results))
        if logger is not None:
            self.loggers.append(GuardedLogger(logger, guard))

    def add_wandb(self, onlookers: Onlookers, spec: RunSpec, results: Path) -> None:
        """A W&B run for this run; none where it cannot be opened."""
        self._wandb = self._guard.attempt(lambda: wandb_run.open_training(onlookers, spec, results))
        if self._wandb is not None:
            logger = self._guard.attempt(lambda: wandb_run.epoch_logger(self._wandb))
            self.loggers += [GuardedLogger(logger, self._guard)] if logger is not None else []

    def publish(self, record: Record, stage_maps: StageMaps, data: AnomalyDataModule, folder: Path) -> None:
        """Tell W&B how the run ended.

        Args:
            record: as it is in the store.
            stage_maps: of the test images.
            data: the run's images and ground truth.
            folder: the record's.
        """
        if self._wandb is not None:
            self._guard.attempt(lambda: wandb_run.publish(self._wandb, record, stage_maps, data, folder))

    def finish(self, *, failed: bool) -> None:
        """Close the W&B run, also one that could not take everything."""
        if self._wandb is not None:
            Guard(self._guard.name).attempt(lambda: self._wandb.finish(exit_code=int(failed)))


class Pace(Callback):
    """Tells the loggers, and nobody else, every epoch's learning rates and images per second."""

    def __init__(self) -> None:
        self.start, self.images = 0.0, 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start, self.images = time.perf_counter(), 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: ImageBatch, batch_idx: int
    ) -> None:
        self.images += shared_batches(trainer).order.images_in(batch_idx)  # on all devices

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        told = {"images_per_second": self.images / (time.perf_counter() - self.start), "epoch": trainer.current_epoch}
        last_step = trainer.global_step - 1  # under which Lightning tells them the epoch's loss terms
        # Not by `self.log`: what is logged there becomes a column of the run's curves.
        for logger in trainer.loggers:
            logger.log_metrics(told | learning_rates(trainer), step=last_step)


def learning_rates(trainer: Trainer) -> dict[str, float]:
    """`lr`, or `lr/0`, `lr/1` ... where groups of parameters have rates of their own; none without an optimiser."""
    rates = [float(group["lr"]) for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return {"lr": rates[0]} if len(set(rates)) == 1 else {f"lr/{index}": rate for index, rate in enumerate(rates)}
