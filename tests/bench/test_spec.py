"""Identity: what a run is called must never move by accident."""

from __future__ import annotations

import dataclasses
import json

import pytest

from anomaly_bench.bench.profiles import load_profile
from anomaly_bench.bench.resolve import resolve
from anomaly_bench.bench.spec import EvalSpec, RunSpec, canonical_json
from anomaly_bench.errors import UserError
from anomaly_bench.methods.protocol import Protocol


def spec(**changes: object) -> RunSpec:
    protocol = Protocol("resnet18.tv_in1k", 30, 16, 0.005, (0.5, 0.999), 0.0, 256, "bf16-mixed")
    plain = RunSpec("rd", 1, "mvtec", 1, "bottle", protocol)
    return dataclasses.replace(plain, **changes)


def test_the_canonical_form_is_pinned() -> None:
    expected = (
        '{"category":"bottle","data_revision":1,"dataset":"mvtec","method":"rd","method_revision":1,"options":{},'
        '"protocol":{"batch_size":16,"betas":[0.5,0.999],"epochs":30,"image_size":256,"lr":0.005,'
        '"precision":"bf16-mixed","teacher":"resnet18.tv_in1k","weight_decay":0.0},"seed":0}'
    )
    assert canonical_json(spec().as_json()) == expected
    assert spec().run_id == "3cd149c8f78d8a38"  # every committed record rests on this


def test_a_label_tells_runs_of_one_title_apart() -> None:
    other = spec(protocol=dataclasses.replace(spec().protocol, batch_size=4))
    assert spec().label == "rd mvtec/bottle seed 0 [3cd149c8f78d8a38]"
    assert other.title == spec().title
    assert other.label != spec().label


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"category": "pill"},
        {"method_revision": 2},
        {"data_revision": 2},
        {"options": (("loss_form", "pixel"),)},
        {"train_images": 16},
        {"protocol": dataclasses.replace(spec().protocol, epochs=31)},
        {"protocol": dataclasses.replace(spec().protocol, precision="32-true")},
    ],
    ids=str,
)
def test_whatever_can_move_a_number_moves_the_id(change: dict[str, object]) -> None:
    assert spec(**change).run_id != spec().run_id


@pytest.mark.parametrize(
    "settings",
    [
        {"loss_form": "global"},
        {"epochs": "200"},
        {"lr": "5e-3"},
        {"lr": "0.0050"},
        {"weight_decay": -0.0},
        {"sigma": 2},
    ],
)
def test_a_default_said_aloud_or_written_otherwise_changes_no_id(settings: dict[str, object]) -> None:
    paper = load_profile("paper")
    assert resolve("rd", "mvtec", "bottle", paper, settings=settings)[0] == resolve("rd", "mvtec", "bottle", paper)[0]


def test_a_whole_number_is_one_number_however_it_is_typed() -> None:
    paper = load_profile("paper")
    ids = {resolve("rd", "mvtec", "bottle", paper, settings={"lr": lr})[0].run_id for lr in (1, "1", "1.0", 1.0, "1e0")}
    assert len(ids) == 1


def test_json_there_and_back() -> None:
    original = spec(options=(("loss_form", "pixel"),), test_images=12)
    assert RunSpec.from_json(json.loads(canonical_json(original.as_json()))) == original


def test_seeds_differ_by_purpose_category_and_seed_and_stay_the_same() -> None:
    seeds = {spec().derive_seed("model"), spec().derive_seed("order"), spec(seed=1).derive_seed("model")}
    seeds.add(spec(category="pill").derive_seed("model"))
    assert len(seeds) == 4
    assert spec().derive_seed("model") == 4122591093


def test_an_evaluation_field_added_later_would_change_no_id() -> None:
    assert EvalSpec().as_json() == {"metrics_revision": EvalSpec().metrics_revision}
    assert EvalSpec(sigma=2.0).as_json() == {"metrics_revision": EvalSpec().metrics_revision, "sigma": 2.0}
    assert EvalSpec(sigma=2.0).eval_id != EvalSpec().eval_id


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"epochs": "abc"}, "epochs must be a whole number, not 'abc'."),
        ({"epochs": "0"}, "epochs must be at least 1, not 0."),
        ({"lr": "-1"}, "lr must be above 0, not -1.0."),
        ({"lr": "nan"}, "lr must be a number, not 'nan'."),
        ({"betas": "[0.5, 1.0]"}, "betas must be in [0, 1), not [0.5, 1.0]."),
        ({"weight_decay": "-.1"}, "weight_decay must be 0 or more, not -0.1."),
        ({"sigma": "inf"}, "sigma must be a number, not 'inf'."),
        (
            {"image_size": "225"},
            "image_size must be a multiple of 32, not 225: the student doubles its maps back to the teacher's sizes; "
            "use 224 or 256.",
        ),
        ({"loss_form": "pixels"}, "loss_form must be one of global, pixel, not 'pixels'."),
        ({"los_form": "pixel"}, "rd has no option 'los_form'; did you mean 'loss_form'?"),
        ({"precision": "fp32"}, "precision must be one of 32-true, bf16-mixed, 16-mixed, not 'fp32'."),
        ({"train_images": "0"}, "train_images must be at least 1, not 0."),
        ({"sigma": "-2"}, "sigma must be 0 to 1000 pixels, not -2."),
        ({"betas": "0.5"}, "betas must be two numbers such as [0.5, 0.999], not '0.5'."),
    ],
    ids=str,
)
def test_wrong_settings_get_one_sentence(settings: dict[str, str], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        resolve("rd", "mvtec", "bottle", load_profile("paper"), settings=settings)
    assert str(error.value) == sentence


def test_a_network_has_one_name() -> None:
    smoke = load_profile("smoke")
    short = resolve("rd", "synthetic", "brick", smoke, settings={"teacher": "tf_efficientnet_lite0"})[0]
    assert short == resolve("rd", "synthetic", "brick", smoke)[0]


def test_a_protocol_field_added_later_changes_no_id(monkeypatch: pytest.MonkeyPatch) -> None:
    later = dataclasses.make_dataclass("Later", [("clip", float, 0.0)], bases=(Protocol,), frozen=True)
    monkeypatch.setattr("anomaly_bench.bench.spec.Protocol", later)
    values = dataclasses.asdict(spec().protocol)
    assert spec(protocol=later(**values)).run_id == "3cd149c8f78d8a38"
    assert spec(protocol=later(**values, clip=1.0)).run_id != "3cd149c8f78d8a38"
