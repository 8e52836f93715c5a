"""Shared by all tests: generated data, made once, and a run small enough to train in a second."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# A shell without job control makes what it starts in the background ignore Ctrl-C, and so all that we start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# As the command line has it, and before anything imports PyTorch: see cli.main.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# Golden numbers and the tests of several devices are of a CPU's generators; a GPU is used where it is named.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

from anomaly_bench.bench.places import Places
from anomaly_bench.bench.profiles import load_profile
from anomaly_bench.bench.resolve import resolve
from anomaly_bench.bench.spec import RunSpec

TINY = {"epochs": 1, "image_size": 64, "train_images": 8, "test_images": 12, "precision": "32-true"}


def tiny_spec(category: str = "brick", **settings: object) -> RunSpec:
    """A real RD run on generated images: a real teacher, one epoch of one batch."""
    return resolve("rd", "synthetic", category, load_profile("smoke"), settings={**TINY, **settings})[0]


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(autouse=True)
def no_places_of_the_users(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the tests on real images look for data and weights where the user has them."""
    if request.node.get_closest_marker("real") is None:
        for name in ("DATA", "WEIGHTS", "RESULTS"):
            monkeypatch.delenv(f"ANOMALY_BENCH_{name}", raising=False)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests leave the user's cache alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANOMALY_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def no_wandb_account(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests have no key for W&B's server, and leave the user's W&B folders alone."""
    folder = tmp_path_factory.getbasetemp() / "wandb-home"
    for name in ("API_KEY", "DIR", "MODE", "PROJECT", "ENTITY"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    for name in ("DATA", "CACHE", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(folder))
    monkeypatch.setenv("NETRC", str(folder / "no-netrc"))


@pytest.fixture
def places(data_root: Path, tmp_path: Path) -> Places:
    return Places(data_root, tmp_path / "results")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden tables anew, to be read in a diff")
