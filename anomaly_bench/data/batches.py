"""From tensors in memory to batches: nothing is decoded or collated in the loop."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler


class Batch(NamedTuple):
    """`images`: (N, 3, H, W) uint8 in channels-last memory; `indices`: (N,) positions within the split."""

    images: Tensor
    indices: Tensor


class ResidentImages(Dataset[Batch]):
    """A split as one uint8 tensor (N, H, W, 3), indexed by whole batches."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __getitem__(self, indices: Tensor) -> Batch:
        indices = indices.to(self.images.device, non_blocking=True)  # or a GPU's queue is waited for in every step
        return Batch(self.images.index_select(0, indices).permute(0, 3, 1, 2), indices)  # (N, H, W, 3) -> (N, 3, H, W)


class BatchOrder(Sampler[Tensor]):
    """Index tensors of one epoch. Shuffled by (seed, epoch) alone, so a resumed run sees the same batches.

    A last batch of fewer images than `fewest` is left out, unless it is the only one; any other short one is kept.
    """

    def __init__(self, length: int, batch_size: int, shuffle_seed: int | None, *, fewest: int = 1) -> None:
        self.length, self.batch_size, self.shuffle_seed = length, batch_size, shuffle_seed
        last = length % batch_size
        self.used = length - last if last < fewest and length > batch_size else length
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.used // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.arange(self.length)
        if self.shuffle_seed is not None:
            words = np.random.SeedSequence([self.shuffle_seed, self.epoch]).generate_state(1, np.uint64)
            generator = torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))
            order = torch.randperm(self.length, generator=generator)
        yield from torch.split(order[: self.used], self.batch_size)

    def images_in(self, batch_idx: int) -> int:
        """How many images the batch of this number holds."""
        return min(self.batch_size, self.used - batch_idx * self.batch_size)


class SharedBatches(Sampler[Tensor]):
    """One device's images of every batch: the batches of all `devices` together are those of `order`.

    Args:
        order: the whole batches.
        rank: the device, from 0; its images are the `rank`-th of a batch and every `devices`-th from there on.
        devices: how many share each batch.
    """

    def __init__(self, order: BatchOrder, rank: int, devices: int) -> None:
        self.order, self.rank, self.devices = order, rank, devices

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before every epoch."""
        self.order.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Tensor]:
        return (batch[self.rank :: self.devices] for batch in self.order)

    def weight(self, batch_idx: int) -> float:
        """This device's images of a batch, over the mean of all devices."""
        images = self.order.images_in(batch_idx)
        return len(range(self.rank, images, self.devices)) * self.devices / images


class DealtBatches(Sampler[Tensor]):
    """Whole batches, dealt out to `devices` in turn: a batch's images stay together, whoever has it."""

    def __init__(self, order: BatchOrder, rank: int, devices: int) -> None:
        self.order, self.rank, self.devices = order, rank, devices

    def __len__(self) -> int:
        return len(range(self.rank, len(self.order), self.devices))

    def __iter__(self) -> Iterator[Tensor]:
        return islice(self.order, self.rank, None, self.devices)
