"""The Python interface gives what the command line gives, and is light to import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from anomaly_bench.api import Places, open_run, train
from anomaly_bench.bench.execute import open_data
from anomaly_bench.errors import UserError
from tests.conftest import TINY


def test_train_evaluate_and_predict_in_a_few_lines(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train("rd", "synthetic", "brick", places, profile="smoke", settings=TINY)
    monkeypatch.setattr("anomaly_bench.bench.execute.execute", None)  # from here on nothing trains
    again = train("rd", "synthetic", "brick", places, profile="smoke", settings=TINY)
    assert again.record == open_run(run.id[:5], places).record
    assert run.metrics == run.evaluate({}) == run.record.metrics
    assert run.evaluate({"sigma": 0}) != run.metrics
    paths = sorted((open_data(run.record.spec, places).folder / "test").rglob("*.png"))[:3]
    found = run.predict(paths)
    assert found.maps.shape == (3, 64, 64)
    assert np.array_equal(found.scores, found.maps.max(axis=(1, 2)))
    assert run.threshold(0.0) >= run.threshold(0.5)
    text = Places(str(places.data_root), str(places.results), cache=str(places.cache))  # type: ignore[arg-type]
    assert np.array_equal(open_run(run.id, text).predict([str(path) for path in paths]).scores, found.scores)
    for nothing in ([], str(paths[0]), paths[0]):
        with pytest.raises(UserError, match="predict takes a list of image files, at least one"):
            run.predict(nothing)  # type: ignore[arg-type]
    assert repr(run) == f"Run({run.record.spec.label})"


def test_wrong_names_are_user_errors(places: Places) -> None:
    with pytest.raises(UserError, match="unknown method 'rdd'; did you mean 'rd'"):
        train("rdd", "synthetic", "brick", places)
    with pytest.raises(UserError, match=r"no run in .* begins with 'abc'"):
        open_run("abc", places)
    run = train("rd", "synthetic", "brick", places, profile="smoke", settings=TINY)
    with pytest.raises(UserError, match="an evaluation has no 'sigm'; did you mean 'sigma'"):
        run.evaluate({"sigm": 2})
    with pytest.raises(UserError, match="rd has no coarse maps"):
        run.evaluate({"score_from": "coarse"})


def test_importing_the_package_loads_nothing_and_its_types_are_shipped() -> None:
    code = "import sys; before = set(sys.modules); import anomaly_bench; print(sorted(set(sys.modules) - before))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "['anomaly_bench']"
    import anomaly_bench

    assert (Path(anomaly_bench.__file__).parent / "py.typed").exists()
