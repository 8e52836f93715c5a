"""What all data modules share: samples, counts, evidence, and the two splits decoded into memory."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from anomaly_bench.data.batches import Batch, BatchOrder, DealtBatches, ResidentImages, SharedBatches
from anomaly_bench.data.cache import cached, fingerprint
from anomaly_bench.data.fetch import Archive
from anomaly_bench.data.images import full_size, manifest_sha256, parallel, read_image_into, read_mask
from anomaly_bench.data.layout import Sample, Split, mvtec_samples
from anomaly_bench.data.subset import spaced, stratified
from anomaly_bench.errors import UserError, nearest

DECODING = 1  # raise it when `images` comes to decode a file to other pixels: what was kept before is then not used
PREDICT_BATCH = 32  # images a batch when maps are made; changes no number
# Below this side the networks' smallest map is a single pixel, and batch norm has no variance over one image's.
ONE_IMAGE_SIDE = 64


@dataclass(frozen=True)
class Counts:
    """Images and masks of one category."""

    train: int
    test_good: int
    test_defective: int
    masks: int


@dataclass(frozen=True)
class Official:
    """What a category's publishers say of it: `counts`, and `image_size` as (height, width) in pixels.

    Not `confirmed` where the counts are not the publishers' own: data that agree with them are not called complete.
    """

    counts: Counts
    image_size: tuple[int, int]
    confirmed: bool = True


@dataclass(frozen=True)
class GroundTruth:
    """Everything about the test images but their pixels, in the order of the prediction batches.

    Attributes:
        samples: N of them.
        masks: (N, H, W) bool at the evaluated size, or None where the data set has no masks.
        shares: (N,) anomalous part of the pixels at the original size, in [0, 1]; NaN where nobody knows, which is
            for the anomalous images of a data set without masks.
    """

    samples: list[Sample]
    masks: NDArray[np.bool_] | None
    shares: NDArray[np.float64]

    @property
    def labels(self) -> NDArray[np.bool_]:
        return np.array([sample.anomalous for sample in self.samples])


class AnomalyDataModule(lightning.LightningDataModule):
    """One category of a data set: normal images to train on, normal and anomalous ones to test on.

    A data set's file gives `revision`, `categories`, `category_folder` and, where its layout is not MVTec AD's,
    `find_samples`; where its images are not files of their own, also `samples`, `read_sample`, `image_sizes` and
    `manifest_sha256`.

    Args:
        data_root: folder that holds the data sets.
        category: name of the category.
        image_size: height and width that images are resized to, in pixels.
        batch_size: training images a step.
        shuffle_seed: seed of the training order.
        train_images: keep only so many training images (evenly spaced), or all where None.
        test_images: keep only so many test images (every defect type in turn), or all where None.
        allow_unverified: use files that differ from those whose checksums the publishers give.
        cache: folder that keeps decoded images between runs, or None.

    Attributes:
        revision: part of every run's identity; raise it when the tensors that a run sees change.
        categories: all there are, wherever the data are; where it is empty, `category_names` is asked.
        publishable: whether results on it may be committed.
        default_image_size: the size to use where nobody says one, or None for the method's.
        archive: what `data fetch` downloads, or None.
        images_are_files: False where images lie together in a few files, which are checked whole as they are read.
    """

    revision: ClassVar[int]
    categories: ClassVar[tuple[str, ...]] = ()
    publishable: ClassVar[bool] = True
    default_image_size: ClassVar[int | None] = None
    images_are_files: ClassVar[bool] = True
    archive: ClassVar[Archive | None] = None

    def __init__(
        self,
        data_root: Path,
        category: str,
        *,
        image_size: int = 256,
        batch_size: int = 16,
        shuffle_seed: int = 0,
        train_images: int | None = None,
        test_images: int | None = None,
        allow_unverified: bool = False,
        cache: Path | None = None,
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # one may have no test batch
        self.category, self.folder = category, self.category_folder(data_root, category)
        self.image_size, self.batch_size, self.shuffle_seed = image_size, batch_size, shuffle_seed
        self.kept = {"train": train_images, "test": test_images}
        self.allow_unverified, self.cache = allow_unverified, cache
        self.train_pixels: Tensor | None = None
        self.test_pixels: Tensor | None = None
        self.ground_truth: GroundTruth | None = None

    @classmethod
    def category_names(cls, data_root: Path) -> list[str]:
        """`categories`, or where there are none those found below the data root."""
        return list(cls.categories)

    @classmethod
    def passed_over(cls, data_root: Path) -> dict[str, str]:
        """Folders below the data root that are no category, by name, and in a sentence why; none of most data sets."""
        return {}

    @classmethod
    @abstractmethod
    def category_folder(cls, data_root: Path, category: str) -> Path:
        """Where a category's images are; raises UserError when they are not there."""

    @classmethod
    def official(cls, category: str) -> Official | None:
        """What the publishers say, or None where nobody does."""
        return None

    @classmethod
    def find_samples(cls, folder: Path, split: Split) -> list[Sample]:
        """All samples of a split, sorted by name; the default reads MVTec AD's layout."""
        return mvtec_samples(folder, split)

    @classmethod
    def check_category(cls, data_root: Path, category: str) -> None:
        """Raise UserError when no such category exists, here or anywhere."""
        names = cls.category_names(data_root)
        if category not in names:
            known = nearest(category, names) if names else f"; there is none in {data_root}: correct --data-root."
            raise UserError(f"unknown category '{category}'{known}")

    @property
    def fewest_images(self) -> int:
        """So many a batch must have on every device that trains with it."""
        return 2 if self.image_size < ONE_IMAGE_SIDE else 1

    @property
    def has_masks(self) -> bool:
        """Whether there are masks at all; without them there are image metrics only."""
        return True

    def unofficial_files(self) -> list[Path] | None:
        """Files whose checksums are not the official ones; None where the publishers give none."""
        return None

    def read_sample(self, sample: Sample, pixels: NDArray[np.uint8]) -> tuple[int, int]:
        """One image, resized into (size, size, 3); returns its (height, width); raises UserError if it is damaged."""
        return read_image_into(sample.path, pixels)

    @cached_property
    def samples(self) -> dict[Split, list[Sample]]:
        """Every sample there is, before a subset is taken."""
        return {"train": self.find_samples(self.folder, "train"), "test": self.find_samples(self.folder, "test")}

    def counts(self) -> Counts:
        """What is on disk."""
        test = self.samples["test"]
        return Counts(
            train=len(self.samples["train"]),
            test_good=sum(not sample.anomalous for sample in test),
            test_defective=sum(sample.anomalous for sample in test),
            masks=sum(sample.mask is not None and sample.mask.exists() for sample in test),
        )

    def manifest_sha256(self) -> str:
        """Hash of every image and mask of the category, see `images.manifest_sha256`."""
        samples = [*self.samples["train"], *self.samples["test"]]
        files = [(sample.name, sample.path) for sample in samples]
        masks = [(f"mask of {sample.name}", sample.mask) for sample in samples if sample.mask is not None]
        return manifest_sha256([*files, *((name, path) for name, path in masks if path.exists())])

    def image_sizes(self) -> list[tuple[int, int]]:
        """Every (height, width) that occurs on disk, in pixels."""
        samples = [*self.samples["train"], *self.samples["test"]]
        return sorted(set(parallel(lambda sample: full_size(sample.path), samples)))

    def evidence(self) -> dict[str, Any]:
        """What a record says of its data: hash, counts and image sizes, beside the official ones where there are any.

        `complete`, `verified` and `resized` are null where there is nothing official to compare with; `verified` says
        whether the checksums are the official ones.
        """
        counts, sizes, official = self.counts(), self.image_sizes(), self.official(self.category)
        unofficial = self.unofficial_files()
        return {
            "manifest_sha256": self.manifest_sha256(),
            "counts": asdict(counts),
            "official_counts": asdict(official.counts) if official else None,
            "complete": is_complete(counts, official, unofficial) if official else None,
            "verified": None if unofficial is None else not unofficial,
            "image_sizes": [list(size) for size in sizes],
            "official_image_size": list(official.image_size) if official else None,
            "resized": sizes != [official.image_size] if official else None,
        }

    def decoded_bytes(self) -> int:
        """What the images and masks that `setup` reads take, decoded."""
        train = spaced(self.samples["train"], self.kept["train"])
        test = stratified(self.samples["test"], self.kept["test"])
        return self.image_size**2 * (3 * len(train) + (4 if self.has_masks else 3) * len(test))

    def setup(self, stage: str | None = None) -> None:
        """Decode both splits once, on all cores, or take them from the cache; every later call is free.

        Raises:
            UserError: a file is missing or damaged, a mask does not fit its image, or there are too few images.
        """
        if self.ground_truth is not None:
            return
        train = spaced(self.samples["train"], self.kept["train"])
        test = stratified(self.samples["test"], self.kept["test"])
        for split, samples in (("training", train), ("test", test)):
            if not samples:
                raise UserError(f"{self.folder} has no {split} images; complete it, or choose another category.")
        self._require_variance(len(train))
        decoded = cached(self.cache, self._fingerprint(train, test), lambda: self._decode_splits(train, test))
        self.train_pixels, self.test_pixels = decoded["train"], decoded["test"]
        masks = decoded["masks"].numpy() if self.has_masks else None
        self.ground_truth = GroundTruth(test, masks, decoded["shares"].numpy())

    def _require_variance(self, count: int) -> None:
        if self.image_size < ONE_IMAGE_SIDE and 1 in (count, self.batch_size):
            what = f"one training image of {self.folder}" if count == 1 else "batch_size=1"
            raise UserError(
                f"{what} is too little for batch norm at image_size={self.image_size}; "
                f"use two or more, or image_size={ONE_IMAGE_SIDE} or more."
            )

    def _fingerprint(self, train: list[Sample], test: list[Sample]) -> str:
        """Of everything that `_decode_splits` depends on."""
        facts = [DECODING, type(self).__name__, self.revision, self.image_size, self.has_masks]
        names = [sample.name for sample in (*train, *test)]
        paths = [path for sample in (*train, *test) for path in (sample.path, sample.mask) if path is not None]
        return fingerprint([*facts, len(train), *names], paths)

    def _decode_splits(self, train: list[Sample], test: list[Sample]) -> dict[str, Tensor]:
        """`train` and `test`: (N, H, W, 3) uint8; `masks` and `shares` as in `GroundTruth`, empty without masks."""
        train_pixels, _ = self._decode(train)
        test_pixels, sizes = self._decode(test)
        masks, shares = self._read_masks(test, sizes)
        return {"train": train_pixels, "test": test_pixels, "masks": masks, "shares": shares}

    def _decode(self, samples: list[Sample]) -> tuple[Tensor, list[tuple[int, int]]]:
        pixels = np.empty((len(samples), self.image_size, self.image_size, 3), dtype=np.uint8)

        def read(index: int) -> tuple[int, int]:
            return self.read_sample(samples[index], pixels[index])

        sizes = parallel(read, range(len(samples)))
        return torch.from_numpy(pixels), sizes

    def _read_masks(self, samples: list[Sample], sizes: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        anomalous = [index for index, sample in enumerate(samples) if sample.anomalous]
        shares = np.zeros(len(samples))
        if not self.has_masks:
            shares[anomalous] = np.nan
            return torch.zeros(0, dtype=torch.bool), torch.from_numpy(shares)
        masks = np.zeros((len(samples), self.image_size, self.image_size), dtype=bool)

        def read(index: int) -> None:
            masks[index], shares[index] = self._fitting_mask(samples[index], sizes[index])

        parallel(read, anomalous)
        return torch.from_numpy(masks), torch.from_numpy(shares)

    def _fitting_mask(self, sample: Sample, full_size: tuple[int, int]) -> tuple[NDArray[np.bool_], float]:
        if sample.mask is None or not sample.mask.exists():
            where = f" (expected {sample.mask})" if sample.mask else ""
            raise UserError(f"the mask of {sample.path} is missing{where}; add it, or remove the image.")
        mask = read_mask(sample.mask, self.image_size)
        if mask.full_size != full_size:
            sizes = "{1}x{0} pixels, its image {3}x{2}".format(*mask.full_size, *full_size)
            raise UserError(f"mask {sample.mask} has {sizes}; give it the size of its image.")
        return mask.pixels, mask.share

    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.train_pixels is not None
        rank, devices = self._group()
        fewest = self.fewest_images * devices
        order = BatchOrder(len(self.train_pixels), self.batch_size, self.shuffle_seed, fewest=fewest)
        return self._loader(self.train_pixels, SharedBatches(order, rank, devices))

    def predict_dataloader(self) -> DataLoader[Batch]:
        """The test images, in the order of `ground_truth`; of several devices' together."""
        assert self.test_pixels is not None
        return self._loader(
            self.test_pixels, DealtBatches(BatchOrder(len(self.test_pixels), PREDICT_BATCH, None), *self._group())
        )

    def _group(self) -> tuple[int, int]:
        """Which of how many devices this process works for."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loader(self, pixels: Tensor, order: Sampler[Tensor]) -> DataLoader[Batch]:
        # batch_size=None: the sampler's index tensors are whole batches already.
        return DataLoader(ResidentImages(self._to_device(pixels)), batch_size=None, sampler=order)

    def _to_device(self, pixels: Tensor) -> Tensor:
        """On the GPU where half of its free memory holds them; else they stay here and travel batch by batch."""
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        if device.type != "cuda":
            return pixels
        share = torch.cuda.get_per_process_memory_fraction(device)  # less than 1 where workers share the GPU
        return pixels.to(device) if pixels.nbytes <= torch.cuda.mem_get_info(device)[0] * share / 2 else pixels


def is_complete(counts: Counts, official: Official, unofficial_files: list[Path] | None) -> bool | None:
    """Whether nothing is missing or altered; None where all that is known agrees, but not all is known."""
    if counts != official.counts or unofficial_files:
        return False
    return True if official.confirmed else None
