"""Whole runs on generated images: reproducible, blind to test labels, stored once."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from anomaly_bench.bench import execute as execute_module
from anomaly_bench.bench.execute import Places, RunFailedError, execute
from anomaly_bench.bench.obtain import obtain
from anomaly_bench.bench.spec import EvalSpec, RunSpec
from anomaly_bench.bench.store import Failure, Store
from anomaly_bench.data.base import AnomalyDataModule
from anomaly_bench.data.layout import Sample
from anomaly_bench.errors import UserError
from tests.conftest import tiny_spec


def file_hashes(places: Places, spec: RunSpec) -> dict[str, str]:
    folder = Store(places.results).folder(spec.run_id)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def elsewhere(places: Places, name: str) -> Places:
    return replace(places, results=places.results.parent / name)


def no_training(*args: object, **kwargs: object) -> None:
    raise AssertionError("this must not train")


def test_a_run_alone_and_after_others_is_the_same_to_the_last_bit(places: Places) -> None:
    spec, alone, suite = tiny_spec(), elsewhere(places, "alone"), elsewhere(places, "suite")
    execute(spec, alone, Store(alone.results))
    execute(tiny_spec("coins"), suite, Store(suite.results))
    random.seed(7), np.random.seed(7), torch.manual_seed(7)
    execute(spec, suite, Store(suite.results))
    one, other = file_hashes(alone, spec), file_hashes(suite, spec)
    assert one.keys() == other.keys()
    assert {name for name in one if one[name] != other[name]} <= {"record.json"}  # which holds seconds
    records = [Store(where.results).load(spec.run_id) for where in (alone, suite)]
    assert records[0].metrics == records[1].metrics


def test_the_seed_moves_everything(places: Places) -> None:
    first, second = tiny_spec(), replace(tiny_spec(), seed=1)
    for spec in (first, second):
        execute(spec, places, Store(places.results))
    one, other = file_hashes(places, first), file_hashes(places, second)
    assert one["student.safetensors"] != other["student.safetensors"]
    assert one["maps.npz"] != other["maps.npz"]


def test_shuffled_test_labels_leave_the_checkpoint_and_the_maps_alone(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, honest, shuffled = tiny_spec(), elsewhere(places, "honest"), elsewhere(places, "shuffled")
    record = execute(spec, honest, Store(honest.results))
    find = AnomalyDataModule.find_samples

    def swapped(folder: Path, split: str) -> list[Sample]:
        samples = find(folder, split)
        if split == "train":
            return samples
        first = next(sample for sample in samples if sample.anomalous)
        return [
            replace(sample, defect="scratch", mask=first.mask)
            if sample.defect == "good"
            else replace(sample, defect="good")
            for sample in samples
        ]

    everything = replace(spec, test_images=None)
    record = execute(everything, honest, Store(honest.results))
    monkeypatch.setattr(AnomalyDataModule, "find_samples", staticmethod(swapped))
    other = execute(everything, shuffled, Store(shuffled.results))
    one, two = file_hashes(honest, everything), file_hashes(shuffled, everything)
    assert one["student.safetensors"] == two["student.safetensors"]
    assert one["maps.npz"] == two["maps.npz"]
    assert record.metrics != other.metrics


def test_a_second_call_finds_and_another_rule_re_evaluates_without_training(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, store = tiny_spec(), Store(places.results)
    first = obtain(spec, EvalSpec(), places, store)
    monkeypatch.setattr(execute_module, "execute", no_training)
    again = obtain(spec, EvalSpec(), places, store)
    other = obtain(spec, EvalSpec(sigma=0.0), places, store)
    assert (first.how, again.how, other.how) == ("trained", "found", "re-evaluated")
    assert again.record.metrics == first.record.metrics
    entries = other.record.evaluations
    assert entries[EvalSpec().eval_id]["metrics"] != entries[EvalSpec(sigma=0.0).eval_id]["metrics"]


def test_the_kept_maps_give_the_stored_numbers_to_the_last_bit(places: Places) -> None:
    spec, store = tiny_spec(), Store(places.results)
    execute(spec, places, store)
    path = store.folder(spec.run_id) / "record.json"
    plain = json.loads(path.read_text())
    original = plain["evaluations"].pop(plain["evaluation"])
    plain["evaluation"] = EvalSpec(sigma=1.0).eval_id
    plain["evaluations"] = {EvalSpec(sigma=1.0).eval_id: original}
    path.write_text(json.dumps(plain))
    record = obtain(spec, EvalSpec(), places, store).record
    assert record.evaluations[EvalSpec().eval_id]["metrics"] == original["metrics"]


def test_other_data_than_the_records_are_refused_and_again_replaces(places: Places) -> None:
    spec, store = tiny_spec(), Store(places.results)
    moved = replace(places, data_root=places.results.parent / "data")
    obtain(spec, EvalSpec(), places, store)
    shutil.copytree(places.data_root, moved.data_root)
    obtain(spec, EvalSpec(), moved, store)  # the same bytes elsewhere are the same data
    mask = next((moved.data_root / "synthetic-v1" / "brick" / "ground_truth" / "blob").iterdir())
    mask.write_bytes(mask.read_bytes() + b"\0")
    with pytest.raises(UserError, match="was made from other data than those at hand; use --again"):
        obtain(spec, EvalSpec(), moved, store)
    assert obtain(spec, EvalSpec(), moved, store, again=True).how == "trained"
    assert obtain(spec, EvalSpec(), moved, store).how == "found"


def test_a_record_says_where_it_comes_from(places: Places) -> None:
    spec = tiny_spec()
    plain = execute(spec, places, Store(places.results)).as_json()
    assert plain["run_id"] == spec.run_id
    assert plain["evidence"]["weights"]["sha256"].startswith("579344248a93")
    assert plain["evidence"]["data"]["counts"]["train"] == 40
    assert plain["evidence"]["data"]["complete"] is True
    assert plain["cost"].keys() >= {
        "seconds_train", "seconds_evaluate", "images_per_second_train", "peak_memory_bytes",
        "parameters_teacher", "parameters_student", "multiply_accumulates", "device",
    }  # fmt: skip
    assert plain["cost"]["parameters_teacher"] == 700768
    assert {"torch", "timm", "lightning"} <= plain["provenance"]["versions"].keys()
    text = (Store(places.results).folder(spec.run_id) / "curves.csv").read_text()
    assert text.splitlines()[0] == "epoch,distillation,loss"


def test_a_diverged_run_is_a_failure_with_its_reason(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(places.results)
    spec = tiny_spec(lr=1e30, epochs=3)
    with pytest.raises(RunFailedError, match="the loss is nan in epoch"):
        execute(spec, places, store)
    failure = store.load(spec.run_id)
    assert isinstance(failure, Failure)
    assert "the loss is nan" in failure.reason


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has float16")
def test_a_precision_that_the_device_lacks_is_refused_and_not_replaced(places: Places) -> None:
    with pytest.raises(UserError, match="precision 16-mixed is not to be had on this device"):
        execute(tiny_spec(precision="16-mixed"), places, Store(places.results))
    assert not places.results.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_killed_run_says_so_and_leaves_nothing(places: Places, number: int, status: int, word: str) -> None:
    words = ["run", "--method", "rd", "--dataset", "synthetic", "--category", "brick", "--profile", "smoke"]
    where = ["--data-root", str(places.data_root), "--results", str(places.results)]
    command = [
        sys.executable,
        "-m",
        "anomaly_bench",
        *words,
        *where,
        "--set",
        "train_images=8",
        "--set",
        "image_size=64",
    ]
    process = subprocess.Popen([*command, "--set", "epochs=1000"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "epoch 100 of 1000" in process.stderr.readline()
    process.send_signal(number)
    rest = process.stderr.read()
    assert process.wait() == status
    assert word in rest
    assert "Traceback" not in rest
    assert not places.results.exists()


def test_a_random_teacher_is_named_in_the_evidence(places: Places) -> None:
    spec = tiny_spec(teacher="resnet18.random")
    record = execute(spec, places, Store(places.results))
    assert record.evidence["weights"] == {"source": "random", "teacher": "resnet18.random"}


def test_golden_numbers(places: Places) -> None:
    """Behaviour moved without a new revision if this fails; float32, so that only the order of sums may differ."""
    store, spec = Store(places.results), tiny_spec(epochs=4, train_images=16)
    metrics = execute(spec, places, store).metrics
    lines = (store.folder(spec.run_id) / "curves.csv").read_text().splitlines()[1:]
    losses = [float(line.split(",")[-1]) for line in lines]
    assert losses == pytest.approx([2.8236, 2.4033, 2.1846, 2.0521], abs=2e-3)
    assert metrics["pixel_auroc"] == pytest.approx(0.5175, abs=5e-3)
    assert metrics["aupro"] == pytest.approx(0.1455, abs=5e-3)
