"""What does each technique of the training step bring, alone and together with the others?

One step (features, loss, backward, optimiser) of one method on random images that are in memory already, in one
process, all variants in turn, so that what else the machine does falls on all alike. `alone` is a technique on top of
the plain step (true float32, contiguous memory, the teacher in every step, PyTorch's default Adam, kernels free to
differ from call to call); `without` is the product's step with that one technique taken away; `with` is one added that
the product leaves out. The losses of the first steps are compared with the product's: equal to the bit, or by how much
they differ. What torch.compile makes for a CPU leaves roundings to bfloat16 out where it joins operations, so where
float32's kernels do the work of bfloat16 its step rounds less than the product's.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning import seed_everything
from machine import device, device_slug, hardware
from networks import random_run
from rows import publish
from torch import Tensor

from anomaly_bench.bench.execute import build_method, find_networks
from anomaly_bench.bench.memory import keep_freed_memory
from anomaly_bench.bench.precision import emulates_bfloat16, running_in
from anomaly_bench.methods.base import DistillationMethod, unit_range

LOSSES = 3  # first steps that are compared


@dataclass(frozen=True)
class Step:
    """Which techniques one variant has; the defaults are the product's."""

    name: str
    bf16: bool = True
    float32_kernels: bool = True  # for bfloat16, where the processor has no units for it
    channels_last: bool = True
    cache: bool = True
    deterministic: bool = True
    filled: bool = False  # new memory, as deterministic kernels have it unless told otherwise
    fused: bool = False
    compiled: bool = False
    tf32: bool = False  # convolutions in float32 on a GPU


@dataclass
class Measured:
    """A variant ready to run: its step, and what it has given so far."""

    step: Callable[[], Tensor]
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


PRODUCT = Step("product")
PLAIN = Step("plain", bf16=False, channels_last=False, cache=False, deterministic=False)
VARIANTS = [
    PLAIN,
    replace(PLAIN, name="alone: bf16", bf16=True, float32_kernels=False),
    replace(PLAIN, name="alone: channels_last", channels_last=True),
    replace(PLAIN, name="alone: feature cache", cache=True),
    replace(PLAIN, name="alone: fused Adam", fused=True),
    PRODUCT,
    replace(PRODUCT, name="without bf16", bf16=False),
    replace(PRODUCT, name="without channels_last", channels_last=False),
    replace(PRODUCT, name="without feature cache", cache=False),
    replace(PRODUCT, name="without deterministic kernels", deterministic=False),
    replace(PRODUCT, name="with new memory filled", filled=True),
    replace(PRODUCT, name="with fused Adam", fused=True),
    replace(PRODUCT, name="with torch.compile", compiled=True),
]
EMULATED_VARIANTS = [
    replace(PLAIN, name="alone: bf16 by float32's kernels", bf16=True),
    replace(PRODUCT, name="without float32's kernels for bf16", float32_kernels=False),
]
GPU_VARIANTS = [replace(PLAIN, name="alone: TF32", tf32=True)]


def main() -> int:
    """Measure all variants, print a line for each, write the CSV if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="rd")
    parser.add_argument("--teacher", default="resnet18.random")
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels")
    parser.add_argument("--repeats", type=int, default=9, help="steps of each variant, after three")
    parser.add_argument("--compile", action="store_true", help="torch.compile too: needs g++ and a minute")
    parser.add_argument("--out", type=Path, help="folder of the CSV; none is written without")
    options = parser.parse_args()
    emulated = EMULATED_VARIANTS if emulates_bfloat16(device()) else []
    variants = [*VARIANTS, *emulated, *(GPU_VARIANTS if torch.cuda.is_available() else [])]
    rows = measure([variant for variant in variants if options.compile or not variant.compiled], options)
    publish(f"techniques_{device_slug()}", rows, options.out)
    return 0


def measure(variants: list[Step], options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a variant, in the order given."""
    spec, _ = random_run(options.method, options.teacher, {"image_size": options.size})
    generator = torch.Generator().manual_seed(0)
    shape = (spec.protocol.batch_size, 3, options.size, options.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device())
    measured = {}
    for variant in variants:
        method = build_method(spec, find_networks(spec, None)).to(device()).train()
        measured[variant] = Measured(training_step(variant, method, images))
    for repeat, state in itertools.product(range(LOSSES + options.repeats), measured.values()):
        seed_everything(repeat, verbose=False)
        start = time.perf_counter()
        loss = float(state.step())
        if repeat < LOSSES:
            state.losses.append(loss)
        else:
            state.seconds.append(time.perf_counter() - start)
    return [row(variant, state, measured, options, spec.protocol.batch_size) for variant, state in measured.items()]


def training_step(variant: Step, method: DistillationMethod, images: Tensor) -> Callable[[], Tensor]:
    """A call that takes one step on `images` and gives its loss."""
    if images.device.type == "cpu":
        keep_freed_memory()  # as a run does; the process's, so in all variants
    memory = torch.channels_last if variant.channels_last else torch.contiguous_format
    method.to(memory_format=memory)
    floats = unit_range(images).contiguous(memory_format=memory)
    optimiser = method.configure_optimizers()
    for group in optimiser.param_groups if variant.fused else []:
        group["fused"] = True
    terms = torch.compile(method.training_terms) if variant.compiled else method.training_terms

    def precision() -> AbstractContextManager[object]:
        if variant.bf16 and not variant.float32_kernels:
            return torch.autocast(images.device.type, torch.bfloat16)
        return running_in("bf16-mixed", images.device) if variant.bf16 else nullcontext()

    with precision():
        kept = method.teacher(floats) if variant.cache else None

    def step() -> Tensor:
        torch.use_deterministic_algorithms(variant.deterministic, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = variant.filled  # type: ignore[attr-defined]
        torch.backends.cudnn.allow_tf32 = variant.bf16 or variant.tf32  # as a run has it
        with precision():
            total = torch.stack(list(terms(floats, kept or method.teacher(floats)).values())).sum()
        optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return total.detach()

    return step


def row(
    variant: Step, state: Measured, measured: dict[Step, Measured], options: argparse.Namespace, batch: int
) -> dict[str, Any]:
    """One line of the CSV."""
    median, product, plain = (statistics.median(measured[v].seconds) for v in (variant, PRODUCT, PLAIN))
    pairs = zip(state.losses, measured[PRODUCT].losses, strict=True)
    return {
        "variant": variant.name,
        "method": options.method,
        "teacher": options.teacher,
        "batch": batch,
        "size_px": options.size,
        "step_seconds_median": round(median, 4),
        "step_seconds_min": round(min(state.seconds), 4),
        "images_per_second": round(batch / median, 2),
        "speed_over_plain": round(plain / median, 2),
        "speed_over_product": round(product / median, 2),
        "max_loss_difference_to_product": max(abs(one - other) for one, other in pairs),
        **hardware(),
    }


if __name__ == "__main__":
    sys.exit(main())
