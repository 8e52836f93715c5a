"""Generated images: photographs that scikit-image ships, with painted defects and exact masks.

Made on first use below <data-root>/synthetic-v<revision>, in MVTec AD's layout; no download. They exist so that
everything can be run and tested anywhere: their numbers mean nothing, and are never committed.
"""

from __future__ import annotations

from pathlib import Path

from anomaly_bench.data.base import AnomalyDataModule, Counts, Official
from anomaly_bench.data.synthetic_images import (
    CATEGORIES,
    DEFECT_COUNT,
    DEFECTS,
    GENERATOR_REVISION,
    GOOD_COUNTS,
    SIDE,
    generate_category,
)
from anomaly_bench.errors import UserError


class Synthetic(AnomalyDataModule):
    """One generated category, see `AnomalyDataModule`."""

    revision = GENERATOR_REVISION
    categories = tuple(CATEGORIES)
    publishable = False

    @classmethod
    def category_folder(cls, data_root: Path, category: str) -> Path:
        """The category's folder, generated where it is not there yet."""
        cls.check_category(data_root, category)
        folder = data_root / f"synthetic-v{GENERATOR_REVISION}" / category
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            generate_category(category, folder)
        except OSError as error:
            raise UserError(
                f"cannot write generated images to {folder} ({error.strerror}); choose another --data-root."
            ) from error
        return folder

    @classmethod
    def official(cls, category: str) -> Official:
        """What the generator makes."""
        defective = DEFECT_COUNT * len(DEFECTS[category])
        return Official(Counts(GOOD_COUNTS["train"], GOOD_COUNTS["test"], defective, masks=defective), (SIDE, SIDE))


DATASET = Synthetic
