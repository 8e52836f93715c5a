"""The training and the prediction of one run, by Lightning; what it leaves behind."""

from __future__ import annotations

import logging
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from anomaly_bench.bench.checkpoint import Checkpoints
from anomaly_bench.bench.cost import device_name, latency, multiply_accumulates, parameter_counts, peak_memory
from anomaly_bench.bench.ddp import EndsWhenTold, synchronise_batch_norm, trainer_arguments
from anomaly_bench.bench.devices import Group, Work, gathered, in_turn
from anomaly_bench.bench.evaluate import Evaluation, StageMaps, evaluate_maps
from anomaly_bench.bench.feature_cache import FeatureCache
from anomaly_bench.bench.memory import keep_freed_memory
from anomaly_bench.bench.places import Conduct
from anomaly_bench.bench.precision import MixedByFloat32Kernels, emulates_bfloat16
from anomaly_bench.bench.progress import Curves, Progress, say
from anomaly_bench.bench.resolve import own_evaluation
from anomaly_bench.bench.spec import RunSpec
from anomaly_bench.bench.watch import Watch
from anomaly_bench.data.base import AnomalyDataModule
from anomaly_bench.errors import UserError
from anomaly_bench.methods.base import DistillationMethod
from anomaly_bench.methods.protocol import Precision

# So on purpose: images are in memory, the teacher stays in evaluation mode, some peers have no optimiser, loggers are
# told of epochs and not of steps, Slurm's `srun` is there and does not start us; and one of Lightning's own to itself.
EXPECTED_WARNINGS = (
    ".*does not have many workers.*",
    ".*in eval mode at the start of training.*",
    ".*configure_optimizers` returned `None`.*",
    ".*smaller than the logging interval.*",
    ".*`srun` command is available.*",
    ".*treespec.*",
)


@dataclass(frozen=True)
class TrainedRun:
    """What a run leaves behind: maps of the test images, the method's own evaluation, checkpoint, curves, cost."""

    stage_maps: StageMaps
    evaluation: Evaluation
    student_state: dict[str, torch.Tensor]
    curves: str
    cost: dict[str, Any]


def train_and_evaluate(
    spec: RunSpec,
    method: DistillationMethod,
    data: AnomalyDataModule,
    checkpoints: Checkpoints,
    conduct: Conduct,
    watch: Watch,
    follow: Callable[[], Work],
) -> TrainedRun:
    """Train to the last epoch, from the last checkpoint if there is one; then predict and evaluate.

    `follow` prepares what each of the run's devices but the first does meanwhile, see `devices.gathered`.
    """
    curves = Curves()
    onlookers: list[Callback] = [Progress(spec.label)] if conduct.show else []
    with quiet_lightning():
        with gathered(conduct.devices, follow) as group:
            onlookers += [EndsWhenTold()] if group.size > 1 else []
            # `curves` waits for a GPU to have done the epoch, so those of `watch`, which tell its pace, come after.
            callbacks = [*_caches(method, conduct), *onlookers, curves, *watch.callbacks, checkpoints]
            trainer = _fitted(spec, method, data, callbacks, watch.loggers, group, checkpoints)
            seconds = checkpoints.total_spent()
            start = time.perf_counter()
            stage_maps = _predict(trainer, method, data, group)
        own = evaluate_maps(spec, stage_maps, data, own_evaluation(spec.method), weights_dir=None)
        evaluated = time.perf_counter() - start
    assert data.train_pixels is not None
    device = trainer.strategy.root_device
    cost = {
        "seconds_train": seconds,
        "seconds_evaluate": evaluated,
        "images_per_second_train": spec.protocol.epochs * len(data.train_pixels) / seconds,
        "resumed": checkpoints.resumed,
        "devices": conduct.devices,
        "device": (f"{conduct.devices} x " if conduct.devices > 1 else "") + device_name(device),
        **_latency(trainer, method, spec.protocol.image_size),
        **multiply_accumulates(method, spec.protocol.image_size),
        **parameter_counts(method),
        **peak_memory(device),
    }
    student = {name: value.detach().cpu().contiguous() for name, value in method.student_state().items()}
    return TrainedRun(stage_maps, own, student, curves.as_csv(), cost)


