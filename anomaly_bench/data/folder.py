"""Any data in MVTec AD's layout: <data-root>/<category>/{train/good, test/<defect>, ground_truth/<defect>}.

Images      .png, .jpg, .bmp, .tif, .webp and more, see `layout.IMAGE_SUFFIXES`; hidden files and others are left out.
Masks       that of `x.jpg` is `x_mask.png` (or `x.png`, of any image suffix) in the defect's folder. Without any folder
            `ground_truth` there are image metrics only; with one, every defective image needs its mask.
Categories  are named by their folders, in any script and with spaces.
"""

from __future__ import annotations

from pathlib import Path

from anomaly_bench.data.base import AnomalyDataModule
from anomaly_bench.data.layout import entries, is_folder
from anomaly_bench.errors import UserError

TRAINING = Path("train", "good")


class Folder(AnomalyDataModule):
    """One folder of the user's own, see `AnomalyDataModule`; there are no official counts to compare with."""

    revision = 1
    publishable = False  # the user's own images: their names and scores are not for a public repository

    @classmethod
    def category_names(cls, data_root: Path) -> list[str]:
        """Every folder below the data root that holds `train/good`."""
        if not is_folder(data_root):
            raise UserError(f"data root {data_root} does not exist; correct --data-root (or ANOMALY_BENCH_DATA).")
        if is_folder(data_root / TRAINING):
            where = data_root.absolute()
            raise UserError(f"data root {where} is itself a category; pass --data-root {where.parent}.")
        return [path.name for path in entries(data_root, lambda path: is_folder(path / TRAINING))]

    @classmethod
    def passed_over(cls, data_root: Path) -> dict[str, str]:
        """Every other folder below the data root, and how it misses the layout."""
        others = entries(data_root, lambda path: is_folder(path) and not is_folder(path / TRAINING))
        return {path.name: _misses(path) for path in others}

    @classmethod
    def check_category(cls, data_root: Path, category: str) -> None:
        """Raise UserError when there is no such category; says how a folder that is there misses the layout."""
        names = cls.category_names(data_root)
        one_name = category not in ("", ".", "..") and Path(category).name == category
        if one_name and category not in names and is_folder(data_root / category):
            raise UserError(_misses(data_root / category))
        super().check_category(data_root, category)

    @classmethod
    def category_folder(cls, data_root: Path, category: str) -> Path:
        """`<data-root>/<category>`."""
        cls.check_category(data_root, category)
        return data_root / category

    @property
    def has_masks(self) -> bool:
        """Whether there is a folder of masks; a link that leads nowhere stands for one, and is missed."""
        masks = self.folder / "ground_truth"
        return masks.exists() or masks.is_symlink()


def _misses(folder: Path) -> str:
    there = [f"train/{path.name}" for path in entries(folder / "train", is_folder)]
    has = f"it has {', '.join(there)}" if there else "nor has it any other below train"
    return f"{folder} has no folder {TRAINING}, {has}; put its normal training images there."


DATASET = Folder
