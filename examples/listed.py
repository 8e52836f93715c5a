"""Images in any folders, with a list that says what each of them is.

Layout      <data-root>/listed/<category>/list.csv, and the files it names, by paths below the category's folder:

                image,split,defect,mask
                raw/0001.png,train,good,
                raw/0417.png,test,good,
                raw/0418.png,test,scratch,labels/0418.png

            `defect` is `good` or the kind of defect; every defective image has a mask of its size, white where it is
            anomalous.
"""

from __future__ import annotations

import csv
from pathlib import Path

from anomaly_bench.data.base import AnomalyDataModule
from anomaly_bench.data.layout import GOOD, Sample, Split, entries, find_category
from anomaly_bench.errors import UserError

FOLDER, LIST = "listed", "list.csv"
COLUMNS = ["image", "split", "defect", "mask"]


class Listed(AnomalyDataModule):
    """One category with a list, see `AnomalyDataModule`; there are no official counts to compare with."""

    revision = 1
    publishable = False  # the user's own images

    @classmethod
    def category_names(cls, data_root: Path) -> list[str]:
        """Every folder that holds a list."""
        return [path.parent.name for path in entries(data_root / FOLDER, Path.is_dir) for path in path.glob(LIST)]

    @classmethod
    def category_folder(cls, data_root: Path, category: str) -> Path:
        """`<data-root>/listed/<category>`."""
        return find_category(data_root, [FOLDER], category, title="listed data")

    @classmethod
    def find_samples(cls, folder: Path, split: Split) -> list[Sample]:
        """The list's lines of one split, sorted by name; a training image with a defect is never used."""
        samples = [sample for line_split, sample in read_list(folder) if line_split == split]
        kept = [sample for sample in samples if split == "test" or not sample.anomalous]
        return sorted(kept, key=lambda sample: sample.name)


def read_list(folder: Path) -> list[tuple[str, Sample]]:
    """Split and sample of every line; raises UserError where the list cannot be read, or a line is wrong."""
    path = folder / LIST
    try:
        lines = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    except OSError as error:
        raise UserError(f"the list {path} cannot be read ({error.strerror}); restore it.") from error
    if not lines or lines[0] != COLUMNS:
        raise UserError(f"{path}:1: the header must be {','.join(COLUMNS)}; correct it.")
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(COLUMNS) or line[1] not in ("train", "test") or (line[2] == GOOD) == bool(line[3]):
            raise UserError(
                f"{path}:{number}: not `image,train or test,good or a defect,mask of a defect`; correct it."
            )
    return [
        (split, Sample(folder / image, image, defect, folder / mask if mask else None))
        for image, split, defect, mask in lines[1:]
    ]


DATASET = Listed
