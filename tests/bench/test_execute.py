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
from typing import Any

import numpy as np
import pytest
import torch

from anomaly_bench.bench import execute as execute_module
from anomaly_bench.bench.evaluate import evaluate, fuse_maps
from anomaly_bench.bench.execute import execute
from anomaly_bench.bench.foreground import foreground_masks
from anomaly_bench.bench.obtain import obtain
from anomaly_bench.bench.places import Places
from anomaly_bench.bench.profiles import load_profile
from anomaly_bench.bench.resolve import own_evaluation, resolve
from anomaly_bench.bench.spec import EvalSpec, RunSpec
from anomaly_bench.bench.store import Store
from anomaly_bench.data.base import AnomalyDataModule
from anomaly_bench.data.images import read_image
from anomaly_bench.data.layout import Sample
from anomaly_bench.errors import UserError
from anomaly_bench.weights import find_weights
from tests.conftest import TINY, tiny_spec

LITE0 = "tf_efficientnet_lite0"
SMALL = {"image_size": 32, "batch_size": 4, "train_images": 8, "test_images": 8}


def small_spec(method: str, **settings: Any) -> RunSpec:
    """A run of any method, two steps short."""
    return resolve(method, "synthetic", "brick", load_profile("smoke"), settings={**TINY, **SMALL, **settings})[0]


def file_hashes(places: Places, spec: RunSpec) -> dict[str, str]:
    folder = Store(places.results).folder(spec.run_id)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def elsewhere(places: Places, name: str) -> Places:
    return replace(places, results=places.results.parent / name)


def no_training(*args: object, **kwargs: object) -> None:
    raise AssertionError("this must not train")


