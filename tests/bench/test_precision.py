"""bfloat16 by float32's kernels rounds what autocast rounds; it is for processors without bfloat16 units alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from anomaly_bench.bench import precision
from anomaly_bench.bench.devices import Group
from anomaly_bench.bench.precision import Float32Kernels, MixedByFloat32Kernels, running_in
from anomaly_bench.bench.profiles import load_profile
from anomaly_bench.bench.resolve import resolve
from anomaly_bench.bench.train import _trainer

CPU = torch.device("cpu")


class MatrixProduct(nn.Module):
    """As `layers.vss` has one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(16, 8))

    def forward(self, images: Tensor) -> Tensor:
        return torch.einsum("nchw,oc->nohw", images, self.weight)


LAYERS = {
    "padded": lambda: nn.Conv2d(8, 16, 3, padding=1),
    "strided, no bias": lambda: nn.Conv2d(8, 16, 3, stride=2, bias=False),
    "depthwise": lambda: nn.Conv2d(8, 8, 3, groups=8),
    "transposed": lambda: nn.ConvTranspose2d(8, 16, 4, stride=2, padding=1),
    "matrix product": MatrixProduct,
}


class Kernels(TorchDispatchMode):
    """Of which type the numbers are that products really get."""

    def __init__(self) -> None:
        super().__init__()
        self.types: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.convolution.default, torch.ops.aten.bmm.default):
            self.types |= {args[0].dtype, args[1].dtype}
        return func(*args, **(kwargs or {}))


@contextmanager
def ours() -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16), Float32Kernels():
        yield


def whole_numbers(like: Tensor, most: int, generator: torch.Generator) -> Tensor:
    return torch.randint(-most, most + 1, like.shape, generator=generator).float()


def rounded(values: Tensor) -> Tensor:
    return values.detach().to(torch.bfloat16)


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_numbers_are_rounded_before_the_product_and_after_the_sum_and_so_are_gradients(
    make: Callable[[], nn.Module],
) -> None:
    # Beyond 256 bfloat16 rounds whole numbers; no sum of these is rounded in float32, in whatever order it is taken.
    generator, layer = torch.Generator().manual_seed(0), make()
    for parameter in layer.parameters():
        parameter.data = whole_numbers(parameter, 400, generator)
    images = whole_numbers(torch.empty(2, 8, 12, 12), 400, generator).requires_grad_()
    with Kernels() as kernels, ours():
        output = layer(images)
    assert kernels.types == {torch.float32}
    change = whole_numbers(output, 9, generator)
    output.backward(change.to(output.dtype))

    exact = make().double()
    for parameter, own in zip(exact.parameters(), layer.parameters(), strict=True):
        parameter.data = rounded(own).double()
    exact_images = rounded(images).double().requires_grad_()
    exact_output = exact(exact_images)
    exact_output.backward(change.double())

    assert output.dtype == torch.bfloat16
    assert torch.equal(output, rounded(exact_output))
    were_rounded = []
    for own, wanted in zip((images, *layer.parameters()), (exact_images, *exact.parameters()), strict=True):
        assert own.grad is not None
        assert wanted.grad is not None
        assert torch.equal(own.grad, rounded(wanted.grad).float())
        were_rounded.append(not torch.equal(own.grad, wanted.grad.float()))
    assert any(were_rounded), "none was large enough to show it"


@pytest.mark.parametrize("inner", [torch.autocast("cpu", enabled=False), torch.autocast("cpu", torch.float16)])
def test_what_is_not_of_bfloat16_is_left_alone(inner: torch.autocast) -> None:
    layer, images = nn.Conv2d(3, 4, 3), torch.rand(1, 3, 8, 8)
    with inner:
        plain = layer(images)
    with ours(), inner:
        assert torch.equal(layer(images), plain)


def test_doubles_are_left_alone_as_autocast_leaves_them() -> None:
    layer, images = nn.Conv2d(3, 4, 3).double(), torch.rand(1, 3, 8, 8, dtype=torch.float64)
    plain = layer(images)
    with ours():
        assert torch.equal(layer(images), plain)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="a trainer would be the accelerator's")
@pytest.mark.parametrize(("units", "used"), [("", True), ("AMX", False), (None, False)])
def test_only_a_processor_without_bfloat16_units_needs_them(
    units: str | None, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "bfloat16_units", lambda: units)
    for asked in ("bf16-mixed", "32-true"):
        spec, _ = resolve("rd", "synthetic", "brick", load_profile("smoke"), settings={"precision": asked})
        trainer = _trainer(spec, [], [], Group())
        assert trainer.precision == asked
        assert isinstance(trainer.precision_plugin, MixedByFloat32Kernels) == (used and asked == "bf16-mixed")
        expected = torch.bfloat16 if asked == "bf16-mixed" and not used else torch.float32
        for context in (trainer.precision_plugin.forward_context(), running_in(spec.protocol.precision, CPU)):
            with Kernels() as kernels, context:
                F.conv2d(torch.rand(1, 1, 4, 4), torch.rand(1, 1, 3, 3))
            assert kernels.types == {expected}


def test_float32_on_a_gpu_is_cudnn_s_without_its_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    enabled = torch.backends.cudnn.enabled
    with running_in("32-true", torch.device("cuda")):
        assert (torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32) == (enabled, False)
    assert (torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32) == (enabled, True)
