"""A killed training goes on from its last checkpoint, and ends with the same numbers to the last bit."""

from __future__ import annotations

import errno
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer

from anomaly_bench.bench.checkpoint import Checkpoints
from anomaly_bench.bench.execute import CHECKPOINT, CURVES
from anomaly_bench.bench.obtain import obtain
from anomaly_bench.bench.places import Conduct, Places
from anomaly_bench.bench.profiles import load_profile
from anomaly_bench.bench.progress import Curves, TrainingDivergedError
from anomaly_bench.bench.resolve import resolve
from anomaly_bench.bench.store import Record, RunFailedError, Store, StoreError

METHODS = ("rd", "fmm_scsatt", "ast_mfr", "variance_rd", "dlkd")
EPOCHS, KILLED_IN = 4, 2
EVERY_EPOCH = Conduct(show=False, checkpoint_seconds=0)


class KilledError(BaseException):
    """Like the end of a process: nothing is to catch it."""


def train(method: str, places: Places, **settings: Any) -> Record:
    tiny = {"epochs": EPOCHS, "image_size": 64, "train_images": 16, "test_images": 8}
    spec, own = resolve(method, "synthetic", "coins", load_profile("smoke"), settings=tiny | settings)
    return obtain(spec, own, places, Store(places.results)).record


def end_in(epoch: int, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(_: Curves, trainer: Trainer, __: LightningModule) -> None:
        if trainer.current_epoch == epoch:
            raise error

    monkeypatch.setattr(Curves, "on_train_epoch_start", die)


def half_trained(method: str, places: Places, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was killed; its checkpoint."""
    with monkeypatch.context() as patch:
        end_in(KILLED_IN, KilledError(), patch)
        with pytest.raises(KilledError):
            train(method, places)
    [left] = [path for path in (places.results / "runs").iterdir() if not path.name.endswith(".lock")]
    assert left.suffix == ".ckpt"
    return left


@pytest.fixture
def here(places: Places) -> Places:
    return replace(places, conduct=EVERY_EPOCH)


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_ends_as_one_that_was_never_interrupted(
    method: str, here: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = replace(here, results=tmp_path / "whole")
    expected = train(method, whole)
    half_trained(method, here, monkeypatch)
    capsys.readouterr()
    resumed = train(method, replace(here, conduct=replace(EVERY_EPOCH, show=True)))
    said = capsys.readouterr().err  # after which epoch is the last checkpoint's, and those take their time
    assert any(f"{expected.spec.label}: goes on after epoch {done} of {EPOCHS}" in said for done in (1, 2))
    assert (expected.cost["resumed"], resumed.cost["resumed"]) == (0, 1)
    assert resumed.metrics == expected.metrics
    folders = [places.results / "runs" / expected.spec.run_id for places in (whole, here)]
    for name in (CHECKPOINT, CURVES):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    assert [path.name for path in (here.results / "runs").iterdir()] == [expected.spec.run_id]


def test_a_checkpoint_holds_no_teacher_and_loads_without_running_anything(
    here: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = torch.load(half_trained("rd", here, monkeypatch), weights_only=True)
    assert saved["epoch"] < KILLED_IN
    assert not [name for name in saved["state_dict"] if name.startswith("teacher.")]


def test_a_checkpoint_needs_no_folder_for_temporary_files(here: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(here.results / "there is no such folder"))
        half_trained("rd", here, patch)
    assert train("rd", here).cost["resumed"] == 1


def test_a_disk_that_is_full_of_a_checkpoint_is_named(here: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_to_grow(path: Path, content: bytes) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", refuse_to_grow)
    with pytest.raises(StoreError, match=f"results folder {here.results} .the disk is full.; "):
        train("rd", here)
    assert not here.results.exists()


@pytest.mark.parametrize("harm", ["cut", "of other versions", "of a GPU"])
def test_a_checkpoint_that_cannot_be_used_is_said_and_training_starts_anew(
    harm: str, here: Places, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    left = half_trained("rd", here, monkeypatch)
    if harm == "cut":
        left.write_bytes(left.read_bytes()[:1000])
    elif harm == "of a GPU":
        saved = torch.load(left, weights_only=True)
        [state] = [state for state in saved["callbacks"].values() if "origin" in state]
        assert state["origin"]["device"] == "cpu"
        state["origin"]["device"] = "cuda"
        torch.save(saved, left)
    else:
        monkeypatch.setattr(
            "anomaly_bench.bench.execute.provenance", lambda: {"versions": {"torch": "1"}, "commit": None}
        )
    assert train("rd", here).cost["resumed"] == 0
    said = "is broken" if harm == "cut" else "is of other data, weights, versions or devices"
    assert f"{said}" in (errors := capfd.readouterr().err)
    assert "training starts anew." in errors


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (RuntimeError("CUDA error: unspecified launch failure"), RuntimeError),
        (MemoryError("which another process had"), RunFailedError),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), RunFailedError),
    ],
)
def test_a_training_that_failed_of_what_may_be_over_goes_on_from_its_checkpoint(
    error: Exception, raised: type[Exception], here: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        end_in(KILLED_IN, error, patch)
        with pytest.raises(raised):
            train("rd", here)
    assert train("rd", here).cost["resumed"] == 1


def refuse(*_: object) -> None:
    raise RuntimeError("it does not fit")


@pytest.mark.parametrize("fails", ["diverged", "to go on"])
def test_a_checkpoint_from_which_a_training_would_fail_again_is_removed(
    fails: str, here: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = half_trained("rd", here, monkeypatch)
    if fails == "diverged":
        end_in(KILLED_IN + 1, TrainingDivergedError("the loss is nan in epoch 4"), monkeypatch)
    else:
        monkeypatch.setattr(Curves, "load_state_dict", refuse)
    with pytest.raises((RunFailedError, RuntimeError)):
        train("rd", here)
    assert not left.exists()


def test_a_clock_that_was_set_back_changes_nothing(here: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    left, year = half_trained("rd", here, monkeypatch), 365 * 24 * 3600
    os.utime(left, (time.time() + year, time.time() + year))  # so it looks to a clock that went back by a year
    assert train("rd", here).cost["resumed"] == 1


def test_saving_takes_little_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("anomaly_bench.bench.checkpoint.time.monotonic", lambda: now[0])
    checkpoints, saved = Checkpoints(tmp_path / "x.ckpt", {}, seconds=10), list[float]()

    def save(_: Checkpoints, __: Trainer) -> None:
        saved.append(now[0])
        now[0] += 2

    monkeypatch.setattr(Checkpoints, "_save", save)
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    for epoch in range(20):
        now[0] = max(now[0], 5.0 * (epoch + 1))
        checkpoints.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
    # The first after ten seconds; then none within forty, of which two are a twentieth.
    assert saved == [10.0, 55.0, 100.0]
