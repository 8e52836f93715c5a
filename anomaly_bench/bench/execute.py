"""One run from its spec to its record."""

from __future__ import annotations

import logging
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import lightning
import numpy as np
import torch
from lightning import Callback, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from safetensors.torch import save

from anomaly_bench.bench.catalog import load_dataset, load_method
from anomaly_bench.bench.cost import (
    device_name,
    latency,
    multiply_accumulates,
    parameter_counts,
    peak_memory,
    provenance,
)
from anomaly_bench.bench.evaluate import Evaluation, StageMaps, evaluate
from anomaly_bench.bench.foreground import require_sam
from anomaly_bench.bench.progress import Curves, Progress, TrainingDivergedError, say
from anomaly_bench.bench.resolve import own_evaluation
from anomaly_bench.bench.spec import EvalSpec, RunSpec
from anomaly_bench.bench.store import RECORD, Record, Store, scores_name, write_json
from anomaly_bench.data.base import AnomalyDataModule
from anomaly_bench.errors import UserError
from anomaly_bench.methods.base import DistillationMethod
from anomaly_bench.metrics import NonFiniteError
from anomaly_bench.weights import WeightsFile, build_student, build_teacher, check_network_name, require_weights

CHECKPOINT, MAPS, CURVES = "student.safetensors", "maps.npz", "curves.csv"
# So on purpose: images are in memory, the teacher stays in evaluation mode; and one of Lightning's own to itself.
EXPECTED_WARNINGS = (".*does not have many workers.*", ".*in eval mode at the start of training.*", ".*treespec.*")


class RunFailedError(Exception):
    """The run itself went wrong (not its input); kept in the store as the reason of an empty cell."""


@dataclass(frozen=True)
class Places:
    """Where things are on this machine: never part of a run's identity."""

    data_root: Path
    results: Path
    weights_dir: Path | None = None
    allow_unverified: bool = False  # data whose checksums are not the official ones
    cache: Path | None = None  # decoded images, kept between runs


def open_data(spec: RunSpec, places: Places) -> AnomalyDataModule:
    """The data module of a run, its folder found, nothing decoded yet."""
    dataset = load_dataset(spec.dataset)
    dataset.check_category(places.data_root, spec.category)
    return dataset(
        places.data_root,
        spec.category,
        image_size=spec.protocol.image_size,
        batch_size=spec.protocol.batch_size,
        shuffle_seed=spec.derive_seed("order"),
        train_images=spec.train_images,
        test_images=spec.test_images,
        allow_unverified=places.allow_unverified,
        cache=places.cache,
    )


def check_networks(spec: RunSpec) -> None:
    """Raise UserError for a teacher or student that nobody knows."""
    for role, name in spec.protocol.networks.items():
        check_network_name(name, role)


def find_networks(spec: RunSpec, weights_dir: Path | None) -> dict[str, WeightsFile | None]:
    """The weights of the run's teacher and, where it has one, its student; None for one that is to be untrained."""
    return {role: require_weights(name, weights_dir, role) for role, name in spec.protocol.networks.items()}


def build_method(spec: RunSpec, networks: Mapping[str, WeightsFile | None]) -> DistillationMethod:
    """The method as it is before training; everything drawn at random comes from the spec's seed."""
    lightning.seed_everything(spec.derive_seed("model"), verbose=False)
    teacher = build_teacher(spec.protocol.teacher, networks["teacher"])
    student = [build_student(name, networks["student"]) for name in [spec.protocol.student] if name is not None]
    constructor: Callable[..., DistillationMethod] = load_method(spec.method)
    method = constructor(teacher, *student, spec.protocol, **dict(spec.options))
    method.seed_noise(spec.derive_seed("noise"))
    return method


