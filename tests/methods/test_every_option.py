"""Every option of every method, with every value that a list allows, through two real steps and a checkpoint."""

from __future__ import annotations

import functools
import hashlib
import random
import typing
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load, load_file, save
from torch import Tensor

from anomaly_bench.bench import execute as execute_module
from anomaly_bench.bench import train as train_module
from anomaly_bench.bench.catalog import load_method, method_names
from anomaly_bench.bench.execute import build_method, execute, find_networks, open_data
from anomaly_bench.bench.places import Places
from anomaly_bench.bench.profiles import load_profile
from anomaly_bench.bench.progress import Curves
from anomaly_bench.bench.resolve import option_defaults, option_types, resolve
from anomaly_bench.bench.spec import RunSpec
from anomaly_bench.bench.store import Store
from anomaly_bench.data.base import AnomalyDataModule
from anomaly_bench.methods.base import DistillationMethod, unit_range
from anomaly_bench.weights import build_teacher

TINY = {"epochs": 1, "image_size": 32, "batch_size": 4, "train_images": 8, "test_images": 8, "precision": "32-true"}
SMALL = {"dlkd": {"d_state": 1}}  # of options that take time elsewhere than in their own case
# Options that no list of values defines: at least one value each that is not the default.
VALUES: dict[str, dict[str, list[Any]]] = {
    "rd": {},
    "fmm_scsatt": {
        "fused_stages": [(2,), (1, 3)],
        "mask_rate": [0.0, 0.9],
        "simam_lambda": [0.1],
        "fusion_width": [16],
    },
    "ast_mfr": {"mfr_stages": [(), (3,), (1, 2)], "mask_rate": [0.0, 0.3], "alpha": [0.0, 2.0]},
    "variance_rd": {"variance_stages": [(2,), (3,), (1, 2, 3)], "variance_weight": [0.0, 1.0]},
    "dlkd": {
        "contrast_weight": [0.0, 1.0],
        "similarity_weight": [0.0, 1.0],
        "lr_refinement": [0.01],
        "noise_std": [0.0, 0.5],
        "noise_share": [0.5],
        "margin": [-0.5],
        "d_state": [3],
        "expand": [1],
        "ffn_ratio": [1],
    },
}
# What must be set beside an option for it to have a say.
BESIDE: dict[tuple[str, str], dict[str, Any]] = {
    ("ast_mfr", "alignment"): {"student": "tf_efficientnet_lite0"},  # of the teacher's widths
    ("variance_rd", "reduction"): {"distance": "l1"},
    ("variance_rd", "resize_student"): {"image_size": 33},
    ("dlkd", "contrast_weight"): {"margin": -1.0},
}
# "none" refuses what "auto" would align and does the same where there is nothing to align; a switch for other sizes
# has no other side at such a size.
WITHOUT_EFFECT = {("ast_mfr", "alignment"), ("variance_rd", "resize_student")}


# Rows of the papers' ablations, and options that meet in one module.
TOGETHER: list[tuple[str, dict[str, Any]]] = [
    ("rd", {}),
    ("fmm_scsatt", {}),
    ("fmm_scsatt", {"fmm": False, "scconv": False, "simam": False}),
    ("fmm_scsatt", {"fmm": False, "scconv": False}),
    ("fmm_scsatt", {"fmm": False, "simam": False, "scsatt_order": "C"}),
    ("fmm_scsatt", {"scsatt_order": "B", "gate": "hard", "fused_stages": (1, 3), "fusion_width": 32}),
    ("fmm_scsatt", {"fused_stages": (1,), "mask_at_test": True, "mask_rescale": True, "mask_rate": 0.9}),
    ("ast_mfr", {}),
    ("ast_mfr", {"mfr_stages": (), "alpha": 0.0, "loss_form": "global"}),
    ("ast_mfr", {"mfr_stages": (2,), "student": "tf_efficientnet_lite0", "alignment": "none", "l2_squared": False}),
    ("variance_rd", {}),
    ("variance_rd", {"distance": "l2", "reduction": "mean", "variance_stages": (1, 2, 3), "detach_mean": True}),
    ("dlkd", {}),
    ("dlkd", {"gfrb": False, "prl": False}),
    ("dlkd", {"prl": False, "loss_form": "global", "margin": -1.0}),
    ("dlkd", {"gfrb": False, "lfrb": False, "prl": False, "contrast_weight": 0.0, "similarity_weight": 0.0}),
    ("dlkd", {"gfrb": False, "patches": "channels", "contrast_weight": 0.0}),
    ("dlkd", {"noise_at": "layer1", "noise_mode": "relative", "noise_share": 0.3, "similarity_weight": 0.0}),
]


def without_idle(settings: dict[str, Any]) -> dict[str, Any]:
    """Without what has no effect beside the others, which is refused."""
    idle = {"d_state": settings.get("gfrb") is False, "margin": settings.get("contrast_weight") == 0}
    return {name: value for name, value in settings.items() if not idle.get(name)}


