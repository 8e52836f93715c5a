"""One run on several devices: here two or three processes, which meet and part as those of several GPUs do."""

from __future__ import annotations

import copy
import csv
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer
from safetensors.torch import load_file
from torch import Tensor, distributed

from anomaly_bench.bench import execute as execute_module
from anomaly_bench.bench import train as train_module
from anomaly_bench.bench.ddp import synchronise_batch_norm
from anomaly_bench.bench.devices import Group, Work, check_devices, gathered
from anomaly_bench.bench.evaluate import StageMaps
from anomaly_bench.bench.execute import build_method, execute, find_networks, open_data
from anomaly_bench.bench.places import Conduct, Places
from anomaly_bench.bench.profiles import load_profile
from anomaly_bench.bench.progress import Curves
from anomaly_bench.bench.resolve import resolve
from anomaly_bench.bench.spec import RunSpec
from anomaly_bench.bench.store import Store
from anomaly_bench.data.batches import BatchOrder, DealtBatches, SharedBatches
from anomaly_bench.errors import UserError
from anomaly_bench.methods.base import DistillationMethod, unit_range
from tests.conftest import tiny_spec

UNEVEN = {"epochs": 2, "train_images": 11, "batch_size": 5}  # two processes have 3 and 2 images; the last batch is 1
ENDLESS = {"epochs": 100000}


def spec_of(method: str, **settings: Any) -> RunSpec:
    small = {"image_size": 32, "batch_size": 4, "train_images": 8, "test_images": 8}
    return resolve(method, "synthetic", "brick", load_profile("smoke"), settings={**small, **settings})[0]