def train_share(
    spec: RunSpec,
    method: DistillationMethod,
    data: AnomalyDataModule,
    checkpoints: Checkpoints,
    conduct: Conduct,
    group: Group,
) -> None:
    """What every device but the first does of a run: its images of every batch, and its part of the test batches."""
    with quiet_lightning():
        callbacks = [*_caches(method, conduct), Curves(), checkpoints]
        trainer = _fitted(spec, method, data, callbacks, [], group, checkpoints)
        _predict(trainer, method, data, group)


def _caches(method: DistillationMethod, conduct: Conduct) -> list[Callback]:
    return [FeatureCache()] if conduct.feature_cache and method.cacheable else []


def _fitted(
    spec: RunSpec,
    method: DistillationMethod,
    data: AnomalyDataModule,
    callbacks: list[Callback],
    loggers: list[Logger],
    group: Group,
    checkpoints: Checkpoints,
) -> Trainer:
    """Trains the method; the trainer that has done so."""
    trainer = _trainer(spec, callbacks, loggers, group)
    method.to(memory_format=torch.channels_last)
    if group.size > 1 and torch.cuda.is_available():
        synchronise_batch_norm(method)
    start = trainer.strategy.broadcast(checkpoints.found() if group.rank == 0 else None)
    with _own_signals():
        trainer.fit(method, datamodule=data, ckpt_path=start, weights_only=True)
    return trainer


def _latency(trainer: Trainer, method: DistillationMethod, image_size: int) -> dict[str, float]:
    method.to(trainer.strategy.root_device)  # from where Lightning took it when it was done
    with trainer.precision_plugin.forward_context():  # the run's own precision
        return latency(method, image_size)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Lightning ends the process in silence on Ctrl-C and SIGTERM, the latter with status 0: a killed run must not
    look like a finished one."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SIGTERMException as error:
        say("terminated; finished runs are kept.")
        raise SystemExit(143) from error
    except SystemExit as error:
        if error.code == 128 + signal.SIGTERM:  # a suite's own answer to it
            raise
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)  # which Lightning leaves ignored
        raise KeyboardInterrupt from error


def _not_to_be_had(precision: Precision) -> UserError:
    return UserError(f"precision {precision} is not to be had on this device; use --set precision=bf16-mixed.")


def _trainer(spec: RunSpec, callbacks: list[Callback], loggers: list[Logger], group: Group) -> Trainer:
    arguments = trainer_arguments(group)
    precision: Precision | None = spec.protocol.precision
    on_cpu = not torch.accelerator.is_available()
    if on_cpu and precision == "16-mixed":  # for which Lightning would take another, aloud
        raise _not_to_be_had(precision)
    if on_cpu and precision == "bf16-mixed" and emulates_bfloat16(torch.device("cpu")):
        arguments["plugins"].append(MixedByFloat32Kernels())
        precision = None  # Lightning takes it from the plugin
    trainer = Trainer(
        max_epochs=spec.protocol.epochs,
        precision=precision,
        deterministic="warn",
        logger=loggers,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
        **arguments,
    )
    if trainer.precision != spec.protocol.precision:
        raise _not_to_be_had(spec.protocol.precision)
    # True float32 where it is asked for: by default cuDNN would round a convolution's inputs to TF32.
    torch.backends.cudnn.allow_tf32 = spec.protocol.precision != "32-true"
    # Deterministic kernels read nothing that they have not written, and filling it takes 7 % of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if trainer.strategy.root_device.type == "cpu":
        keep_freed_memory()
    if trainer.strategy.root_device.type == "cuda":
        torch.empty(0, device=trainer.strategy.root_device)  # starts CUDA, without which the next line fails
        torch.cuda.reset_peak_memory_stats(trainer.strategy.root_device)
    return trainer


def _predict(trainer: Trainer, method: DistillationMethod, data: AnomalyDataModule, group: Group) -> StageMaps:
    """K arrays (N, h_k, w_k) of the test images by name, in the form in which they are kept."""
    with _own_signals():
        mine: list[Any] = trainer.predict(method, datamodule=data) or []  # a device may have none
    kept = [{name: maps.half().cpu().numpy() for name, maps in batch.items()} for batch in mine]
    batches = in_turn(kept, group)
    return {name: np.concatenate([maps[name] for maps in batches]) for name in batches[0]}


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without Lightning's advice on what is so on purpose."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
