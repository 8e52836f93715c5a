"""The cache of the teacher's features: the same features, the same run, one look at each image."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from anomaly_bench.bench import feature_cache
from anomaly_bench.bench.execute import build_method, execute, find_networks, open_data
from anomaly_bench.bench.feature_cache import cache_features
from anomaly_bench.bench.memory import _group_memory, _machine_memory, free_memory
from anomaly_bench.bench.places import Conduct, Places
from anomaly_bench.bench.precision import running_in
from anomaly_bench.bench.profiles import load_profile
from anomaly_bench.bench.resolve import resolve
from anomaly_bench.bench.spec import RunSpec
from anomaly_bench.bench.store import Store
from anomaly_bench.data.batches import BatchOrder, ResidentImages
from anomaly_bench.layers.teacher import Teacher
from anomaly_bench.methods.base import DistillationMethod
from tests.conftest import TINY, tiny_spec

IMAGES, EPOCHS = 20, 3


def small_spec(method: str = "rd") -> RunSpec:
    settings = {**TINY, "train_images": IMAGES, "epochs": EPOCHS, "batch_size": 8}
    return resolve(method, "synthetic", "brick", load_profile("smoke"), settings=settings)[0]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What the teacher was called for and with how many images, in order; one-image calls measure costs."""
    calls: list[tuple[str, int]] = []

    def counted(name: str, original: Callable[..., list[Tensor]]) -> Callable[..., list[Tensor]]:
        def call(teacher: Teacher, images: Tensor, *rest: object) -> list[Tensor]:
            calls.append((name, len(images)))
            return original(teacher, images, *rest)

        return call

    for name in ("forward", "forward_changed"):
        monkeypatch.setattr(Teacher, name, counted(name, getattr(Teacher, name)))
    return calls


def trained(spec: RunSpec, places: Places, *, cache: bool) -> list[float]:
    """The loss of every epoch of a whole run."""
    places = dataclasses.replace(
        places, results=places.results / str(cache), conduct=Conduct(show=False, feature_cache=cache)
    )
    execute(spec, places, Store(places.results))
    rows = csv.DictReader(io.StringIO((Store(places.results).folder(spec.run_id) / "curves.csv").read_text()))
    return [float(row["loss"]) for row in rows]


def opened(spec: RunSpec, places: Places) -> tuple[DistillationMethod, ResidentImages]:
    data = open_data(spec, places)
    data.setup()
    assert data.train_pixels is not None
    method = build_method(spec, find_networks(spec, None)).to(memory_format=torch.channels_last)
    return method, ResidentImages(data.train_pixels)


@pytest.mark.parametrize("mixed", [False, True])
def test_cached_features_are_the_teachers_whatever_the_order_and_size_of_the_batch(mixed: bool, places: Places) -> None:
    method, images = opened(small_spec(), places)
    with running_in("bf16-mixed" if mixed else "32-true", torch.device("cpu")), torch.no_grad():
        cache = cache_features(method, images)
        for indices in BatchOrder(IMAGES, 8, shuffle_seed=1):
            method.cached_features = None
            fresh = method.teacher_features(images[indices])
            method.cached_features = cache
            for kept, now in zip(method.teacher_features(images[indices]), fresh, strict=True):
                assert kept.dtype == now.dtype
                assert kept.is_contiguous(memory_format=torch.channels_last)
                # Sums in another order may be rounded to the next bfloat16, at most 2^-7 of a number apart.
                apart = 2**-7 * now.abs().max().item() if mixed else 1e-4
                torch.testing.assert_close(kept, now, rtol=1e-4, atol=apart)


def test_a_run_looks_at_each_training_image_once_and_learns_the_same(
    places: Places, seen: list[tuple[str, int]]
) -> None:
    def of_training() -> int:
        count = sum(images for _, images in seen if images > 1) - TINY["test_images"]
        seen.clear()
        return count

    with_cache = trained(small_spec(), places, cache=True)
    assert of_training() == IMAGES
    without = trained(small_spec(), places, cache=False)
    assert of_training() == EPOCHS * IMAGES
    assert with_cache == pytest.approx(without, rel=1e-2)
    assert with_cache[0] == pytest.approx(without[0], rel=1e-4)


def test_noisy_features_are_never_kept(places: Places, seen: list[tuple[str, int]]) -> None:
    trained(small_spec("dlkd"), places, cache=True)
    assert sum(images for name, images in seen if name == "forward_changed" and images > 1) == EPOCHS * IMAGES


def test_without_enough_memory_one_line_says_so_and_the_run_is_the_same(
    places: Places, seen: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(feature_cache, "free_memory", lambda device: 100_000)
    without = trained(small_spec(), places, cache=False)
    seen.clear()
    capsys.readouterr()
    assert trained(small_spec(), places, cache=True) == without
    assert sum(images for _, images in seen if images > 1) >= EPOCHS * IMAGES
    [line] = [line for line in capsys.readouterr().err.splitlines() if "memory" in line]
    assert line.startswith(f"the teacher's features of {IMAGES} images would take 0.0")
    assert line.endswith("the teacher runs in every epoch.")


def test_a_single_epoch_keeps_nothing(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("nothing is to be kept")

    monkeypatch.setattr(feature_cache, "cache_features", refuse)
    assert len(trained(tiny_spec(), places, cache=True)) == 1


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    """Both versions' files: 1000 bytes allowed, 700 in use, 100 of these file pages that give way."""
    for folder, limit, use in (("job", "max", "current"), ("memory/job", "limit_in_bytes", "usage_in_bytes")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / f"memory.{limit}").write_text("1000\n")
        (tmp_path / folder / f"memory.{use}").write_text("700\n")
        (tmp_path / folder / "memory.stat").write_text("cache 300\nactive_file 200\ninactive_file 100\n")
    return tmp_path


@pytest.mark.parametrize("membership", ["0::/job", "4:memory:/job", "5:cpu:/\n4:hugetlb,memory:/job"])
def test_a_jobs_memory_limit_counts(membership: str, groups: Path) -> None:
    (groups / "self").write_text(f"{membership}\n")
    assert list(_group_memory(groups / "self", groups)) == [400]


def test_no_limit_is_no_limit(groups: Path) -> None:
    (groups / "job" / "memory.max").write_text("max\n")
    (groups / "self").write_text("0::/job\n3:cpu:/job\n")
    assert list(_group_memory(groups / "self", groups)) == []
    assert list(_group_memory(groups / "nowhere", groups)) == []


def test_free_memory_is_some_and_not_more_than_there_is(tmp_path: Path) -> None:
    everything = _machine_memory(tmp_path / "nowhere")
    assert 0 < free_memory(torch.device("cpu")) < everything
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemFree: 1 kB\nMemAvailable:     5 kB\n")
    assert _machine_memory(tmp_path / "meminfo") == 5 * 1024