class Case(NamedTuple):
    """One method with one option away from its default."""

    method: str
    option: str
    value: Any

    @property
    def beside(self) -> dict[str, Any]:
        """What goes with the option."""
        return SMALL.get(self.method, {}) | BESIDE.get((self.method, self.option), {})

    @property
    def spec(self) -> RunSpec:
        """The run with the option."""
        return tiny(self.method, **without_idle({**self.beside, self.option: self.value}))


def other_values(method: str, option: str) -> list[Any]:
    """All values but the default of a switch or a list; those named above of anything else."""
    annotation, default = option_types(load_method(method))[option], option_defaults(load_method(method))[option]
    if annotation is bool:
        return [not default]
    if typing.get_origin(annotation) is typing.Literal:
        return [value for value in typing.get_args(annotation) if value != default]
    return VALUES.get(method, {}).get(option, [])


def cases() -> Iterator[Case]:
    for method in method_names():
        for option in option_defaults(load_method(method)):
            yield from (Case(method, option, value) for value in other_values(method, option))


def named(case: Case) -> str:
    return f"{case.method} {case.option}={case.value}"


def tiny(method: str, **settings: Any) -> RunSpec:
    return resolve(method, "synthetic", "brick", load_profile("smoke"), settings={**TINY, **settings})[0]


@pytest.fixture(autouse=True)
def _one_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute_module, "build_teacher", kept_teacher)


kept_teacher = functools.cache(build_teacher)


@functools.cache
def opened(data_root: Path, size: int) -> AnomalyDataModule:
    """The data module at one image size, decoded once."""
    settings = {"image_size": size, "resize_student": True}
    data = open_data(tiny("variance_rd", **settings), Places(data_root, data_root / "unused"))
    data.setup()
    return data


def fresh(spec: RunSpec) -> DistillationMethod:
    return build_method(spec, find_networks(spec, None))


@torch.no_grad()
def maps_of(method: DistillationMethod, data: AnomalyDataModule) -> dict[str, Tensor]:
    (batch,) = data.predict_dataloader()
    return method.eval().stage_maps(unit_range(batch.images))


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


class Trained(NamedTuple):
    """What two steps leave behind."""

    losses: list[float]
    maps: dict[str, Tensor]
    checkpoint: bytes


@functools.cache
def two_steps(spec: RunSpec, data_root: Path) -> Trained:
    """Forward, backward and Adam, twice; done once for every spec."""
    method, data = fresh(spec), opened(data_root, spec.protocol.image_size)
    batches = list(data.train_dataloader())
    assert [len(batch.images) for batch in batches] == [4, 4]
    optimiser, losses = method.train().configure_optimizers(), []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*`self.trainer` reference is not registered.*")
        for index, batch in enumerate(batches):
            loss = method.training_step(batch, index)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            # Several devices wait for every gradient that there may be.
            assert all(parameter.grad is not None for parameter in method.parameters() if parameter.requires_grad)
            optimiser.step()
            losses.append(loss.item())
    state = {key: value.contiguous() for key, value in method.student_state().items()}
    return Trained(losses, maps_of(method, data), save(state))


def check_there_and_back(spec: RunSpec, data_root: Path) -> None:
    """Two finite steps that changed the maps, and a checkpoint that brings them back to the last bit."""
    trained, data = two_steps(spec, data_root), opened(data_root, spec.protocol.image_size)
    assert np.isfinite(trained.losses).all()
    assert trained.losses[0] != trained.losses[1]
    assert all(torch.isfinite(stage).all() and len(stage) == 8 for stage in trained.maps.values())
    again = fresh(spec)
    assert not same(maps_of(again, data), trained.maps)
    missing, unexpected = again.load_state_dict(load(trained.checkpoint), strict=False)
    assert unexpected == []
    assert all(key.startswith("teacher.") for key in missing)
    assert same(maps_of(again, data), trained.maps)


@pytest.mark.parametrize("method", method_names())
def test_every_option_has_a_value_to_test(method: str) -> None:
    options = option_defaults(load_method(method))
    lacking = [option for option in options if not other_values(method, option)]
    assert lacking == [], f"{method}: give {lacking} values in VALUES"
    assert VALUES.get(method, {}).keys() <= options.keys()
    assert not any(options[option] in values for option, values in VALUES.get(method, {}).items())
    assert (method, {}) in TOGETHER, f"{method}: its defaults alone are to be run too"


@pytest.mark.parametrize("case", list(cases()), ids=named)
def test_an_option_trains_saves_and_comes_back_with_the_same_maps(case: Case, data_root: Path) -> None:
    check_there_and_back(case.spec, data_root)


@pytest.mark.parametrize("case", [case for case in cases() if case[:2] not in WITHOUT_EFFECT], ids=named)
def test_an_option_has_an_effect(case: Case, data_root: Path) -> None:
    default = two_steps(tiny(case.method, **case.beside), data_root)
    assert not same(two_steps(case.spec, data_root).maps, default.maps)


def test_where_nothing_needs_alignment_its_switch_changes_nothing(data_root: Path) -> None:
    beside = BESIDE["ast_mfr", "alignment"]
    auto, none = (two_steps(tiny("ast_mfr", **beside, alignment=value), data_root) for value in ("auto", "none"))
    assert same(auto.maps, none.maps)


