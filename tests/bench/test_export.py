"""What is exported gives the maps and scores of the run, or there is no file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from anomaly_bench.bench import export
from anomaly_bench.bench.execute import execute
from anomaly_bench.bench.export import ExportableRun, check_images, run_onnx, smoothing_matrix
from anomaly_bench.bench.places import Places
from anomaly_bench.bench.predictor import Predictor, load_predictor
from anomaly_bench.bench.spec import EvalSpec
from anomaly_bench.bench.store import Record, Store
from anomaly_bench.cli import main
from tests.bench.test_predictor import small_spec
from tests.conftest import tiny_spec


@pytest.fixture(scope="module")
def trained(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, Places]:
    places = Places(data_root, tmp_path_factory.mktemp("trained"))
    return execute(tiny_spec(), places, Store(places.results)), places


def words(trained: tuple[Record, Places], out: Path) -> list[str]:
    record, places = trained
    return ["export", "--run", record.spec.run_id, "--out", str(out), "--results", str(places.results)]


def under(predictor: Predictor, rule: EvalSpec) -> Predictor:
    """The same run, as if its own evaluation were `rule`."""
    record = predictor.record
    evaluations = {**record.evaluations, rule.eval_id: {"spec": rule.as_json()}}
    return replace(predictor, record=replace(record, evaluation=rule.eval_id, evaluations=evaluations))


@pytest.mark.parametrize(("size", "sigma"), [(7, 4.0), (32, 1.3), (33, 0.0)])
def test_a_matrix_on_either_side_is_scipys_gaussian(size: int, sigma: float) -> None:
    anomaly_map = np.random.default_rng(0).random((size, size)).astype(np.float32)
    matrix = smoothing_matrix(size, sigma).numpy()
    expected = gaussian_filter(anomaly_map, sigma) if sigma else anomaly_map
    np.testing.assert_allclose(matrix @ anomaly_map @ matrix.T, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "rule",
    [EvalSpec(), EvalSpec(fusion="product", sigma=0.0), EvalSpec(mean_kernel=5, image_score="mean")],
    ids=lambda rule: str(rule.as_json()),
)
def test_the_graph_is_the_evaluation_rule_whatever_it_is(rule: EvalSpec, trained: tuple[Record, Places]) -> None:
    predictor = under(load_predictor(*trained, device="cpu"), rule)
    images = check_images(64)
    with torch.no_grad():
        maps, scores = ExportableRun(predictor).eval()(torch.from_numpy(images))
    expected = predictor.predict(images)
    np.testing.assert_allclose(maps.numpy(), expected.maps, atol=1e-3)  # which are rounded to float16 before fusion
    np.testing.assert_allclose(scores.numpy(), expected.scores, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rd", "variance_rd", "fmm_scsatt", "ast_mfr", "dlkd"])
def test_onnxruntime_gives_pytorchs_maps_for_any_number_of_images(method: str, places: Places, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    record = execute(small_spec(method), places, Store(places.results))
    predictor = load_predictor(record, places, device="cpu")
    file = tmp_path / "new folder" / "run.onnx"
    checked = export.export_onnx(predictor, file)
    assert checked.images == 6
    assert checked.maps < 1e-4
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file))
    images = check_images(32)
    together = session.run(["maps", "scores"], {"images": images})
    alone = run_onnx(file, images)
    np.testing.assert_allclose(together[0], alone.maps, atol=1e-5)
    np.testing.assert_allclose(together[1], alone.scores, atol=1e-5)
    assert list(file.parent.iterdir()) == [file]


def test_a_file_that_differs_from_pytorch_is_not_left(
    trained: tuple[Record, Places], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    out = tmp_path / "run.onnx"
    out.write_text("an earlier export")

    def a_little_off(path: Path, images: Any) -> Any:
        predicted = load_predictor(*trained, device="cpu").predict(images)
        return replace(predicted, maps=predicted.maps + 0.01)

    monkeypatch.setattr(export, "_write_graph", lambda predictor, path: None)
    monkeypatch.setattr(export, "run_onnx", a_little_off)
    assert main(words(trained, out)) == 1
    assert "differ from PyTorch's by 0.01, more than 0.00" in capsys.readouterr().err
    assert out.read_text() == "an earlier export"
    assert list(tmp_path.iterdir()) == [out]


def test_a_file_that_onnxruntime_cannot_run_is_not_left(
    trained: tuple[Record, Places], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(export, "_write_graph", lambda predictor, path: path.write_bytes(b"no graph"))
    assert main(words(trained, tmp_path / "run.onnx")) == 1
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert error[0].startswith("error: onnxruntime cannot run the exported run ")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_and_a_file_in_the_way_are_one_sentence(
    trained: tuple[Record, Places], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export, "PACKAGES", ())
    (tmp_path / "no").write_text("in the way")
    assert main(words(trained, tmp_path / "no" / "run.onnx")) == 2
    assert "cannot write" in capsys.readouterr().err
    (tmp_path / "no").unlink()
    monkeypatch.setattr(export, "PACKAGES", ("sys", "nowhere_to_be_found"))
    assert main(words(trained, tmp_path / "run.onnx")) == 2
    sentence = "error: export needs nowhere_to_be_found; run pip install 'anomaly-bench[export]'.\n"
    assert capsys.readouterr().err == sentence
    assert list(tmp_path.iterdir()) == []
