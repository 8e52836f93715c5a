"""A stored run put together again gives the record's own scores, or says why it cannot."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anomaly_bench.bench.execute import execute, open_data
from anomaly_bench.bench.places import Places
from anomaly_bench.bench.predictor import (
    Predictor,
    find_run,
    load_predictor,
    threshold_at,
    training_scores,
)
from anomaly_bench.bench.profiles import load_profile
from anomaly_bench.bench.resolve import resolve
from anomaly_bench.bench.spec import RunSpec
from anomaly_bench.bench.store import Failure, Record, Store
from anomaly_bench.data.images import read_image
from anomaly_bench.errors import UserError
from tests.conftest import TINY, tiny_spec

SMALL = {**TINY, "image_size": 32, "batch_size": 4, "train_images": 8, "test_images": 8}


def small_spec(method: str, **settings: object) -> RunSpec:
    return resolve(method, "synthetic", "brick", load_profile("smoke"), settings={**SMALL, **settings})[0]


def stored_scores(record: Record, places: Places) -> tuple[list[Path], list[float]]:
    """The images of the run's CSV, and the scores that it has for them."""
    store, folder = Store(places.results), open_data(record.spec, places).folder
    rows = csv.DictReader((store.read_scores(record.spec.run_id, record.evaluation) or "").splitlines())
    pairs = [(folder / row["path"], float(row["score"])) for row in rows]
    return [path for path, _ in pairs], [score for _, score in pairs]


@pytest.fixture(scope="module")
def trained(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, Places]:
    places = Places(data_root, tmp_path_factory.mktemp("trained"))
    return execute(tiny_spec(), places, Store(places.results)), places


@pytest.mark.parametrize(
    "spec",
    [
        small_spec("rd", precision="bf16-mixed"),
        small_spec("variance_rd"),
        small_spec("fmm_scsatt", mask_at_test="true"),
        small_spec("ast_mfr", precision="bf16-mixed"),
        small_spec("dlkd", score_from="coarse"),
    ],
    ids=lambda spec: spec.method,
)
def test_every_method_scores_a_test_image_as_its_record_does(spec: RunSpec, places: Places) -> None:
    record = execute(spec, places, Store(places.results))
    predictor = load_predictor(record, places, device="cpu")
    paths, scores = stored_scores(record, places)
    images = np.stack([read_image(path, predictor.image_size).pixels for path in paths])
    predicted = predictor.predict(images)
    np.testing.assert_allclose(predicted.scores, scores, rtol=1e-5)
    assert predicted.maps.shape == (8, 32, 32)
    alone = [predictor.predict(images[index : index + 1]).scores[0] for index in range(len(images))]
    tolerance = 1e-5 if spec.protocol.precision == "32-true" else 1e-2  # one image alone takes other kernels
    np.testing.assert_allclose(alone, scores, rtol=tolerance)


def test_a_run_is_found_by_the_beginning_of_its_id(trained: tuple[Record, Places]) -> None:
    record, places = trained
    store = Store(places.results)
    assert find_run(store, record.spec.run_id[:3]).spec == record.spec
    for nothing in ("", "zz", "."):
        with pytest.raises(UserError, match=f"begins with '{nothing}'; `anomaly-bench list runs` shows all"):
            find_run(store, nothing)


def test_several_runs_and_a_failed_one_are_named(places: Places) -> None:
    store = Store(places.results)
    failed = Failure(tiny_spec(), "the loss is nan in epoch 2")
    store.write_failure(failed)
    with pytest.raises(UserError, match=r"failed \(the loss is nan in epoch 2\); choose another"):
        find_run(store, failed.spec.run_id)
    twin = failed.spec.run_id[:-1] + "!"
    (store.runs / twin).mkdir()
    with pytest.raises(UserError, match=f"2 runs begin with '{twin[:3]}' .*; give more of the id"):
        find_run(store, twin[:3])


def cut_the_checkpoint(folder: Path) -> None:
    path = folder / "student.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def remove_the_checkpoint(folder: Path) -> None:
    (folder / "student.safetensors").unlink()


def another_teacher(folder: Path) -> None:
    record = json.loads((folder / "record.json").read_text())
    record["evidence"]["weights"]["sha256"] = "0" * 64
    (folder / "record.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (cut_the_checkpoint, r"student.safetensors cannot be read .*; train the run anew by `run --again`"),
        (remove_the_checkpoint, r"student.safetensors is not there .*; train the run anew by `run --again`"),
        (another_teacher, r"is not the teacher that run \w+ was trained with; put .* of SHA-256 0000000000000000"),
    ],
)
def test_a_run_that_cannot_be_put_together_says_why(
    damage: Callable[[Path], None], sentence: str, trained: tuple[Record, Places], tmp_path: Path
) -> None:
    record, places = trained
    there = replace(places, results=tmp_path / "results")
    shutil.copytree(places.results, there.results)
    store = Store(there.results)
    damage(store.folder(record.spec.run_id))
    with pytest.raises(UserError, match=sentence):
        load_predictor(find_run(store, record.spec.run_id), there)


def test_a_run_of_another_revision_is_refused(trained: tuple[Record, Places]) -> None:
    record, places = trained
    older = replace(record, spec=replace(record.spec, method_revision=0))
    with pytest.raises(UserError, match="was trained with revision 0 of rd, which is now at 1; train it anew"):
        load_predictor(older, places)


def test_a_threshold_has_at_most_its_share_of_scores_above_it_and_the_next_lower_has_more() -> None:
    scores = np.random.default_rng(0).permutation(100).astype(np.float32)
    for rate, above in ((0.0, 0), (0.009, 0), (0.01, 1), (0.07, 7), (0.29, 29), (0.999, 99)):
        threshold = threshold_at(scores, rate)
        assert (scores > threshold).sum() == above
        assert threshold in scores
    with pytest.raises(UserError, match="at least 0 and below 1, not 1"):
        threshold_at(scores, 1.0)


def test_training_scores_are_of_the_images_that_were_trained_on_and_of_no_others(
    trained: tuple[Record, Places], tmp_path: Path
) -> None:
    record, places = trained
    predictor: Predictor = load_predictor(record, places, device="cpu")
    data = open_data(record.spec, places)
    data.setup()
    assert data.train_pixels is not None
    scores = training_scores(predictor, places)
    assert len(scores) == len(data.train_pixels) == 8
    np.testing.assert_allclose(scores[3:4], predictor.predict(data.train_pixels[3:4].numpy()).scores, rtol=1e-5)
    moved = replace(places, data_root=tmp_path / "data")
    shutil.copytree(places.data_root, moved.data_root)
    image = next((moved.data_root / "synthetic-v1" / "brick" / "train" / "good").iterdir())
    image.write_bytes(image.read_bytes() + b"\0")
    with pytest.raises(UserError, match=r"are not those that run .* was made from; name the folder"):
        training_scores(predictor, moved)