@pytest.mark.parametrize(("method", "options"), TOGETHER, ids=str)
def test_options_train_save_and_come_back_together(method: str, options: dict[str, Any], data_root: Path) -> None:
    check_there_and_back(tiny(method, **without_idle({**SMALL.get(method, {}), **options})), data_root)


@pytest.mark.parametrize("method", method_names())
def test_a_run_keeps_a_checkpoint_that_gives_its_maps_again_and_bfloat16_gives_others(
    method: str, places: Places
) -> None:
    kept = {}
    for precision in ("32-true", "bf16-mixed"):
        spec = tiny(method, **SMALL.get(method, {}), precision=precision)
        store = Store(places.results)
        record = execute(spec, places, store)
        assert record.spec == spec
        assert store.load(spec.run_id) == record
        kept[precision] = dict(np.load(store.folder(spec.run_id) / "maps.npz"))
        if precision == "32-true":
            again, data = fresh(spec).to(memory_format=torch.channels_last), opened(places.data_root, 32)
            again.load_state_dict(load_file(store.folder(spec.run_id) / "student.safetensors"), strict=False)
            maps = {key: value.half() for key, value in maps_of(again, data).items()}
            assert same(maps, {key: torch.from_numpy(value) for key, value in kept[precision].items()})
    one, other = kept["32-true"], kept["bf16-mixed"]
    assert one.keys() == other.keys()
    assert not any(np.array_equal(one[key], other[key]) for key in one)
    assert all(np.isfinite(other[key]).all() and other[key].dtype == np.float16 for key in one)


# Masks, noise and first weights come from the run's own seed and from nothing else.

DRAWING: dict[str, dict[str, Any]] = {"fmm_scsatt": {"mask_at_test": True}, "ast_mfr": {}, "dlkd": {"d_state": 2}}


def hashes(spec: RunSpec, results: Path) -> dict[str, str]:
    """Checkpoint, maps and losses of a run."""
    folder = Store(results).folder(spec.run_id)
    names = ("student.safetensors", "maps.npz", "curves.csv")
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def run_in(results: Path, spec: RunSpec, places: Places) -> dict[str, str]:
    execute(spec, replace(places, results=results), Store(results))
    return hashes(spec, results)


@pytest.mark.parametrize(("method", "before"), [("fmm_scsatt", "dlkd"), ("ast_mfr", "fmm_scsatt"), ("dlkd", "ast_mfr")])
def test_a_run_is_the_same_to_the_last_bit_alone_and_after_another_method(
    method: str, before: str, places: Places, tmp_path: Path
) -> None:
    spec = tiny(method, **DRAWING[method])
    alone = run_in(tmp_path / "alone", spec, places)
    run_in(tmp_path / "suite", tiny(before, **DRAWING[before]), places)
    random.seed(7), np.random.seed(7), torch.manual_seed(7)
    assert run_in(tmp_path / "suite", spec, places) == alone
    other = run_in(tmp_path / "suite", replace(spec, seed=1), places)
    assert all(other[name] != alone[name] for name in alone)


class EvaluatingCurves(Curves):
    """Looks at test images after every epoch, as a report of progress might."""

    looks = 0

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        one, other = (maps_of(pl_module, trainer.datamodule) for _ in range(2))
        assert same(one, other)
        pl_module.train()
        EvaluatingCurves.looks += 1


@pytest.mark.parametrize("method", method_names())
def test_evaluating_in_the_middle_changes_nothing_of_the_training_that_follows(
    method: str, places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tiny(method, **DRAWING.get(method, {}), epochs=2)
    blind = run_in(tmp_path / "blind", spec, places)
    monkeypatch.setattr(train_module, "Curves", EvaluatingCurves)
    monkeypatch.setattr(EvaluatingCurves, "looks", 0)
    assert run_in(tmp_path / "looking", spec, places) == blind
    assert EvaluatingCurves.looks == 2


def test_masks_are_the_same_whatever_the_options_and_move_with_the_seed() -> None:
    seeds = [fresh(tiny("fmm_scsatt", **options)).noise.seed for options in ({}, {"mask_rate": 0.3}, {"gate": "hard"})]
    assert len(set(seeds)) == 1
    spec = tiny("fmm_scsatt")
    assert spec.derive_seed("noise") == seeds[0]
    assert len({seeds[0], spec.derive_seed("model"), replace(spec, seed=1).derive_seed("noise")}) == 3


def test_an_untrained_student_moves_with_the_seed_and_an_untrained_teacher_does_not() -> None:
    first = tiny("ast_mfr", teacher="resnet18.random", student="resnet18.random")
    one, again, other = (fresh(spec).state_dict() for spec in (first, first, replace(first, seed=1)))
    assert same(one, again)
    teacher, student = "teacher.network.conv1.weight", "student.network.conv1.weight"
    assert torch.equal(one[teacher], other[teacher])
    assert not torch.equal(one[student], other[student])
    assert not torch.equal(one[student], one[teacher])
