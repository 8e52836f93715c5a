"""From tensors in memory to batches: nothing is decoded or collated in the loop."""

from __future__ import annotations

from collections.abc import Iterator
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
        indices = indices.to(self.images.device)
        return Batch(self.images[indices].permute(0, 3, 1, 2), indices)  # (N, H, W, 3) -> (N, 3, H, W)


class BatchOrder(Sampler[Tensor]):
    """Index tensors of one epoch. Shuffled by (seed, epoch) alone, so a resumed run sees the same batches.

    A last batch of a single image can be dropped (`drop_single`); any other short one is kept.
    """

    def __init__(self, length: int, batch_size: int, shuffle_seed: int | None, *, drop_single: bool = False) -> None:
        self.length, self.batch_size, self.shuffle_seed = length, batch_size, shuffle_seed
        self.used = length - 1 if drop_single and length % batch_size == 1 and length > batch_size else length
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
