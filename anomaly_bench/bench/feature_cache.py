"""The frozen teacher sees each training image once in a run, and not once in every epoch.

What      T1 T2 T3 of all training images, as the run's precision gives them, on the device that trains. The teacher
          is in evaluation mode and its input is the plain image, so nothing else can come out in a later epoch. What
          a method feeds it besides (DLKD's noise) is not kept.
Where     In memory, where `MEMORY_SHARE` of what is free holds it; otherwise one line says so, and the teacher runs
          with every batch as it would without a cache.
Processes Each makes its own at the start of training, a resumed one too: nothing is shared and nothing is stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from anomaly_bench.bench.memory import free_memory
from anomaly_bench.bench.progress import say
from anomaly_bench.data.batches import BatchOrder, ResidentImages
from anomaly_bench.methods.base import DistillationMethod, unit_range

MEMORY_SHARE = 0.25  # what training itself needs, and other runs at the same time, must fit beside it


class FeatureCache(Callback):
    """Gives the method the teacher's features of the training images when training starts."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, DistillationMethod)
        assert trainer.train_dataloader is not None
        assert trainer.max_epochs is not None
        if trainer.max_epochs - trainer.current_epoch < 2:
            return  # every image is needed once and no more
        images: ResidentImages = trainer.train_dataloader.dataset
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            sharing = 1 if pl_module.device.type == "cuda" else trainer.world_size
            pl_module.cached_features = cache_features(pl_module, images, sharing=sharing)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, DistillationMethod)
        pl_module.cached_features = None  # the test images need the memory


def cache_features(method: DistillationMethod, images: ResidentImages, *, sharing: int = 1) -> list[Tensor] | None:
    """T1 T2 T3 of all N `images`, (N, H, W, C) each, or None, and a line, where memory is too small.

    So many processes, `sharing` the same memory, do this at once.
    """
    count = len(images.images)
    batches = _features(method, images)
    first = next(batches)
    needed, free = count * sum(stage[0].nbytes for stage in first), free_memory(method.device)
    if needed * sharing > MEMORY_SHARE * free:
        say(
            f"the teacher's features of {count} images would take {needed / 2**30:.2f} GiB, and {free / 2**30:.2f} GiB "
            "of memory are free: the teacher runs in every epoch."
        )
        return None
    cache = [stage.new_empty(count, *stage.shape[1:]) for stage in first]
    start = 0
    for batch in chain([first], batches):
        for stage, features in zip(cache, batch, strict=True):
            stage[start : start + len(features)] = features
        start += len(batch[0])
    return cache


def _features(method: DistillationMethod, images: ResidentImages) -> Iterator[list[Tensor]]:
    """The teacher's features of one batch after the other, channels last: what training picks is then one block."""
    for indices in BatchOrder(len(images.images), 16, None):
        pixels = unit_range(images[indices].images.to(method.device))
        yield [features.permute(0, 2, 3, 1) for features in method.teacher(pixels)]