def execute(spec: RunSpec, places: Places, store: Store, *, again: bool = False) -> Record:
    """Train one run, evaluate its last epoch, and store its record.

    Args:
        spec: what to run.
        places: data, weights, results.
        store: where the record goes.
        again: replace a record that is there.

    Raises:
        UserError: data, weights or results folder cannot be used; nothing has been written.
        RunFailedError: the training diverged; a failure has been stored.
    """
    check_networks(spec)
    data = open_data(spec, places)
    data.setup()
    data_evidence = data.evidence()
    networks = find_networks(spec, places.weights_dir)
    method = build_method(spec, networks)
    store.check_writable(sum(value.nbytes for value in method.student_state().values()))
    origin = provenance()  # now: the code on disk may be edited while this trains
    try:
        trained = _train_and_evaluate(spec, method, data)
    except (TrainingDivergedError, NonFiniteError, torch.OutOfMemoryError) as error:
        reason = "out of GPU memory" if isinstance(error, torch.OutOfMemoryError) else str(error)
        store.write_failure(spec, reason)
        raise RunFailedError(f"{spec.title} failed: {reason}.") from error
    except ImportError as error:
        raise UserError(f"{error}.") from error
    own = trained.evaluation
    named = spec.protocol.weights_evidence
    evidence = {name: network_evidence(spec, networks, role) for role, name in named.items()} | {"data": data_evidence}
    record = Record(spec, own.spec.eval_id, {own.spec.eval_id: own.as_json()}, evidence, trained.cost, origin)
    with store.new_run(spec.run_id, overwrite=again) as folder:
        whole = spec.train_images is None and spec.test_images is None
        _write_run(folder, record, trained, publishable=data.publishable and whole)
    stored = store.load(spec.run_id)  # somebody else's, where another process was faster
    return stored if isinstance(stored, Record) else record


def _write_run(folder: Path, record: Record, trained: TrainedRun, *, publishable: bool) -> None:
    (folder / CHECKPOINT).write_bytes(save(trained.student_state))
    np.savez(folder / MAPS, **trained.stage_maps)  # type: ignore[arg-type]
    (folder / CURVES).write_text(trained.curves, encoding="utf-8")
    (folder / scores_name(trained.evaluation.spec)).write_text(trained.evaluation.scores, encoding="utf-8")
    if not publishable:
        (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    write_json(folder / RECORD, record.as_json())


def network_evidence(spec: RunSpec, networks: Mapping[str, WeightsFile | None], role: str) -> dict[str, str]:
    weights = networks[role]
    return weights.evidence if weights else {"source": "random", role: spec.protocol.networks[role]}


@dataclass(frozen=True)
class TrainedRun:
    """What a run leaves behind: maps of the test images, the method's own evaluation, checkpoint, curves, cost."""

    stage_maps: StageMaps
    evaluation: Evaluation
    student_state: dict[str, torch.Tensor]
    curves: str
    cost: dict[str, Any]


def _train_and_evaluate(spec: RunSpec, method: DistillationMethod, data: AnomalyDataModule) -> TrainedRun:
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


def evaluate_maps(
    spec: RunSpec, stage_maps: StageMaps, data: AnomalyDataModule, evaluation: EvalSpec, *, weights_dir: Path | None
) -> Evaluation:
    """One evaluation of a run's maps."""
    assert data.ground_truth is not None
    assert data.test_pixels is not None
    images = data.test_pixels.cpu().numpy()  # (N, H, W, 3)
    size = spec.protocol.image_size
    return evaluate(stage_maps, data.ground_truth, size, evaluation, images=images, weights_dir=weights_dir)


def re_evaluate(record: Record, evaluation: EvalSpec, places: Places, store: Store) -> Record:
    """The record with one more evaluation, from the kept maps: nothing is trained.

    Raises:
        UserError: the maps are gone, or the data are not at hand.
    """
    path = store.folder(record.spec.run_id) / MAPS
    try:
        with np.load(path, allow_pickle=False) as archive:
            stage_maps = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise UserError(
            f"{path} is gone or broken, and another rule needs the run's maps; use --again to train the run anew."
        ) from error
    data = open_data(record.spec, places)
    data.setup()
    new = evaluate_maps(record.spec, stage_maps, data, evaluation, weights_dir=places.weights_dir)
    own = evaluation == own_evaluation(record.spec.method)
    return store.add_evaluation(record, evaluation, new.as_json(), new.scores, own=own)


def check_evaluation(evaluation: EvalSpec, places: Places) -> None:
    """Raise UserError, before anything is trained, for an evaluation that will lack its weights or its package."""
    if evaluation.background == "sam":
        require_sam(places.weights_dir)
