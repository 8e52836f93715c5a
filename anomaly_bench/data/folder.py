"""Any data in MVTec AD's layout: <data-root>/<category>/{train/good, test/<defect>, ground_truth/<defect>}.

Images may be .png, .jpg or .bmp; the mask of `x.jpg` is `x_mask.png` (or `x.png`) in the defect's folder.
"""

from __future__ import annotations

from pathlib import Path

from anomaly_bench.data.base import AnomalyDataModule
from anomaly_bench.errors import UserError


class Folder(AnomalyDataModule):
    """One folder of the user's own, see `AnomalyDataModule`; there are no official counts to compare with."""

    revision = 1
    publishable = False  # the user's own images: their names and scores are not for a public repository

    @classmethod
    def category_names(cls, data_root: Path) -> list[str]:
        """Every folder below the data root that holds `train/good`."""
        if not data_root.is_dir():
            raise UserError(f"data root {data_root} does not exist; correct --data-root (or ANOMALY_BENCH_DATA).")
        return sorted(path.name for path in data_root.iterdir() if (path / "train" / "good").is_dir())

    @classmethod
    def category_folder(cls, data_root: Path, category: str) -> Path:
        """`<data-root>/<category>`."""
        cls.check_category(data_root, category)
        return data_root / category


DATASET = Folder
