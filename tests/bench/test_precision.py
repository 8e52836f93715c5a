"""bfloat16 by float32's kernels rounds what autocast rounds; it is for processors without bfloat16 units alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_bench.bench import precision
from anomaly_bench.bench.devices import Group
from anomaly_bench.bench.precision import Float32Kernels, MixedByFloat32Kernels, running_in
from anomaly_bench.bench.profiles import load_profile
from anomaly_bench.bench.resolve import resolve
from anomaly_bench.bench.train import _trainer

CPU = torch.device("cpu")
LAYERS = {
    "padded": lambda: nn.Conv2d(8, 16, 3, padding=1),
    "strided, no bias": lambda: nn.Conv2d(8, 16, 3, stride=2, bias=False),
    "depthwise": lambda: nn.Conv2d(8, 8, 3, groups=8),
    "transposed": lambda: nn.ConvTranspose2d(8, 16, 4, stride=2, padding=1),
}


def whole_numbers(like: Tensor, generator: torch.Generator) -> Tensor:
    """Of which no sum in these tests is rounded in float32, in whatever order it is taken."""
    return torch.randint(-9, 10, like.shape, generator=generator).float()


def output_and_gradients(layer: nn.Module, kernels: AbstractContextManager[object]) -> list[Tensor]:
    """Of a layer whose input, weights and gradient are whole numbers, under autocast."""
    generator = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        parameter.data = whole_numbers(parameter, generator)
        parameter.grad = None
    images = whole_numbers(torch.empty(2, 8, 12, 12), generator).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16), kernels:
        output = layer(images)
    output.backward(whole_numbers(output, generator).bfloat16())
    gradients = [tensor.grad for tensor in (images, *layer.parameters())]
    assert all(gradient is not None for gradient in gradients)
    return [output, *gradients]  # type: ignore[list-item]


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_where_sums_are_exact_every_bit_is_autocasts(make: Callable[[], nn.Module]) -> None:
    layer = make()
    pytorchs, ours = (output_and_gradients(layer, kernels) for kernels in (nullcontext(), Float32Kernels()))
    assert pytorchs[0].dtype == ours[0].dtype == torch.bfloat16
    assert pytorchs[0].abs().max() > 256, "from where bfloat16 rounds whole numbers"
    for one, other in zip(pytorchs, ours, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_what_is_not_under_autocast_is_left_in_float32() -> None:
    layer, images = nn.Conv2d(3, 4, 3), torch.rand(1, 3, 8, 8)
    plain = layer(images)
    with torch.autocast("cpu", torch.bfloat16), Float32Kernels(), torch.autocast("cpu", enabled=False):
        assert torch.equal(layer(images), plain)


@pytest.mark.parametrize(("units", "used"), [("", True), ("AMX", False), (None, False)])
def test_only_a_processor_without_bfloat16_units_needs_them(
    units: str | None, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "bfloat16_units", lambda: units)
    calls: list[Tensor] = []
    monkeypatch.setattr(precision, "_rounded", lambda value: calls.append(value) or value)
    with running_in("bf16-mixed", CPU):
        F.conv2d(torch.rand(1, 1, 4, 4), torch.rand(1, 1, 3, 3))
    assert bool(calls) == used
    for asked in ("bf16-mixed", "32-true"):
        spec, _ = resolve("rd", "synthetic", "brick", load_profile("smoke"), settings={"precision": asked})
        trainer = _trainer(spec, [], [], Group())
        assert trainer.precision == asked
        assert isinstance(trainer.precision_plugin, MixedByFloat32Kernels) == (used and asked == "bf16-mixed")


def test_float32_on_a_gpu_is_cudnn_s_without_its_rounding() -> None:
    before = torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32
    with running_in("32-true", torch.device("cuda")):
        assert (torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32) == (before[0], False)
    assert (torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32) == before
