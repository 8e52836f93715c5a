"""How long does one image take, and how many a second do 32 at once give, beside the plain network?

From images in memory to one smoothed anomaly map and score an image, at batch 1 and 32, in one process, in turn:
ours as a run is evaluated (mixed precision, channels last), the same in float32, and the plain network (float32,
contiguous memory). Random weights, which change no speed.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from machine import device, device_slug, hardware, synchronise
from networks import random_run
from rows import publish
from torch import Tensor

from anomaly_bench.bench.evaluate import fuse_maps, score_images
from anomaly_bench.bench.execute import build_method, find_networks
from anomaly_bench.bench.precision import running_in
from anomaly_bench.bench.spec import EvalSpec
from anomaly_bench.methods.base import DistillationMethod, unit_range

VARIANTS = {"ours": (True, True), "ours in float32": (False, True), "plain": (False, False)}  # mixed, channels last


def main() -> int:
    """Measure, print a line for each variant and batch, write the CSV if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="rd")
    parser.add_argument("--teacher", default="resnet18.random")
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--repeats", type=int, default=9, help="calls of each, after two")
    parser.add_argument("--out", type=Path, help="folder of the CSV; none is written without")
    options = parser.parse_args()
    rows = [row for batch in options.batches for row in measure(batch, options)]
    publish(f"latency_{device_slug()}", rows, options.out)
    return 0


def measure(batch: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a variant."""
    spec, evaluation = random_run(options.method, options.teacher, {"image_size": options.size})
    images = torch.randint(0, 256, (batch, options.size, options.size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    methods, seconds = {}, dict[str, list[float]]()
    for name, (_, channels_last) in VARIANTS.items():
        method = build_method(spec, find_networks(spec, None)).to(device()).eval()
        methods[name] = method.to(memory_format=torch.channels_last) if channels_last else method
    for repeat, (name, method) in itertools.product(range(2 + options.repeats), methods.items()):
        start = time.perf_counter()
        detect(method, images, evaluation, mixed=VARIANTS[name][0], channels_last=VARIANTS[name][1])
        synchronise()
        if repeat >= 2:
            seconds.setdefault(name, []).append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return [
        {
            "variant": name,
            "method": options.method,
            "teacher": options.teacher,
            "batch": batch,
            "size_px": options.size,
            "seconds_median": round(median, 4),
            "images_per_second": round(batch / median, 2),
            "speed_over_plain": round(medians["plain"] / median, 2),
            **hardware(),
        }
        for name, median in medians.items()
    ]


@torch.no_grad()
def detect(
    method: DistillationMethod, images: Tensor, evaluation: EvalSpec, *, mixed: bool, channels_last: bool
) -> object:
    """Anomaly scores (N,) of uint8 images (N, 3, H, W)."""
    memory = torch.channels_last if channels_last else torch.contiguous_format
    torch.backends.cudnn.allow_tf32 = mixed or not channels_last  # ours in float32 has none; plain is PyTorch's default
    floats = unit_range(images.to(method.device)).contiguous(memory_format=memory)
    with running_in("bf16-mixed", method.device) if mixed else nullcontext():
        stages = method.stage_maps(floats)
    kept = {name: stage.half().cpu().numpy() for name, stage in stages.items()}
    return score_images(fuse_maps(kept, images.shape[2], evaluation), evaluation)


if __name__ == "__main__":
    sys.exit(main())
