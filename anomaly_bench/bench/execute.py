"""One run from its spec to its record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from zipfile import BadZipFile

import lightning
import numpy as np
import torch
from safetensors.torch import save

from anomaly_bench.bench.catalog import load_dataset, load_method
from anomaly_bench.bench.checkpoint import Checkpoints
from anomaly_bench.bench.cost import provenance
from anomaly_bench.bench.devices import Group, LostDeviceError, Work, check_devices
from anomaly_bench.bench.evaluate import evaluate_maps
from anomaly_bench.bench.foreground import require_sam
from anomaly_bench.bench.memory import free_memory, give_memory_back, is_for_memory
from anomaly_bench.bench.places import Keep, Places
from anomaly_bench.bench.progress import TrainingDivergedError
from anomaly_bench.bench.resolve import known_settings, own_evaluation
from anomaly_bench.bench.spec import EvalSpec, RunSpec
from anomaly_bench.bench.store import (
    RECORD,
    Failure,
    Record,
    RunFailedError,
    Store,
    UnfitRecordError,
    scores_name,
)
from anomaly_bench.bench.texts import write_json
from anomaly_bench.bench.train import TrainedRun, train_and_evaluate, train_share
from anomaly_bench.bench.watch import Watch, watch_run
from anomaly_bench.data.base import AnomalyDataModule
from anomaly_bench.errors import UserError
from anomaly_bench.methods.base import DistillationMethod
from anomaly_bench.metrics import NonFiniteError
from anomaly_bench.weights import (
    RANDOM,
    WeightsFile,
    build_student,
    build_teacher,
    check_network_name,
    find_weights,
    require_weights,
    split_name,
)

CHECKPOINT, MAPS, CURVES = "student.safetensors", "maps.npz", "curves.csv"


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


def has_weights(name: str, role: str, weights_dir: Path | None, *, download: bool) -> bool:
    """Whether a network's weights can be had, or without `download` are here; one that is to be untrained needs none.

    Raises:
        UserError: nobody knows the network, or `weights_dir` cannot be used.
    """
    check_network_name(name, role)
    return split_name(name)[1] == RANDOM or find_weights(name, weights_dir, download=download) is not None


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
        RunFailedError: the run diverged or found too little memory, and a failure has been stored; or one of several
            devices' processes was killed.
    """
    load_method(spec.method).require()
    check_networks(spec)
    data = open_data(spec, places)
    with _enough_memory(spec, store, _images_of(spec), "try a smaller image_size, or fewer by train_images"):
        # Linux lends memory that it does not have, and kills who uses it.
        if data.decoded_bytes() > free_memory(torch.device("cpu")):
            raise MemoryError
        data.setup()
    devices = places.conduct.devices
    if devices > 1:
        check_devices(spec, data, devices)
    networks = find_networks(spec, places.weights_dir)
    evidence = {
        name: network_evidence(spec, networks, role) for role, name in spec.protocol.weights_evidence.items()
    } | {"data": data.evidence()}
    give_memory_back()
    with _enough_memory(spec, store, "its networks", "try smaller ones"):
        method = build_method(spec, networks)
    student = sum(value.nbytes for value in method.student_state().values())
    # A checkpoint holds Adam's two moments too, and is still there when the finished run is written.
    store.check_writable(student * (4 if places.conduct.keep == "all" else 3))
    origin = provenance()  # now: the code on disk may be edited while this trains
    # Masks and noise are drawn on the device, each kind from generators of its own.
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    rests_on = evidence | {"versions": origin["versions"], "device": accelerator.type if accelerator else "cpu"}
    rests_on |= {"devices": devices} if devices > 1 else {}
    checkpoints = Checkpoints(store.checkpoint(spec.run_id), rests_on, places.conduct.checkpoint_seconds)
    with watch_run(places.conduct.onlookers, spec, places.results) as watch:
        follow = partial(prepare_share, spec, places, networks, checkpoints)
        trained = _train(spec, method, data, checkpoints, places, store, watch, follow)
        own = trained.evaluation
        record = Record(spec, own.spec.eval_id, {own.spec.eval_id: own.as_json()}, evidence, trained.cost, origin)
        with store.new_run(spec.run_id, overwrite=again) as folder:
            whole = spec.train_images is None and spec.test_images is None
            _write_run(folder, record, trained, publishable=data.publishable and whole, keep=places.conduct.keep)
        store.checkpoint(spec.run_id).unlink(missing_ok=True)
        watch.publish(record, trained.stage_maps, data, store.folder(spec.run_id))
    return record


def _images_of(spec: RunSpec) -> str:
    return f"its images at {spec.protocol.image_size}x{spec.protocol.image_size}"


