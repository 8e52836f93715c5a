"""A run that fails is stored with its reason, and the command says what may help."""

from __future__ import annotations

import re
from typing import Any

import pytest

from anomaly_bench.bench import execute as execute_module
from anomaly_bench.bench.places import Places
from anomaly_bench.bench.store import Failure, Store
from anomaly_bench.cli import main
from anomaly_bench.data.base import AnomalyDataModule
from tests.conftest import TINY, tiny_spec


def train_by_command(places: Places, **settings: object) -> int:
    tiny = [f"{name}={value}" for name, value in {**TINY, **settings}.items()]
    where = ["--results", str(places.results), "--data-root", str(places.data_root)]
    words = ["run", "--method", "rd", "--dataset", "synthetic", "--category", "brick", "--profile", "smoke"]
    return main([*words, "--set", *tiny, *where])


def test_a_diverged_run_is_a_failure_with_its_reason_and_says_what_may_help(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_by_command(places, lr=1e30, epochs=3, precision="bf16-mixed") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    expected = r"error: rd .* failed: the loss is nan in epoch \d; try a smaller lr or precision=32-true, by --set\."
    assert re.fullmatch(expected, last)
    failure = Store(places.results).load(tiny_spec(lr=1e30, epochs=3, precision="bf16-mixed").run_id)
    assert isinstance(failure, Failure)
    assert re.fullmatch(r"the loss is nan in epoch \d", failure.reason)
    assert failure.final


@pytest.mark.parametrize(
    ("where", "name", "reason"),
    [
        (AnomalyDataModule, "decoded_bytes", "its images at 64x64; try a smaller image_size, or fewer by train_images"),
        (AnomalyDataModule, "setup", "its images at 64x64; try a smaller image_size, or fewer by train_images"),
        (execute_module, "build_method", "its networks; try smaller ones"),
    ],
)
def test_what_does_not_fit_in_memory_is_a_failure_with_its_reason(
    where: Any, name: str, reason: str, places: Places, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def too_much(*_: object, **__: object) -> int:
        if name == "decoded_bytes":
            return 1 << 60
        raise MemoryError

    monkeypatch.setattr(where, name, too_much)
    assert train_by_command(places) == 1
    assert capsys.readouterr().err.rstrip().endswith(f"failed: out of memory for {reason}, by --set.")
    failure = Store(places.results).load(tiny_spec().run_id)
    assert isinstance(failure, Failure)
    assert failure.final
    assert failure.reason == f"out of memory for {reason.partition(';')[0]}"


def test_another_evaluation_that_does_not_fit_leaves_the_record_as_it_was(
    places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_by_command(places) == 0
    record = Store(places.results).load(tiny_spec().run_id)

    def too_much(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(execute_module, "evaluate_maps", too_much)
    assert train_by_command(places, sigma=2) == 1
    assert "failed: out of memory for another evaluation; try a smaller sigma" in capsys.readouterr().err
    assert Store(places.results).load(tiny_spec().run_id) == record
