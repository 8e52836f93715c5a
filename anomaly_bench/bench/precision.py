"""The precision in which a run's networks work: mixed, that is half precision where they multiply, or true float32.

On a processor without bfloat16 units PyTorch's bfloat16 convolutions take two to five times as long as float32's.
There the factors of autocast's products are rounded to bfloat16 as ever, multiplied and summed by float32's
kernels, and the result is rounded to bfloat16. A product of two bfloat16 numbers is exact in float32, and sums are
float32 in processors with such units too: what is rounded, and to what, is the same, and only the order of the sums is
another. It takes the memory of float32.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.overrides import TorchFunctionMode

from anomaly_bench.bench.processor import bfloat16_units
from anomaly_bench.methods.protocol import Precision

HALF_PRECISION = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
PRODUCTS = frozenset({torch.conv2d, torch.conv_transpose2d, torch.einsum})  # all that the methods' layers have


class Float32Kernels(TorchFunctionMode):
    """Under autocast on a CPU, `PRODUCTS` of bfloat16 numbers by the kernels of float32."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        mixed = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
        if not mixed or func not in PRODUCTS or _has_double([*args, *kwargs.values()]):
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            result: Tensor = func(*map(_rounded, args), **{name: _rounded(value) for name, value in kwargs.items()})
        return result.bfloat16()


class MixedByFloat32Kernels(MixedPrecision):
    """Lightning's mixed precision of bfloat16 on such a processor."""

    def __init__(self) -> None:
        super().__init__("bf16-mixed", "cpu")

    @contextmanager
    def forward_context(self) -> Generator[None, None, None]:
        with super().forward_context(), Float32Kernels():
            yield


def emulates_bfloat16(device: torch.device) -> bool:
    """It has to compute bfloat16 products by other means; False where the system does not tell."""
    return device.type == "cpu" and bfloat16_units() == ""


@contextmanager
def running_in(precision: Precision, device: torch.device) -> Iterator[None]:
    """As a training of that precision runs, without a trainer."""
    if precision in HALF_PRECISION:
        kernels = Float32Kernels() if emulates_bfloat16(device) else nullcontext()
        with torch.autocast(device.type, dtype=HALF_PRECISION[precision]), kernels:
            yield
    elif device.type == "cuda":
        # True float32 on a GPU too; by its own defaults this would switch cuDNN off altogether.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    else:
        yield


def _has_double(values: list[Any]) -> bool:
    """Then autocast leaves them alone as well."""
    return any(isinstance(value, Tensor) and value.dtype == torch.float64 for value in values)


def _rounded(value: Any) -> Any:
    return value.bfloat16().float() if isinstance(value, Tensor) else value
