"""Behaviour moved without a new revision if these fail; float32 on one thread, so that only a library may differ.

Without the cache of the teacher's features, which may round a float32 map of 4x4 another way: four steps of Adam
make 1e-3 of that here.

`ast_mfr` moved once within its revision: its untrained student, which only the smoke profile and `same.random` have,
starts as torchvision's since. No published record had one, and a new revision would have made stale all those of
pretrained students, to whom nothing happened. A results folder with smoke runs from before wants `--again` for them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch

from anomaly_bench.bench.catalog import method_names
from anomaly_bench.bench.execute import execute
from anomaly_bench.bench.places import Conduct, Places
from anomaly_bench.bench.profiles import load_profile
from anomaly_bench.bench.resolve import resolve
from anomaly_bench.bench.store import Store
from tests.conftest import TINY

# Loss of every epoch, pixel AUROC, AUPRO.
GOLDEN: dict[str, tuple[list[float], float, float]] = {
    "ast_mfr": ([5.2292, 3.1263, 2.3790, 2.0376], 0.9402, 0.8196),
    "dlkd": ([5.6989, 4.7151, 3.6179, 2.9196], 0.8233, 0.6272),
    "fmm_scsatt": ([2.2782, 1.3979, 1.1322, 1.0252], 0.9580, 0.8637),
    "rd": ([2.8236, 2.4037, 2.1867, 2.0522], 0.5096, 0.1459),
    "variance_rd": ([2.8452, 2.4217, 2.1843, 2.0438], 0.4373, 0.0649),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The order of sums depends on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("method", method_names())
def test_golden_numbers(method: str, places: Places) -> None:
    settings = {**TINY, "epochs": 4, "train_images": 16}
    spec, evaluation = resolve(method, "synthetic", "brick", load_profile("smoke"), settings=settings)
    store = Store(places.results)
    places = dataclasses.replace(places, conduct=Conduct(feature_cache=False))
    metrics = execute(spec, places, store).evaluations[evaluation.eval_id]["metrics"]
    lines = (store.folder(spec.run_id) / "curves.csv").read_text().splitlines()
    column = lines[0].split(",").index("loss")
    losses, pixel_auroc, aupro = GOLDEN[method]
    assert [float(line.split(",")[column]) for line in lines[1:]] == pytest.approx(losses, abs=2e-3)
    assert metrics["pixel_auroc"] == pytest.approx(pixel_auroc, abs=5e-3)
    assert metrics["aupro"] == pytest.approx(aupro, abs=5e-3)
