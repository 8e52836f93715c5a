"""BTAD (beanTech Anomaly Detection): three industrial products.

Source      Mishra et al., "VT-ADL: A Vision Transformer Network for Image Anomaly Detection and Localization", ISIE
            2021; https://github.com/pankajmishra000/VT-ADL. Licence CC BY-SA 4.0.
Layout      <data-root>/btad/<product>/{train/ok, test/ok, test/ko, ground_truth/ko}; BTech_Dataset_transformed is the
            archive's own name of the first folder. The mask of `ko/x` is `ko/x`, often with another suffix: images of
            01 are .bmp and masks .png, 02 is all .png, 03 all .bmp.
Counts      The publishers' README has the image sizes and 400, 1000 and 399 training images for products 1, 2 and 3;
            the copy that Dataset Ninja lists file by file (https://github.com/dataset-ninja/btad,
            stats/classes_per_image.json: 2540 images, 1799 of them to train on, 290 ko) has the last two the other way
            round, and a mask for every ko image (its src/convert.py). The counts of test images are from that list
            alone, so all are marked as not confirmed. DLKD's authors give 2540 images too.
"""

from __future__ import annotations

from pathlib import Path

from anomaly_bench.data.base import AnomalyDataModule, Counts, Official
from anomaly_bench.data.fetch import Archive
from anomaly_bench.data.layout import Sample, Split, find_category, mvtec_samples

FOLDERS = ("btad", "BTech_Dataset_transformed")

# Training images, good test images, defective test images (every one with a mask), (height, width) in pixels.
COUNTED = {
    "01": (400, 21, 49, (1600, 1600)),
    "02": (399, 30, 200, (600, 600)),
    "03": (1000, 400, 41, (600, 800)),
}

ARCHIVE = Archive(
    title="BTAD",
    url="https://avires.dimi.uniud.it/papers/btad/btad.zip",
    page="https://github.com/pankajmishra000/VT-ADL",
    folder=FOLDERS[0],
    holds=("train", "test", "ground_truth"),
    # anomalib's documentation has CC BY-NC-SA 4.0, against the README: the stricter one is named too.
    licence="CC BY-SA 4.0 by the authors' README, CC BY-NC-SA 4.0 (no commercial use) by others",
    citation="Mishra, Verk, Fornasier, Piciarelli, Foresti: VT-ADL: A Vision Transformer Network for Image Anomaly "
    "Detection and Localization, ISIE 2021",
    sha256="461c9387e515bfed41ecaae07c50cf6b10def647b36c9e31d239ab2736b10d2a",
    sha256_source="anomalib (the authors publish none)",
)


class BTAD(AnomalyDataModule):
    """One product of BTAD, see `AnomalyDataModule`."""

    revision = 1
    categories = tuple(COUNTED)
    archive = ARCHIVE

    @classmethod
    def category_folder(cls, data_root: Path, category: str) -> Path:
        """`<data-root>/btad/<product>`, or below the archive's own name."""
        return find_category(data_root, FOLDERS, category, title="BTAD")

    @classmethod
    def official(cls, category: str) -> Official:
        """As counted in a copy, see the module's description."""
        train, good, defective, size = COUNTED[category]
        return Official(Counts(train, good, defective, masks=defective), size, confirmed=False)

    @classmethod
    def find_samples(cls, folder: Path, split: Split) -> list[Sample]:
        """MVTec AD's layout with `ok` for good; a mask has its image's stem."""
        return mvtec_samples(folder, split, good="ok", mask_ending="")


DATASET = BTAD
