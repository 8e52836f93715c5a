"""CIFAR-10, one class normal and nine anomalous: 32x32 photographs of ten kinds of thing.

Source      Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009: 6000 images of each class, 1000
            of them to test on; https://www.cs.toronto.edu/~kriz/cifar.html, which states no licence. The MD5 sums of
            the files are torchvision's; the page has the archive's alone.
Layout      <data-root>/cifar-10-batches-py/{data_batch_1 ... data_batch_5, test_batch}, the "python version".
Protocol    a category is the normal class: its training images to train on, the whole test set to test on; the other
            classes are the defect types. 32x32 as RD4AD's loader has it. No masks, so image metrics only.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anomaly_bench.data.base import AnomalyDataModule, Counts, Official
from anomaly_bench.data.cifar10_batches import SIDE, LabelledImages, read_batch
from anomaly_bench.data.fetch import Archive
from anomaly_bench.data.images import fill_colours, manifest_of, parallel
from anomaly_bench.data.layout import GOOD, Sample, Split, is_folder, missing_data_set
from anomaly_bench.errors import UserError

FOLDER = "cifar-10-batches-py"
CATEGORIES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")  # by label
MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
TEST_FILE = "test_batch"

ARCHIVE = Archive(
    title="CIFAR-10",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    page="https://www.cs.toronto.edu/~kriz/cifar.html",
    folder=FOLDER,
    holds=tuple(MD5),
    licence="none stated; the authors ask to be cited",
    citation="Krizhevsky: Learning Multiple Layers of Features from Tiny Images, technical report, 2009",
    # The authors publish the MD5 c58f30108f718f92721af3b95e74349a alone; Keras has the SHA-256 of the same archive.
    sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    sha256_source="Keras (the author publishes an MD5 only)",
)


@dataclass(frozen=True)
class BatchFile:
    """One file: where it is, what it holds, and whether it is the official one."""

    path: Path
    images: LabelledImages
    official: bool


class Cifar10(AnomalyDataModule):
    """One class of CIFAR-10 against the others, see `AnomalyDataModule`."""

    revision = 1
    categories = tuple(CATEGORIES)
    archive = ARCHIVE
    default_image_size = SIDE
    images_are_files = False

    @classmethod
    def category_folder(cls, data_root: Path, category: str) -> Path:
        """`<data-root>/cifar-10-batches-py`, which all categories share."""
        if not is_folder(data_root / FOLDER):
            raise UserError(missing_data_set(data_root, FOLDER, "CIFAR-10", inside=TEST_FILE))
        return data_root / FOLDER

    @classmethod
    def official(cls, category: str) -> Official:
        """As published."""
        return Official(Counts(train=5000, test_good=1000, test_defective=9000, masks=0), (SIDE, SIDE))

    @property
    def has_masks(self) -> bool:
        """None: nothing says which pixels make a cat."""
        return False

    @cached_property
    def files(self) -> list[BatchFile]:
        """All six; raises UserError where one is missing or damaged, or is not the official one."""
        return parallel(self._read_file, [self.folder / name for name in MD5])

    def _read_file(self, path: Path) -> BatchFile:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); replace it by the official file.") from error
        official = hashlib.md5(content, usedforsecurity=False).hexdigest() == MD5[path.name]
        if not official and not self.allow_unverified:
            raise UserError(
                f"{path} is not CIFAR-10's official file (its MD5 sum differs); replace it, or pass "
                "--allow-unverified-data to use it all the same."
            )
        return BatchFile(path, read_batch(content, path), official)

    def unofficial_files(self) -> list[Path]:
        """Files with another MD5 sum than the official one."""
        return [file.path for file in self.files if not file.official]

    @cached_property
    def samples(self) -> dict[Split, list[Sample]]:
        """The class's own training images, and every test image; sorted by name."""
        own = CATEGORIES.index(self.category)
        samples: dict[Split, list[Sample]] = {"train": [], "test": []}
        for file in self.files:
            split: Split = "test" if file.path.name == TEST_FILE else "train"
            for index, label in enumerate(file.images.labels):
                if split == "test" or label == own:
                    samples[split].append(_sample(file.path, split, index, CATEGORIES[label], self.category))
        return {split: sorted(found, key=lambda sample: sample.name) for split, found in samples.items()}

    @cached_property
    def pixels(self) -> dict[str, NDArray[np.uint8]]:
        """(32, 32, 3) by the sample's name."""
        arrays = {file.path: file.images.pixels for file in self.files}
        samples = [*self.samples["train"], *self.samples["test"]]
        return {sample.name: arrays[sample.path][_index(sample)] for sample in samples}

    def read_sample(self, sample: Sample, pixels: NDArray[np.uint8]) -> tuple[int, int]:
        """One image, resized as a file would be."""
        fill_colours(pixels, self.pixels[sample.name])
        return SIDE, SIDE

    def image_sizes(self) -> list[tuple[int, int]]:
        """They all have one."""
        return [(SIDE, SIDE)]

    def manifest_sha256(self) -> str:
        """Hash of the pixels and labels that the category uses, by position: see `images.manifest_of`."""
        digests = parallel(lambda name: (name, hashlib.sha256(self.pixels[name].tobytes()).hexdigest()), self.pixels)
        return manifest_of(digests)


def _sample(path: Path, split: Split, index: int, name: str, own: str) -> Sample:
    """`test/cat/test_batch-00042`: the class, the file, and the position in it."""
    return Sample(path, f"{split}/{name}/{path.name}-{index:05}", GOOD if name == own else name)


def _index(sample: Sample) -> int:
    return int(sample.name.rpartition("-")[2])


DATASET = Cifar10
