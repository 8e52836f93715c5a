"""From settings to specs: what a method takes, what a profile may say to it, and one sentence for all the rest."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from anomaly_bench.bench import execute as execute_module
from anomaly_bench.bench.catalog import load_method, method_names
from anomaly_bench.bench.execute import execute
from anomaly_bench.bench.places import Places
from anomaly_bench.bench.profiles import PROFILES, load_profile
from anomaly_bench.bench.resolve import (
    EVALUATION,
    PROTOCOL,
    SUBSET,
    known_settings,
    option_defaults,
    own_evaluation,
    resolve,
)
from anomaly_bench.bench.spec import EvalSpec, RunSpec, canonical_json
from anomaly_bench.bench.store import Store
from anomaly_bench.errors import UserError
from anomaly_bench.weights import build_teacher

WITH_STUDENT = [name for name in method_names() if load_method(name).protocol.student]
WITHOUT_STUDENT = [name for name in method_names() if name not in WITH_STUDENT]
# As committed records have it; pinned in test_spec.py too.
RD_LITE_BOTTLE = "3cd149c8f78d8a38"


def resolved(method: str, profile: str = "paper", **settings: Any) -> tuple[RunSpec, EvalSpec]:
    return resolve(method, "mvtec", "bottle", load_profile(profile), settings=settings)


def spec_of(method: str, profile: str = "paper", **settings: Any) -> RunSpec:
    return resolved(method, profile, **settings)[0]


def sentence(method: str, **settings: Any) -> str:
    """The error that a user reads: one line."""
    with pytest.raises(UserError) as error:
        resolved(method, **settings)
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith((".", "?"))
    return text


# The student.


def test_only_ast_mfr_has_a_student_of_its_own() -> None:
    assert WITH_STUDENT == ["ast_mfr"]


@pytest.mark.parametrize("method", WITHOUT_STUDENT)
def test_a_method_that_builds_its_student_takes_none(method: str) -> None:
    text = sentence(method, student="resnet18.random")
    assert text.startswith(f"{method} has no option 'student'; ")
    assert not re.search(r"\bstudent\b", text.partition("; ")[2])
    assert "student" not in known_settings(load_method(method))
    assert "student" not in spec_of(method).as_json()["protocol"]


def test_a_mistyped_student_gets_the_nearest_name_where_there_is_one() -> None:
    assert sentence("ast_mfr", studnt="resnet18.random") == "ast_mfr has no option 'studnt'; did you mean 'student'?"
    assert "did you mean 'student'" not in sentence("rd", studnt="resnet18.random")


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("method", WITHOUT_STUDENT)
def test_a_profiles_student_says_nothing_to_methods_that_build_their_own(method: str, profile: str) -> None:
    settings = {name: value for name, value in load_profile(profile).settings.items() if name != "student"}
    silent = dataclasses.replace(load_profile(profile), settings=settings)
    assert resolved(method, profile) == resolve(method, "mvtec", "bottle", silent)
    assert spec_of(method, profile).protocol.student is None


def test_the_student_is_the_papers_then_the_profiles_then_the_users() -> None:
    assert spec_of("ast_mfr").protocol.student == "resnext50_32x4d.tv_in1k"
    assert spec_of("ast_mfr", "lite").protocol.student == "tf_efficientnet_lite0.in1k"
    assert spec_of("ast_mfr", "lite").protocol.teacher == "resnet18.tv_in1k"
    assert spec_of("ast_mfr", "lite", student="resnet34.tv_in1k").protocol.student == "resnet34.tv_in1k"
    assert spec_of("ast_mfr", "lite", student="tf_efficientnet_lite0") == spec_of("ast_mfr", "lite")


def test_the_student_is_part_of_a_runs_identity_and_comes_back_from_json() -> None:
    specs = [spec_of("ast_mfr"), spec_of("ast_mfr", student="resnext50_32x4d.random")]
    assert specs[0].run_id != specs[1].run_id
    for spec in specs:
        again = RunSpec.from_json(json.loads(canonical_json(spec.as_json())))
        assert again == spec
        assert again.run_id == spec.run_id
        assert spec.protocol.networks == {"teacher": "wide_resnet50_2.tv_in1k", "student": spec.protocol.student}
    assert spec_of("rd").protocol.networks == {"teacher": "wide_resnet50_2.tv_in1k"}


# Identity.


def test_an_old_spec_has_its_old_json_and_id() -> None:
    spec = spec_of("rd", "lite")
    assert canonical_json(spec.as_json()) == (
        '{"category":"bottle","data_revision":1,"dataset":"mvtec","method":"rd","method_revision":1,"options":{},'
        '"protocol":{"batch_size":16,"betas":[0.5,0.999],"epochs":30,"image_size":256,"lr":0.005,'
        '"precision":"bf16-mixed","teacher":"resnet18.tv_in1k","weight_decay":0.0},"seed":0}'
    )
    assert spec.run_id == RD_LITE_BOTTLE
    assert RunSpec.from_json(spec.as_json()) == spec


def test_an_old_evaluation_has_its_old_json() -> None:
    old = EvalSpec(fusion="product", sigma=2.0, image_score="mean")
    assert canonical_json(old.as_json()) == '{"fusion":"product","image_score":"mean","metrics_revision":1,"sigma":2.0}'


@pytest.mark.parametrize("method", method_names())
def test_every_default_said_aloud_leaves_the_specs_alone(method: str) -> None:
    expected = resolved(method)
    defaults: dict[str, Any] = option_defaults(load_method(method)) | dataclasses.asdict(load_method(method).protocol)
    defaults |= dict.fromkeys(SUBSET) | dataclasses.asdict(own_evaluation(method))
    said = {name: defaults[name] for name in known_settings(load_method(method))}
    for name, value in said.items():
        as_in_yaml: dict[str, Any] = {name: list(value) if isinstance(value, tuple) else value}
        assert resolved(method, **as_in_yaml) == expected, name
    assert resolved(method, **said) == expected


SAME = [
    ("mfr_stages", ["[1,3]", "[1, 3]", " [ 1 ,3 ] ", [1, 3], (1, 3)], (1, 3)),
    ("mfr_stages", ["[]", "[ ]", [], ()], ()),
    ("mfr_stages", ["[2]", [2], (2,)], (2,)),
    ("mask_rate", ["0.30", "3e-1", 0.3], 0.3),
    ("mask_rate", ["0", "0.0", "-0.0", 0, -0.0], 0.0),
    ("l2_squared", ["false", "False", False], False),
    ("loss_form", ["global"], "global"),
]


@pytest.mark.parametrize(("name", "writings", "value"), SAME, ids=str)
def test_a_value_is_one_value_however_it_is_written(name: str, writings: list[Any], value: Any) -> None:
    specs = [spec_of("ast_mfr", **{name: writing}) for writing in writings]
    assert [spec.options for spec in specs] == [((name, value),)] * len(writings)
    assert {type(spec.options[0][1]) for spec in specs} == {type(value)}
    assert len({spec.run_id for spec in specs}) == 1
    assert specs[0].run_id != spec_of("ast_mfr").run_id
    assert RunSpec.from_json(json.loads(canonical_json(specs[0].as_json()))) == specs[0]


def test_the_order_in_which_options_are_said_is_nothing() -> None:
    one = spec_of("dlkd", prl="false", margin=0.1, d_state=4)
    other = spec_of("dlkd", d_state="4", margin="0.1", prl=False)
    assert one.options == other.options == (("d_state", 4), ("margin", 0.1), ("prl", False))
    assert one.run_id == other.run_id


@pytest.mark.parametrize("method", method_names())
def test_names_mean_one_thing_only(method: str) -> None:
    groups = [set(option_defaults(load_method(method))), set(PROTOCOL), set(EVALUATION), set(SUBSET)]
    assert sum(map(len, groups)) == len(set.union(*groups))


# Evaluations.


OTHER = {"mean_kernel": 7, "background": "otsu", "fusion": "product", "sigma": 1, "image_score": "mean",
         "score_from": "both"}  # fmt: skip


@pytest.mark.parametrize("name", OTHER)
def test_another_evaluation_is_the_same_run(name: str) -> None:
    spec, evaluation = resolved("dlkd", **{name: str(OTHER[name])})
    assert spec == spec_of("dlkd")
    assert evaluation.eval_id != EvalSpec().eval_id
    assert evaluation.as_json() == {name: OTHER[name], "metrics_revision": EvalSpec().metrics_revision}
    assert OTHER.keys() == EVALUATION.keys()


def test_ast_mfr_smooths_with_a_mean_too_unless_told_otherwise() -> None:
    assert resolved("ast_mfr")[1] == EvalSpec(mean_kernel=5)
    assert resolved("ast_mfr", mean_kernel=1)[1] == EvalSpec()
    assert resolved("ast_mfr", sigma=2, background="border")[1] == EvalSpec(
        mean_kernel=5, sigma=2.0, background="border"
    )
    assert [name for name in method_names() if own_evaluation(name) != EvalSpec()] == ["ast_mfr"]


@pytest.mark.parametrize("score_from", ["coarse", "both"])
def test_scores_from_coarse_maps_are_refused_where_there_are_none(score_from: str) -> None:
    assert resolved("dlkd", score_from=score_from)[1].score_from == score_from
    for method in (name for name in method_names() if name != "dlkd"):
        expected = f"{method} has no coarse maps; leave score_from at precise."
        assert sentence(method, score_from=score_from) == expected
        assert resolved(method, score_from="precise") == resolved(method)


# Wrong values, in the order of the methods.

WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("fmm_scsatt", {"fmm": "maybe"}, "fmm must be true or false, not 'maybe'."),
    ("fmm_scsatt", {"mask_rate": "half"}, "mask_rate must be a number, not 'half'."),
    ("fmm_scsatt", {"mask_rate": 1}, "mask_rate must be at least 0 and below 1, not 1."),
    ("fmm_scsatt", {"mask_rate": "-0.1"}, "mask_rate must be at least 0 and below 1, not -0.1."),
    ("fmm_scsatt", {"gate": "Hard"}, "gate must be one of soft, hard, not 'Hard'."),
    ("fmm_scsatt", {"scsatt_order": "D"}, "scsatt_order must be one of A, B, C, not 'D'."),
    ("fmm_scsatt", {"fused_stages": "1,2"}, "fused_stages must be whole numbers such as [1,2,3], not '1,2'."),
    ("fmm_scsatt", {"fused_stages": [1.5]}, "fused_stages must be whole numbers such as [1,2,3], not '[1.5]'."),
    ("fmm_scsatt", {"fusion_width": "wide"}, "fusion_width must be a whole number or null, not 'wide'."),
    ("fmm_scsatt", {"fused_stages": "[]"},
     "fused_stages must name stages of 1, 2, 3 in rising order, such as [1,2,3] or [2], not []."),
    ("fmm_scsatt", {"fused_stages": [4]},
     "fused_stages must name stages of 1, 2, 3 in rising order, such as [1,2,3] or [2], not [4]."),
    ("fmm_scsatt", {"image_size": 225},
     "image_size must be a multiple of 32, not 225: the student doubles its maps back to the teacher's sizes; "
     "use 224 or 256."),
    ("fmm_scsatt", {"fused_stage": "[1]"}, "fmm_scsatt has no option 'fused_stage'; did you mean 'fused_stages'?"),
    ("ast_mfr", {"mfr_stages": "[3,1]"},
     "mfr_stages must name stages of 1, 2, 3 in rising order, such as [1,2,3] or [2] or [], not [3, 1]."),
    ("ast_mfr", {"alpha": -1}, "alpha must be 0 or more, not -1."),
    ("ast_mfr", {"alignment": "yes"}, "alignment must be one of auto, none, not 'yes'."),
    ("variance_rd", {"variance_stages": []},
     "variance_stages must name stages of 1, 2, 3 in rising order, such as [1,2,3] or [2], not []."),
    ("variance_rd", {"variance_weight": "-0.1"}, "variance_weight must be 0 or more, not -0.1."),
    ("variance_rd", {"distance": "l3"}, "distance must be one of cosine, l1, l2, not 'l3'."),
    ("variance_rd", {"image_size": 225, "resize_student": True, "variance_weight": -1},
     "variance_weight must be 0 or more, not -1."),
    ("dlkd", {"noise_share": 0}, "noise_share must be above 0 and at most 1, not 0."),
    ("dlkd", {"noise_share": 1.1}, "noise_share must be above 0 and at most 1, not 1.1."),
    ("dlkd", {"noise_std": -0.2}, "noise_std must be 0 or more, not -0.2."),
    ("dlkd", {"noise_at": "layer2"}, "noise_at must be one of stem, layer1, not 'layer2'."),
    ("dlkd", {"contrast_weight": -1}, "contrast_weight must be 0 or more, not -1."),
    ("dlkd", {"margin": 1.5}, "margin must be a cosine, from -1 to 1, not 1.5."),
    ("dlkd", {"lr_refinement": 0}, "lr_refinement must be above 0, not 0."),
    ("dlkd", {"d_state": 0}, "d_state must be above 0, not 0."),
    ("dlkd", {"d_state": "1.5"}, "d_state must be a whole number, not '1.5'."),
    ("dlkd", {"ffn_ratio": -1}, "ffn_ratio must be above 0, not -1."),
    ("dlkd", {"patches": "squares"}, "patches must be one of grid, channels, none, not 'squares'."),
    ("rd", {"sigma": 1001}, "sigma must be 0 to 1000 pixels, not 1001."),
    ("rd", {"mean_kernel": 1001}, "mean_kernel must be odd, at least 1 and below 1000 pixels, not 1001."),
    ("rd", {"image_size": 4128}, "image_size must be 32 to 4096 pixels, not 4128."),
    ("rd", {"mean_kernel": 4}, "mean_kernel must be odd, at least 1 and below 1000 pixels, not 4."),
    ("rd", {"background": "grab_cut"},
     "background must be one of none, otsu, border, grabcut, sam, not 'grab_cut'."),
    ("rd", {"score_from": "fine"}, "score_from must be one of precise, coarse, both, not 'fine'."),
]  # fmt: skip


@pytest.mark.parametrize(("method", "settings", "expected"), WRONG, ids=str)
def test_wrong_values_and_combinations_get_one_sentence(method: str, settings: dict[str, Any], expected: str) -> None:
    assert sentence(method, **settings) == expected


def test_a_student_that_can_be_resized_takes_any_size() -> None:
    assert spec_of("variance_rd", image_size=225, resize_student=True).protocol.image_size == 225


@pytest.mark.parametrize(
    "null", [("rd", "loss_form"), ("ast_mfr", "mfr_stages"), ("rd", "background"), ("rd", "epochs"), ("rd", "sigma")]
)
def test_yamls_null_is_no_value_but_where_it_says_so(null: tuple[str, str]) -> None:
    method, name = null
    assert sentence(method, **{name: None}).startswith(f"{name} must be ")


def test_null_is_a_value_of_what_may_be_left_open() -> None:
    assert resolved("fmm_scsatt", fusion_width=None, train_images=None) == resolved("fmm_scsatt")


@pytest.mark.parametrize("width", [0, -5])
def test_a_width_that_no_convolution_can_have_is_refused(width: int) -> None:
    assert sentence("fmm_scsatt", fusion_width=width).startswith("fusion_width must be ")


@pytest.mark.parametrize("value", [-1.0, 0.0])  # a channel without variance would be 0 / 0
def test_simams_lambda_is_above_0(value: float) -> None:
    assert sentence("fmm_scsatt", simam_lambda=value).startswith("simam_lambda must be ")


# What only the networks can tell.

MISFITS: list[Any] = [
    ("ast_mfr", {"alignment": "none"},
     r"student resnet18 has \[64, 128, 256\] channels where teacher tf_efficientnet_lite0 has \[24, 40, 112\]; use "
     r"--set alignment=auto, or a student of the teacher's widths\."),
    ("ast_mfr", {"student": "resnet19.random"}, r"unknown student 'resnet19.random'; did you mean 'resnet18'\?"),
    ("ast_mfr", {"student": "resnet18.nope"},
     r"student 'resnet18.nope' names unknown weights; did you mean 'resnet18\.\w+'\?"),
    ("ast_mfr", {"student": "vit_tiny_patch16_224.random"},
     r"student 'vit_tiny_patch16_224.random' has no stages at strides 4, 8 and 16, or only takes one image size; .*\."),
    ("ast_mfr", {"student": "wide_resnet50_2.racm_in1k"},
     r"no weights for student 'wide_resnet50_2.racm_in1k': .* --set student=NAME .*\."),
    ("dlkd", {"teacher": "densenet121.random"},
     "no stem to add noise to is known in teacher densenet121; choose a ResNet or an EfficientNet with --set "
     r"teacher=NAME, or --set noise_at=layer1\."),
    ("fmm_scsatt", {"fusion_width": 12},
     "SCConv needs a multiple of 8 channels, not the 12 that teacher tf_efficientnet_lite0 and scsatt_order=A give it; "
     "use --set fusion_width=16, --set scconv=false or another teacher."),
    ("fmm_scsatt", {"teacher": "rexnet_130.random", "scsatt_order": "B"},
     "SCConv needs a multiple of 8 channels, .* scsatt_order=B give it; use --set scconv=false or another teacher."),
    ("dlkd", {"teacher": "resnetv2_50.random"}, r"no stem to add noise to is known in teacher resnetv2_50; .*\."),
    ("dlkd", {"teacher": "mobilenetv3_small_050.random", "patches": "channels"},
     r"patches=channels needs stages of 16, 20, 24 \.\.\. channels, not \[8, 16, 24\] as teacher .*\."),
]  # fmt: skip


@pytest.mark.parametrize(("method", "settings", "expected"), MISFITS, ids=str)
def test_networks_that_do_not_fit_end_in_a_sentence_before_any_training(
    method: str, settings: dict[str, Any], expected: str, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_training(*_: object, **__: object) -> None:
        raise AssertionError("this must not train")

    monkeypatch.setattr(execute_module, "train_and_evaluate", no_training)
    monkeypatch.setattr("anomaly_bench.weights._hub_answers", lambda: False)
    small = {"image_size": 32, "train_images": 2, "test_images": 2, **settings}
    spec = resolve(method, "synthetic", "brick", load_profile("smoke"), settings=small)[0]
    with pytest.raises(UserError, match=f"^{expected}$"):
        execute(spec, places, Store(places.results))
    assert not Path(places.results).exists()


@pytest.mark.parametrize("teacher", ["resnet18", "tf_efficientnet_lite0", "convnext_atto"])
def test_what_is_done_to_a_stem_reaches_the_features(teacher: str) -> None:
    network = build_teacher(f"{teacher}.random", None)
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    changed = network.forward_changed(images, "stem", lambda features: features + 1)
    assert not any(torch.equal(one, other) for one, other in zip(network(images), changed, strict=True))


@pytest.mark.parametrize("teacher", ["resnetv2_50", "darknet53"])  # timm runs these stems' layers one by one
def test_a_stem_that_is_never_called_whole_is_an_error(teacher: str) -> None:
    network = build_teacher(f"{teacher}.random", None)
    with pytest.raises(LookupError, match="does not call its"):
        network.forward_changed(torch.zeros(1, 3, 32, 32), "stem", lambda features: features + 1)


@pytest.mark.parametrize(
    ("method", "name"),
    [("variance_rd", "variance_weight"), ("dlkd", "lr_refinement"), ("ast_mfr", "alpha"), ("rd", "lr")],
)
@pytest.mark.parametrize("value", ["1e400", ".nan", ".inf", float("nan")])
def test_a_number_that_is_not_finite_is_none(method: str, name: str, value: object) -> None:
    assert sentence(method, **{name: value}).startswith(f"{name} must be ")


IDLE: list[tuple[str, dict[str, Any], str]] = [
    ("fmm_scsatt", {"fmm": False, "mask_rate": 0.9}, "mask_rate has no effect with fmm=false; leave it out."),
    ("fmm_scsatt", {"scconv": False, "gate": "hard"}, "gate has no effect with scconv=false; leave it out."),
    ("ast_mfr", {"mfr_stages": [], "mask_rate": 0.3}, "mask_rate has no effect with mfr_stages=[]; leave it out."),
    ("variance_rd", {"reduction": "mean"}, "reduction has no effect with distance=cosine; leave it out."),
    ("dlkd", {"prl": False, "lr_refinement": 0.1}, "lr_refinement has no effect with prl=false; leave it out."),
    ("dlkd", {"contrast_weight": 0, "margin": 0.1}, "margin has no effect with contrast_weight=0; leave it out."),
    ("dlkd", {"noise_std": 0, "noise_at": "layer1"}, "noise_at has no effect with noise_std=0; leave it out."),
    ("dlkd", {"noise_std": 0, "contrast_weight": 0, "noise_share": 0.5},
     "noise_share has no effect with noise_std=0 and contrast_weight=0; leave it out."),
    ("dlkd", {"lfrb": False, "prl": False, "patches": "none"},
     "patches has no effect with lfrb=false and prl=false; leave it out."),
    ("dlkd", {"gfrb": False, "lfrb": False, "prl": False, "ffn_ratio": 4},
     "ffn_ratio has no effect with gfrb=false, lfrb=false and prl=false; leave it out."),
    ("variance_rd", {"variance_weight": 0, "variance_stages": [2]},
     "variance_stages has no effect with variance_weight=0; leave it out."),
    ("ast_mfr", {"alpha": 0, "l2_squared": False}, "l2_squared has no effect with alpha=0; leave it out."),
    ("fmm_scsatt", {"mask_rate": 0, "mask_rescale": True},
     "mask_rescale has no effect with mask_rate=0; leave it out."),
    ("variance_rd", {"batch_size": 1},
     "batch_size must be at least 2: the variance loss compares the images of a batch."),
    ("rd", {"background": "border", "image_score": "mean"},
     "background needs image_score=max: a mean would also measure how large the object is."),
]  # fmt: skip


@pytest.mark.parametrize(("method", "settings", "expected"), IDLE, ids=str)
def test_what_has_no_effect_names_no_other_run(method: str, settings: dict[str, Any], expected: str) -> None:
    assert sentence(method, **settings) == expected


def test_one_image_a_batch_will_do_where_no_images_are_compared() -> None:
    assert spec_of("variance_rd", variance_weight=0, batch_size=1).protocol.batch_size == 1


def test_a_forward_student_takes_images_of_any_size() -> None:
    assert spec_of("ast_mfr", image_size=225).protocol.image_size == 225
