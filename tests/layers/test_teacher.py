"""The frozen teacher: which features it gives, how large it is, and that nothing ever moves in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from anomaly_bench.layers.teacher import Teacher
from anomaly_bench.methods.rd import ReverseDistillation
from anomaly_bench.weights import build_teacher, find_weights

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
ONE_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True)
class Expected:
    """What is known of a teacher: C1 C2 C3, parameters in millions, (mean, std), where its stages end in timm."""

    widths: tuple[int, int, int]
    millions: float
    normalisation: tuple[tuple[float, ...], tuple[float, ...]]
    stage_ends: tuple[str, str, str]


LAYERS = ("layer1", "layer2", "layer3")
TEACHERS = {
    "wide_resnet50_2.random": Expected((256, 512, 1024), 24.86, IMAGENET, LAYERS),
    "resnet18.random": Expected((64, 128, 256), 2.78, IMAGENET, LAYERS),
    "tf_efficientnet_lite0": Expected((24, 40, 112), 0.70, ONE_HALF, ("blocks.1", "blocks.2", "blocks.4")),
}


@pytest.fixture(scope="module", params=TEACHERS)
def named(request: pytest.FixtureRequest) -> tuple[str, Teacher]:
    """A teacher's name, and the teacher."""
    name = str(request.param)
    weights = None if name.endswith(".random") else find_weights(name, None, download=False)
    assert name.endswith(".random") or weights is not None
    return name, build_teacher(name, weights)


def some_images(side: int = 64) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def convolution(kernel: int, c_in: int, c_out: int) -> int:
    """Parameters of a bias-free convolution with its BN."""
    return kernel * kernel * c_in * c_out + 2 * c_out


def resnet18_parameters() -> int:
    parameters = convolution(7, 3, 64) + 4 * convolution(3, 64, 64)
    for c_in, c_out in ((64, 128), (128, 256)):
        parameters += convolution(3, c_in, c_out) + 3 * convolution(3, c_out, c_out) + convolution(1, c_in, c_out)
    return parameters


def wide_resnet50_parameters() -> int:
    parameters, c_in = convolution(7, 3, 64), 64
    for planes, blocks in ((64, 3), (128, 4), (256, 6)):
        width, c_out = 2 * planes, 4 * planes
        parameters += convolution(1, c_in, c_out)  # shortcut of the first block
        for _ in range(blocks):
            parameters += convolution(1, c_in, width) + convolution(3, width, width) + convolution(1, width, c_out)
            c_in = c_out
    return parameters


def lite0_parameters() -> int:
    """Stem, then inverted residuals; the Lite networks have no squeeze-and-excitation."""
    parameters, c_in = convolution(3, 3, 32), 32
    for expansion, kernel, c_out, blocks in (
        (1, 3, 16, 1),
        (6, 3, 24, 2),
        (6, 5, 40, 2),
        (6, 3, 80, 3),
        (6, 5, 112, 3),
    ):
        for _ in range(blocks):
            hidden = expansion * c_in
            parameters += convolution(1, c_in, hidden) if expansion > 1 else 0
            parameters += convolution(kernel, 1, hidden) + convolution(1, hidden, c_out)  # depthwise, projection
            c_in = c_out
    return parameters


PARAMETERS = {
    "wide_resnet50_2.random": wide_resnet50_parameters(),
    "resnet18.random": resnet18_parameters(),
    "tf_efficientnet_lite0": lite0_parameters(),
}


@pytest.mark.parametrize("side", [64, 96])
def test_three_stages_at_strides_4_8_16(named: tuple[str, Teacher], side: int) -> None:
    name, teacher = named
    widths = TEACHERS[name].widths
    assert tuple(teacher.widths) == widths
    shapes = [tuple(stage.shape) for stage in teacher(some_images(side))]
    assert shapes == [
        (2, width, side // stride, side // stride) for width, stride in zip(widths, (4, 8, 16), strict=True)
    ]


def test_nothing_after_the_third_stage_is_kept(named: tuple[str, Teacher]) -> None:
    name, teacher = named
    kept = sum(parameter.numel() for parameter in teacher.parameters())
    assert kept == PARAMETERS[name]
    assert kept / 1e6 == pytest.approx(TEACHERS[name].millions, abs=0.005)


def test_stages_are_those_of_the_whole_network_on_images_normalised_as_it_was_trained(
    named: tuple[str, Teacher],
) -> None:
    name, teacher = named
    whole: Any = timm.create_model(name.partition(".")[0], pretrained=False).eval()
    missing, unexpected = whole.load_state_dict(teacher.network.state_dict(), strict=False)
    assert not unexpected
    assert missing  # the fourth stage and the classifier, which take no part
    seen: list[Tensor] = []
    for end in TEACHERS[name].stage_ends:
        whole.get_submodule(end).register_forward_hook(lambda *call: seen.append(call[2].clone()))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in TEACHERS[name].normalisation)
    with torch.no_grad():
        whole((some_images() - mean) / std)
    torch.testing.assert_close(teacher(some_images()), seen)
    assert all(stage.std() > 0 for stage in seen)


def test_it_stays_frozen_and_in_evaluation_mode_whatever_is_asked_of_it(named: tuple[str, Teacher]) -> None:
    _, teacher = named
    before = {key: value.clone() for key, value in teacher.network.state_dict().items()}
    method = ReverseDistillation(teacher)
    for ask in (teacher.train, method.train, lambda: method.eval().train(True)):
        ask()
        assert not any(module.training for module in teacher.modules())
    assert method.bottleneck.training
    stages = teacher(some_images().requires_grad_())
    assert not any(stage.requires_grad for stage in stages)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    for key, value in teacher.network.state_dict().items():
        assert torch.equal(value, before[key]), key


class Scaling(nn.Module):
    """A network of one number, to see what a teacher does besides running its network."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward_intermediates(self, x: Tensor, indices: list[int], **_: bool) -> list[Tensor]:
        return [self.factor * x for _ in indices]


def test_images_are_normalised_channel_by_channel_and_the_statistics_are_no_state() -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    teacher = Teacher(Scaling(), "scaling", stages=(0, 1, 2), widths=(3, 3, 3), mean=mean, std=std)
    images = some_images(2)
    expected = torch.empty_like(images)
    for c in range(3):
        expected[:, c] = 2 * (images[:, c] - mean[c]) / std[c]
    torch.testing.assert_close(teacher(images), [expected] * 3)
    assert list(teacher.state_dict()) == ["network.factor"]