def test_a_run_in_a_job_of_several_slurm_tasks_waits_for_none_of_them(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    srun = tmp_path / "srun"
    srun.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    execute(tiny_spec(), places, Store(places.results))
    for name, value in {"NTASKS": "4", "PROCID": "1", "LOCALID": "1", "NODEID": "0", "JOB_NAME": "suite"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    other = elsewhere(places, "other")
    execute(tiny_spec(), other, Store(other.results))
    assert file_hashes(places, tiny_spec())["maps.npz"] == file_hashes(other, tiny_spec())["maps.npz"]
    assert [str(warning.message) for warning in recwarn if "srun" in str(warning.message)] == []


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


def test_another_rule_needs_the_maps_or_leave_to_train_anew(places: Places) -> None:
    spec, store, other = tiny_spec(), Store(places.results), EvalSpec(sigma=0.0)
    first = obtain(spec, EvalSpec(), places, store).record
    (store.folder(spec.run_id) / "maps.npz").unlink()
    with pytest.raises(UserError, match="another rule needs the run's maps; use --again to train the run anew"):
        obtain(spec, other, places, store)
    again = obtain(spec, other, places, store, replace_unfit=True)
    assert again.how == "trained"
    assert again.record.metrics == first.metrics  # the new training is the old one's twin
    assert other.eval_id in again.record.evaluations


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


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has float16")
def test_a_precision_that_the_device_lacks_is_refused_and_not_replaced(places: Places) -> None:
    with pytest.raises(UserError, match="precision 16-mixed is not to be had on this device"):
        execute(tiny_spec(precision="16-mixed"), places, Store(places.results))
    assert not places.results.exists()


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
    process = subprocess.Popen(
        [*command, "--set", "epochs=1000", "precision=32-true"], stderr=subprocess.PIPE, text=True
    )
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


# A student with weights of its own, an evaluation of the method's own, and backgrounds.


@pytest.mark.parametrize("rule", ["otsu", "border", "grabcut"])
def test_another_background_re_evaluates_the_kept_maps_and_trains_nothing(
    rule: Any, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, store = replace(small_spec("rd", image_size=64), category="coins"), Store(places.results)
    obtain(spec, EvalSpec(), places, store)
    monkeypatch.setattr(execute_module, "execute", no_training)
    asked = EvalSpec(background=rule)
    obtained = obtain(spec, asked, places, store)
    assert obtained.how == "re-evaluated"
    data = execute_module.open_data(spec, places)
    data.setup()
    assert data.ground_truth is not None
    images = np.stack([read_image(sample.path, 64).pixels for sample in data.ground_truth.samples])
    found = foreground_masks(images, rule)
    plain, entry = (obtained.record.evaluations[e.eval_id] for e in (EvalSpec(), asked))
    assert entry["evidence"] == {"images_without_background": len(found.fallbacks), "images": 8}
    assert 0 <= len(found.fallbacks) < 8
    maps = fuse_maps(dict(np.load(store.folder(spec.run_id) / "maps.npz")), 64, asked) * found.masks
    lines = (store.folder(spec.run_id) / f"scores-{asked.eval_id}.csv").read_text().splitlines()[1:]
    assert [float(line.split(",")[3]) for line in lines] == pytest.approx(maps.max(axis=(1, 2)).tolist())
    pixels = ("pixel_auroc", "pixel_ap", "pixel_f1max", "aupro", "aupro_rd4ad")
    assert all(entry["metrics"][name] == plain["metrics"][name] for name in pixels)
    assert obtained.record.metrics == plain["metrics"]
    assert obtain(spec, asked, places, store).how == "found"


def test_ast_mfrs_own_evaluation_has_its_mean_filter_and_gives_the_records_metrics(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, store, own = small_spec("ast_mfr"), Store(places.results), EvalSpec(mean_kernel=5)
    record = execute(spec, places, store)
    assert own_evaluation("ast_mfr") == own
    assert (record.evaluation, list(record.evaluations)) == (own.eval_id, [own.eval_id])
    monkeypatch.setattr(execute_module, "execute", no_training)
    other = obtain(spec, EvalSpec(), places, store).record
    assert other.metrics == record.metrics == record.evaluations[own.eval_id]["metrics"]
    assert other.evaluations[EvalSpec().eval_id]["metrics"] != record.metrics
    data = execute_module.open_data(spec, places)
    data.setup()
    assert data.ground_truth is not None
    again = evaluate(dict(np.load(store.folder(spec.run_id) / "maps.npz")), data.ground_truth, 32, own)
    assert again.panel.values == record.metrics


@pytest.mark.parametrize(("package", "sentence"), [
    (None, "background=sam needs the package segment-anything; run `pip install segment-anything`."),
    (object(), "background=sam needs a checkpoint; put sam_vit_b_*.pth into a folder and name it by --weights-dir."),
])  # fmt: skip
def test_sam_without_package_or_checkpoint_ends_before_any_training(
    package: object, sentence: str, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "segment_anything", package)
    monkeypatch.setattr(execute_module, "execute", no_training)
    with pytest.raises(UserError) as error:
        obtain(small_spec("rd"), EvalSpec(background="sam"), places, Store(places.results))
    assert str(error.value) == sentence
    assert not places.results.exists()


def test_a_students_weights_are_evidence_and_others_than_the_records_are_refused(
    places: Places, tmp_path: Path
) -> None:
    spec, store = small_spec("ast_mfr", teacher="resnet18.random", student=LITE0), Store(places.results)
    record = execute(spec, places, store)
    assert record.evidence["weights"] == {"source": "random", "teacher": "resnet18.random"}
    assert record.evidence["student_weights"]["sha256"].startswith("579344248a93")
    assert record.evidence["student_weights"]["source"] == "wheel"
    own = own_evaluation("ast_mfr")
    assert obtain(spec, own, places, store).how == "found"

    wheel = find_weights(LITE0, None, download=False)
    assert wheel is not None
    folder = tmp_path / "weights"
    folder.mkdir()
    copy = folder / f"{LITE0}.pth"
    copy.write_bytes(wheel.path.read_bytes())
    there = replace(places, weights_dir=folder)
    assert obtain(spec, own, there, store).how == "found"  # the same bytes elsewhere are the same weights
    copy.write_bytes(copy.read_bytes() + b"\0")
    with pytest.raises(UserError, match="was made from other weights than those at hand; use --again"):
        obtain(spec, own, there, store)


def test_a_score_by_another_sam_checkpoint_is_not_passed_off_as_this_ones(places: Places) -> None:
    store, asked = Store(places.results), EvalSpec(background="sam")
    record = execute(tiny_spec(), places, store)
    weights = replace(places, weights_dir=places.results.parent / "weights")
    checkpoint = places.results.parent / "weights" / "sam_vit_b.pth"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"one")
    used = {"file": "sam_vit_b.pth", "sha256": hashlib.sha256(b"one").hexdigest(), "source": "folder"}
    entry = record.evaluations[record.evaluation] | {"spec": asked.as_json(), "evidence": {"weights": used}}
    store.add_evaluation(record, asked, entry, "path,score\n", own=False)
    assert obtain(record.spec, asked, weights, store).how == "found"
    assert obtain(record.spec, asked, places, store).how == "found"  # nothing at hand, nothing to compare
    checkpoint.write_bytes(b"another")
    with pytest.raises(UserError, match=r"was evaluated with other SAM weights than .*sam_vit_b.pth; use --again"):
        obtain(record.spec, asked, weights, store)
