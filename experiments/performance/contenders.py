"""The contenders of `train.py` that need this package: our run, a plain loop of the same network, and the bare step."""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from clock import EpochClock
from machine import device
from networks import random_run
from PIL import Image
from reference_metrics import reference_panel
from scipy.ndimage import gaussian_filter
from techniques import PRODUCT, training_step
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, StackDataset

from anomaly_bench.bench.execute import build_method, execute, find_networks
from anomaly_bench.bench.places import Conduct, Places
from anomaly_bench.bench.spec import RunSpec
from anomaly_bench.bench.store import Store
from anomaly_bench.methods.base import DistillationMethod

WORKERS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("who", choices=["ours", "plain", "bare"])
    parser.add_argument("--root", type=Path, required=True, help="folder that holds the category")
    parser.add_argument("--category", required=True)
    parser.add_argument("--method", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--images", type=int, required=True, help="training images in the folder")
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--no-feature-cache", action="store_true", help="of `ours`")
    parser.add_argument("--resident", action="store_true", help="of `plain`: images in the device's memory as `ours`")
    options = parser.parse_args()
    settings = {"epochs": options.epochs, "precision": options.precision}
    spec, _ = random_run(options.method, options.teacher, settings, dataset="folder", category=options.category)
    batch = spec.protocol.batch_size
    images = math.ceil(options.images / batch) * batch if options.who == "bare" else options.images  # its are all full
    clock = EpochClock(images, batch, options.precision)
    {"ours": ours, "plain": plain, "bare": bare}[options.who](spec, options, clock)
    clock.report()


def ours(spec: RunSpec, options: argparse.Namespace, clock: EpochClock) -> None:
    """The product's own run, untouched but for the clock."""

    def started(method: DistillationMethod) -> None:
        clock.epoch_started()

    def ended(method: DistillationMethod, outputs: Any, batch: Any, batch_idx: int) -> None:
        clock.step_ended(batch_idx)

    DistillationMethod.on_train_epoch_start = started  # type: ignore[assignment, method-assign]
    DistillationMethod.on_train_batch_end = ended  # type: ignore[assignment, method-assign]
    with tempfile.TemporaryDirectory() as results:
        conduct = Conduct(show=False, feature_cache=not options.no_feature_cache)
        places = Places(options.root, Path(results), conduct=conduct)
        execute(spec, places, Store(places.results))


def bare(spec: RunSpec, options: argparse.Namespace, clock: EpochClock) -> None:
    """The same step on one batch that never leaves the device, and nothing around it: the limit."""
    method = build_method(spec, find_networks(spec, None)).to(device()).train()
    shape = (spec.protocol.batch_size, 3, spec.protocol.image_size, spec.protocol.image_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=device())
    step = training_step(replace(PRODUCT, bf16=spec.protocol.precision == "bf16-mixed"), method, images)
    for _ in range(spec.protocol.epochs):
        clock.epoch_started()
        for index in range(clock.steps):
            step()
            clock.step_ended(index)


class Images(Dataset[Tensor]):
    """The images of a split, opened one by one as they are asked for: (3, H, W) in [0, 1]."""

    def __init__(self, folder: Path, split: str, size: int) -> None:
        self.paths, self.size = sorted((folder / split).glob("*/*.png")), size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(self.pixels(self.paths[index], "RGB")).permute(2, 0, 1).contiguous().float() / 255

    def pixels(self, path: Path, mode: str) -> Any:
        return np.array(Image.open(path).convert(mode).resize((self.size, self.size), Image.Resampling.BILINEAR))


class Masks(Images):
    """Their masks: (H, W) bool."""

    def __getitem__(self, index: int) -> Tensor:
        path = self.paths[index]
        mask = path.parents[2] / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
        if not mask.exists():
            return torch.zeros(self.size, self.size, dtype=torch.bool)
        return torch.from_numpy(self.pixels(mask, "L") > 127)


def plain(spec: RunSpec, options: argparse.Namespace, clock: EpochClock) -> None:
    """What a researcher writes by hand: PyTorch's defaults (TF32 in a GPU's convolutions among them), the teacher in
    every step, library metrics at the end."""
    method = build_method(spec, find_networks(spec, None)).to(device()).train()
    optimiser = method.configure_optimizers()
    autocast = torch.autocast(device().type, torch.bfloat16, enabled=spec.protocol.precision == "bf16-mixed")
    folder, size = options.root / options.category, spec.protocol.image_size
    data = Images(folder, "train", size)
    loader = DataLoader(
        data,
        spec.protocol.batch_size,
        shuffle=True,
        num_workers=WORKERS,
        pin_memory=device().type == "cuda",
    )
    resident = (
        torch.stack([data[index] for index in range(len(data))]).mul(255).round().byte().to(device())
        if options.resident
        else None
    )
    for _ in range(spec.protocol.epochs):
        clock.epoch_started()
        for index, images in enumerate(loader if resident is None else shuffled(resident, spec.protocol.batch_size)):
            batch = images.to(device(), non_blocking=True)
            with autocast:
                loss = torch.stack(list(method.training_terms(batch, method.teacher(batch)).values())).sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            loss.item()  # which a training that prints its loss waits for
            clock.step_ended(index)
    test = StackDataset(Images(folder, "test", size), Masks(folder, "test", size))
    evaluate_plainly(method.eval(), DataLoader(test, 1, num_workers=WORKERS), autocast)


def shuffled(images: Tensor, batch: int) -> Iterator[Tensor]:
    """All of them once, in batches: uint8 until they are asked for."""
    for indices in torch.split(torch.randperm(len(images), device=images.device), batch):
        yield images[indices].float() / 255


@torch.no_grad()
def evaluate_plainly(
    method: DistillationMethod, loader: DataLoader[tuple[Tensor, Tensor]], autocast: torch.autocast
) -> None:
    """One image after the other, then scikit-learn and the rules as they read; the student is written."""
    maps, masks = [], []
    for images, truth in loader:
        with autocast:
            stages = method.stage_maps(images.to(method.device))
        large = [F.interpolate(m[:, None].float(), truth.shape[1:], mode="bilinear") for m in stages.values()]
        maps.append(gaussian_filter(torch.stack(large).sum(0)[0, 0].cpu().numpy(), sigma=4))
        masks.append(truth[0].numpy())
    labels = np.array([mask.any() for mask in masks])
    reference_panel(maps, np.array([one.max() for one in maps]), labels, masks)
    with tempfile.TemporaryFile() as file:
        torch.save(method.student_state(), file)


if __name__ == "__main__":
    main()