@contextmanager
def _enough_memory(spec: RunSpec, store: Store, what: str, remedy: str) -> Iterator[None]:
    """For what another batch size would not change: raises RunFailedError, with the failure stored."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_for_memory(error):
            raise
        reason = f"out of memory for {what}"
        store.write_failure(Failure(spec, reason))
        raise RunFailedError(f"{spec.label} failed: {reason}.", remedy=f"{remedy}, by --set.") from error


def prepare_share(
    spec: RunSpec, places: Places, networks: Mapping[str, WeightsFile | None], checkpoints: Checkpoints
) -> Work:
    """In the process of another device than the first: what it does of a run, data and method at hand."""
    data = open_data(spec, places)
    data.setup()
    method = build_method(spec, networks)

    def work(group: Group) -> None:
        method.seed_noise(spec.derive_seed("noise"), training=spec.derive_seed(f"noise {group.rank}"))
        train_share(spec, method, data, checkpoints, places.conduct, group)

    return work


def _train(
    spec: RunSpec,
    method: DistillationMethod,
    data: AnomalyDataModule,
    checkpoints: Checkpoints,
    places: Places,
    store: Store,
    watch: Watch,
    follow: Callable[[], Work],
) -> TrainedRun:
    try:
        with store.explained():
            return train_and_evaluate(spec, method, data, checkpoints, places.conduct, watch, follow)
    except LostDeviceError as error:
        raise RunFailedError(
            f"{spec.label} failed: {error}; the same command goes on from the last checkpoint."
        ) from error
    except (TrainingDivergedError, NonFiniteError, RuntimeError, MemoryError) as error:
        # These would go wrong again from there, as what fails before the first epoch does. Anything else may be over by
        # the next start: a GPU's passing fault, memory that another process had.
        if isinstance(error, (TrainingDivergedError, NonFiniteError)) or checkpoints.fruitless:
            store.checkpoint(spec.run_id).unlink(missing_ok=True)
        raise _failed(spec, error, store) from error
    except ImportError as error:
        raise UserError(f"{error}.") from error


def _failed(spec: RunSpec, error: Exception, store: Store) -> RunFailedError:
    """Stores why; anything but what a run may fail of is a defect of ours, and goes on up."""
    memory = is_for_memory(error)
    if not memory and not isinstance(error, (TrainingDivergedError, NonFiniteError)):
        raise error
    reason = f"out of memory at batch size {spec.protocol.batch_size}" if memory else str(error)
    store.write_failure(Failure(spec, reason))
    return RunFailedError(f"{spec.label} failed: {reason}.", out_of_memory=memory, remedy=_remedy(spec, memory=memory))


def _remedy(spec: RunSpec, *, memory: bool) -> str:
    """What of a run's settings may help; nothing of a method that has none of these."""
    if memory:
        return "try a smaller batch_size or image_size, by --set."
    known = known_settings(load_method(spec.method))
    rates = ["a smaller lr"] if "lr" in known else []
    precision = ["precision=32-true"] if "precision" in known and spec.protocol.precision != "32-true" else []
    return f"try {' or '.join([*rates, *precision])}, by --set." if rates or precision else ""


def _write_run(folder: Path, record: Record, trained: TrainedRun, *, publishable: bool, keep: Keep) -> None:
    if keep == "all":
        (folder / CHECKPOINT).write_bytes(save(trained.student_state))
    if keep != "scores":
        np.savez(folder / MAPS, **trained.stage_maps)  # type: ignore[arg-type]
    (folder / CURVES).write_text(trained.curves, encoding="utf-8")
    (folder / scores_name(trained.evaluation.spec)).write_text(trained.evaluation.scores, encoding="utf-8")
    if not publishable:
        (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    write_json(folder / RECORD, record.as_json())


def network_evidence(spec: RunSpec, networks: Mapping[str, WeightsFile | None], role: str) -> dict[str, str]:
    weights = networks[role]
    return weights.evidence if weights else {"source": "random", role: spec.protocol.networks[role]}


def re_evaluate(record: Record, evaluation: EvalSpec, places: Places, store: Store) -> Record:
    """The record with one more evaluation, from the kept maps: nothing is trained.

    Raises:
        UnfitRecordError: the maps are gone.
        UserError: the data are not at hand.
        RunFailedError: there is too little memory.
    """
    path = store.folder(record.spec.run_id) / MAPS
    try:
        with np.load(path, allow_pickle=False) as archive:
            stage_maps = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise UnfitRecordError(
            f"{path} is gone or broken (git keeps no maps), and another rule needs the run's maps; use --again to "
            "train the run anew."
        ) from error
    data = open_data(record.spec, places)
    with _enough_memory(record.spec, store, "another evaluation", "try a smaller sigma or mean_kernel"):
        data.setup()
        new = evaluate_maps(record.spec, stage_maps, data, evaluation, weights_dir=places.weights_dir)
    own = evaluation == own_evaluation(record.spec.method)
    return store.add_evaluation(record, evaluation, new.as_json(), new.scores, own=own)


def check_evaluation(evaluation: EvalSpec, places: Places) -> None:
    """Raise UserError, before anything is trained, for an evaluation that will lack its weights or its package."""
    if evaluation.background == "sam":
        require_sam(places.weights_dir)