def start(spec: RunSpec, places: Places, *options: str) -> subprocess.Popen[str]:
    """The real command in a process group of its own, as a terminal gives it one."""
    protocol = spec.protocol
    settings = [f"{name}={getattr(protocol, name)}" for name in ("epochs", "batch_size", "image_size", "precision")]
    settings += [f"train_images={spec.train_images}", f"test_images={spec.test_images}"]
    run = ["run", "--method", spec.method, "--dataset", spec.dataset, "--category", spec.category, "--profile", "smoke"]
    where = {"ANOMALY_BENCH_RESULTS": str(places.results), "ANOMALY_BENCH_DATA": str(places.data_root)}
    return subprocess.Popen(
        [sys.executable, "-m", "anomaly_bench", *run, "--set", *settings, "--devices", "2", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | where | {"OMP_NUM_THREADS": "1"},
    )


def processes(places: Places) -> set[int]:
    """Every living process of a command that `start` began: they all inherit where its results are."""
    told = f"ANOMALY_BENCH_RESULTS={places.results}".encode()
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended just now
            if told in (folder / "environ").read_bytes().split(b"\0"):
                found.add(int(folder.name))
    return found


def wait_until(true: Any, seconds: float = 400.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.1)


@pytest.mark.parametrize("devices", [1, 2, 3, 4])
@pytest.mark.parametrize(("images", "batch_size"), [(12, 4), (11, 5), (10, 4), (23, 8)])
def test_the_devices_images_together_are_the_batches_of_one_device(images: int, batch_size: int, devices: int) -> None:
    order = BatchOrder(images, batch_size, 7, fewest=devices)
    order.set_epoch(3)
    shares = [SharedBatches(order, rank, devices) for rank in range(devices)]
    steps = list(zip(*shares, strict=True))
    assert [len(share) for share in shares] == [len(order)] * devices == [len(steps)] * devices
    for number, (batch, parts) in enumerate(zip(order, steps, strict=True)):
        together = torch.empty_like(batch)
        for rank, part in enumerate(parts):
            together[rank::devices] = part
        assert torch.equal(together, batch)
        assert order.images_in(number) == len(batch)
        weights = [share.weight(number) for share in shares]
        assert weights == pytest.approx([len(part) * devices / len(batch) for part in parts])
        assert min(map(len, parts)) >= 1
    seen = torch.cat(list(order)).tolist()
    left_out = images % batch_size if 0 < images % batch_size < devices else 0
    assert len(seen) == len(set(seen)) == images - left_out


def test_test_batches_stay_whole_and_go_to_the_devices_in_turn() -> None:
    order = BatchOrder(10, 4, None)
    dealt = [DealtBatches(order, rank, 4) for rank in range(4)]
    assert [[batch.tolist() for batch in one] for one in dealt] == [[[0, 1, 2, 3]], [[4, 5, 6, 7]], [[8, 9]], []]
    assert [len(one) for one in dealt] == [1, 1, 1, 0]


def made(spec: RunSpec, places: Places) -> tuple[DistillationMethod, Any]:
    data = open_data(spec, places)
    data.setup()
    return build_method(spec, find_networks(spec, None)), data


def predicted(spec: RunSpec, places: Places, group: Group) -> StageMaps:
    method, data = made(spec, places)
    with train_module.quiet_lightning():
        return train_module._predict(train_module._trainer(spec, [], [], group), method, data, group)


def prepare_prediction(spec: RunSpec, places: Places) -> Work:
    def work(group: Group) -> None:
        predicted(spec, places, group)

    return work


def test_one_student_has_the_same_maps_on_three_devices_as_on_one_to_the_last_bit(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    spec = tiny_spec(test_images=40)  # two batches: one device has none
    alone = predicted(spec, places, Group())
    with gathered(3, partial(prepare_prediction, spec, places)) as group:
        together = predicted(spec, places, group)
    assert not distributed.is_initialized()
    assert together.keys() == alone.keys()
    assert all(len(alone[name]) == 40 and np.array_equal(together[name], alone[name]) for name in alone)


def test_devices_mask_apart_in_training_and_alike_at_test(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of("fmm_scsatt", mask_at_test=True)
    networks, methods = find_networks(spec, None), []
    monkeypatch.setattr(execute_module, "train_share", lambda spec, method, *_: methods.append(method))
    methods.append(build_method(spec, networks))
    for rank in (1, 2):
        execute_module.prepare_share(spec, places, networks, None)(Group(rank, 3))
    features = torch.ones(2, 3, 16, 16)
    at_test, in_training = ([method.train(mode).mask(features, 1) for method in methods] for mode in (False, True))
    assert torch.equal(at_test[0], at_test[1])
    assert torch.equal(at_test[0], at_test[2])
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(in_training, 2))


def shared_by_hand(spec: RunSpec, places: Places) -> tuple[dict[str, Tensor], list[float]]:
    """The student after a training by two devices, and the loss of every epoch, without any process but this one."""
    method, data = made(spec, places)
    optimiser: Any = method.train().configure_optimizers()
    order = BatchOrder(len(data.train_pixels), spec.protocol.batch_size, data.shuffle_seed, fewest=2)
    curve = []
    for epoch in range(spec.protocol.epochs):
        order.set_epoch(epoch)
        lost, seen = 0.0, 0
        for batch in order:
            gradients: dict[str, Tensor] = {}
            optimiser.zero_grad()
            # What batch norm keeps is what the first device saw, so the second works on a copy.
            for device, indices in ((copy.deepcopy(method), batch[1::2]), (method, batch[0::2])):
                images = unit_range(data.train_pixels[indices].permute(0, 3, 1, 2))
                loss = sum(device.training_terms(images, device.teacher(images)).values())
                loss.backward()
                lost, seen = lost + loss.item() * len(indices), seen + len(indices)
                for name, parameter in device.named_parameters():
                    if parameter.grad is not None:
                        share = parameter.grad * len(indices) / len(batch)
                        gradients[name] = gradients.get(name, torch.zeros_like(share)) + share
            for name, parameter in method.named_parameters():
                parameter.grad = gradients.get(name)
            optimiser.step()
        curve.append(lost / seen)
    return method.student_state(), curve


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return math.sqrt(sum((one[name] - other[name]).double().square().sum().item() for name in other))


@pytest.mark.slow
def test_two_devices_train_one_student_on_the_same_batches_and_store_one_record(places: Places) -> None:
    spec = tiny_spec(**UNEVEN)
    command = start(spec, places)
    out, err = command.communicate(timeout=300)
    assert command.returncode == 0, err
    assert "Warning" not in err
    assert (out.count("trained"), err.count("epoch 2 of 2")) == (1, 1)
    assert processes(places) == set()
    folder = Store(places.results).folder(spec.run_id)
    assert json.loads((folder / "record.json").read_text())["cost"]["devices"] == 2
    assert [path.name for path in folder.parent.iterdir()] == [spec.run_id]
    state, curve = shared_by_hand(spec, places)
    told = [float(row["loss"]) for row in csv.DictReader((folder / "curves.csv").open())]
    assert told == pytest.approx(curve, rel=1e-4)
    before, student = made(spec, places)[0].student_state(), load_file(folder / "student.safetensors")
    # Adam makes a step of a sum's last bits; with shares that count alike, or on one device, it is above 0.1.
    assert distance(student, state) < 0.01 * distance(before, state)

    again = start(spec, places)
    wait_until(lambda: again.poll() is not None or len(processes(places)) > 1)
    assert "found" in again.communicate(timeout=200)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "number", "status", "sentence"),
    [
        ("leader", signal.SIGKILL, -signal.SIGKILL, ""),
        ("leader", signal.SIGTERM, 143, "terminated; finished runs are kept."),
        ("all", signal.SIGINT, 130, "interrupted; finished runs are kept."),
        ("follower", signal.SIGKILL, 1, "one of its processes was killed by SIGKILL, perhaps for want of memory; the"),
    ],
)
def test_whoever_is_ended_no_process_stays_and_one_sentence_says_why(
    victim: str, number: signal.Signals, status: int, sentence: str, places: Places
) -> None:
    spec = tiny_spec(**ENDLESS)
    checkpoint = Store(places.results).checkpoint(spec.run_id)
    command = start(spec, places, "--checkpoint-seconds", "0")
    try:
        wait_until(lambda: checkpoint.exists() or command.poll() is not None)
        if victim == "all":
            os.killpg(command.pid, number)
        else:
            os.kill(command.pid if victim == "leader" else follower_of(command.pid), number)
        out, err = command.communicate(timeout=200)
        wait_until(lambda: not processes(places), seconds=60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(command.pid, signal.SIGKILL)
    assert (command.returncode, out) == (status, "")
    assert sentence in err
    assert "Traceback" not in err
    assert checkpoint.exists()


def follower_of(leader: int) -> int:
    children = Path(f"/proc/{leader}/task/{leader}/children").read_text().split()
    (follower,) = [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return follower


@pytest.mark.slow
def test_a_training_by_two_devices_goes_on_where_it_was_with_each_ones_own_masks(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of("fmm_scsatt", epochs=3, precision="32-true")
    conduct = Conduct(show=False, checkpoint_seconds=0.0, devices=2)
    whole, broken = (replace(places, results=places.results / name, conduct=conduct) for name in ("whole", "broken"))
    execute(spec, whole, Store(whole.results))

    def interrupt(self: Curves, trainer: Trainer, module: DistillationMethod) -> None:
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Curves, "on_train_epoch_start", interrupt, raising=False)
        with pytest.raises(KeyboardInterrupt):
            execute(spec, broken, Store(broken.results))
    assert Store(broken.results).checkpoint(spec.run_id).exists()
    record = execute(spec, broken, Store(broken.results))
    assert record.cost["resumed"] == 1
    states = [
        (Store(where.results).folder(spec.run_id) / "student.safetensors").read_bytes() for where in (whole, broken)
    ]
    assert states[0] == states[1]


@pytest.mark.parametrize(
    ("spec", "devices", "sentence"),
    [
        (spec_of("rd", image_size=64), 5, "--devices 5 leaves some of them without images enough of a batch of 4; use"),
        (spec_of("rd", image_size=32), 3, "without images enough of a batch of 4; use at most 2."),
        (spec_of("variance_rd", image_size=64), 3, "leaves each of them 1 of a batch's 4 images, and batch_size must"),
        (replace(spec_of("rd"), method="padim"), 2, "padim is measured as anomalib trains it, on one device; leave"),
    ],
)
def test_a_run_that_so_many_devices_cannot_share_is_refused(
    spec: RunSpec, devices: int, sentence: str, places: Places
) -> None:
    data = open_data(spec, places)
    data.setup()
    with pytest.raises(UserError, match=sentence):
        check_devices(spec, data, devices)


def test_batch_norm_over_all_gpus_keeps_the_activations_that_a_network_has_in_it(places: Places) -> None:
    spec = spec_of("ast_mfr", student="tf_efficientnet_lite0")
    method, _ = made(spec, places)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = method.eval().stage_maps(images)
        synchronise_batch_norm(method)
        after = method.stage_maps(images)
    assert all(torch.equal(after[name], before[name]) for name in before)
    shared = [name for name, module in method.named_modules() if isinstance(module, torch.nn.SyncBatchNorm)]
    alone = [name for name, module in method.named_modules() if type(module).__name__.startswith("BatchNorm")]
    assert shared
    assert all(name.startswith("teacher.") for name in alone)
