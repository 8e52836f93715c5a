"""The training and the prediction of one run, by Lightning; what it leaves behind."""

from __future__ import annotations

import logging
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from anomaly_bench.bench.cost import device_name, latency, multiply_accumulates, parameter_counts, peak_memory
from anomaly_bench.bench.evaluate import Evaluation, StageMaps, evaluate_maps
from anomaly_bench.bench.progress import Curves, Progress, say
from anomaly_bench.bench.resolve import own_evaluation
from anomaly_bench.bench.spec import RunSpec
from anomaly_bench.data.base import AnomalyDataModule
from anomaly_bench.errors import UserError
from anomaly_bench.methods.base import DistillationMethod

# So on purpose: images are in memory, the teacher stays in evaluation mode; and one of Lightning's own to itself.
EXPECTED_WARNINGS = (".*does not have many workers.*", ".*in eval mode at the start of training.*", ".*treespec.*")


@dataclass(frozen=True)
class TrainedRun:
    """What a run leaves behind: maps of the test images, the method's own evaluation, checkpoint, curves, cost."""

    stage_maps: StageMaps
    evaluation: Evaluation
    student_state: dict[str, torch.Tensor]
    curves: str
    cost: dict[str, Any]


def train_and_evaluate(spec: RunSpec, method: DistillationMethod, data: AnomalyDataModule) -> TrainedRun:
    curves = Curves()
    method.to(memory_format=torch.channels_last)
    with quiet_lightning():
        trainer = _trainer(spec, [curves, Progress(spec.title)])
        start = time.perf_counter()
        with _own_signals():
            trainer.fit(method, datamodule=data)
        trained = time.perf_counter()
        stage_maps = _predict(trainer, method, data)
        own = evaluate_maps(spec, stage_maps, data, own_evaluation(spec.method), weights_dir=None)
        evaluated = time.perf_counter()
    assert data.train_pixels is not None
    device = trainer.strategy.root_device
    cost = {
        "seconds_train": trained - start,
        "seconds_evaluate": evaluated - trained,
        "images_per_second_train": spec.protocol.epochs * len(data.train_pixels) / (trained - start),
        "device": device_name(device),
        **_latency(trainer, method, spec.protocol.image_size),
        **multiply_accumulates(method, spec.protocol.image_size),
        **parameter_counts(method),
        **peak_memory(device),
    }
    student = {name: value.detach().cpu().contiguous() for name, value in method.student_state().items()}
    return TrainedRun(stage_maps, own, student, curves.as_csv(), cost)


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
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)  # which Lightning leaves ignored
        raise KeyboardInterrupt from error


def _trainer(spec: RunSpec, callbacks: list[Callback]) -> Trainer:
    trainer = Trainer(
        max_epochs=spec.protocol.epochs,
        precision=spec.protocol.precision,
        accelerator="auto",
        devices=1,
        deterministic="warn",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
    )
    if trainer.precision != spec.protocol.precision:
        raise UserError(
            f"precision {spec.protocol.precision} is not to be had on this device; use --set precision=bf16-mixed."
        )
    # True float32 where it is asked for: by default cuDNN would round a convolution's inputs to TF32.
    torch.backends.cudnn.allow_tf32 = spec.protocol.precision != "32-true"
    if trainer.strategy.root_device.type == "cuda":
        torch.empty(0, device=trainer.strategy.root_device)  # starts CUDA, without which the next line fails
        torch.cuda.reset_peak_memory_stats(trainer.strategy.root_device)
    return trainer


def _predict(trainer: Trainer, method: DistillationMethod, data: AnomalyDataModule) -> StageMaps:
    """K arrays (N, h_k, w_k) of the test images by name, in the form in which they are kept."""
    with _own_signals():
        batches = trainer.predict(method, datamodule=data)
    assert batches is not None
    return {name: torch.cat([maps[name].half().cpu() for maps in batches]).numpy() for name in batches[0]}


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
