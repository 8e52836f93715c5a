"""The runs that are measured: the papers' protocol with networks of random weights, which change no speed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anomaly_bench.bench.profiles import load_profile
from anomaly_bench.bench.resolve import resolve
from anomaly_bench.bench.spec import EvalSpec, RunSpec


def random_run(
    method: str,
    teacher: str,
    settings: Mapping[str, Any],
    *,
    dataset: str = "synthetic",
    category: str = "brick",
    seed: int = 0,
) -> tuple[RunSpec, EvalSpec]:
    """Spec and evaluation of a run; `settings` are the protocol's, as `--set` takes them."""
    student = {"student": "tf_efficientnet_lite0.random"} if method == "ast_mfr" else {}
    chosen = {"teacher": teacher, **student, **settings}
    return resolve(method, dataset, category, load_profile("paper"), seed=seed, settings=chosen)
