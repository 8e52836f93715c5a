"""MVTec AD: 15 categories of industrial objects and textures.

Source      Bergmann et al., "MVTec AD - A Comprehensive Real-World Dataset for Unsupervised Anomaly Detection",
            CVPR 2019, table 1: 3629 training and 1725 test images. Licence CC BY-NC-SA 4.0.
Layout      <data-root>/mvtec/<category>/{train/good, test/<defect>, ground_truth/<defect>/<image>_mask.png}
"""

from __future__ import annotations

from pathlib import Path

from anomaly_bench.data.base import AnomalyDataModule, Counts, Official
from anomaly_bench.errors import UserError

FOLDERS = ("mvtec", "mvtec_anomaly_detection", "MVTecAD")

# Training images, good test images, defective test images (every one with a mask), image side in pixels.
OFFICIAL = {
    "bottle": (209, 20, 63, 900),
    "cable": (224, 58, 92, 1024),
    "capsule": (219, 23, 109, 1000),
    "carpet": (280, 28, 89, 1024),
    "grid": (264, 21, 57, 1024),
    "hazelnut": (391, 40, 70, 1024),
    "leather": (245, 32, 92, 1024),
    "metal_nut": (220, 22, 93, 700),
    "pill": (267, 26, 141, 800),
    "screw": (320, 41, 119, 1024),
    "tile": (230, 33, 84, 840),
    "toothbrush": (60, 12, 30, 1024),
    "transistor": (213, 60, 40, 1024),
    "wood": (247, 19, 60, 1024),
    "zipper": (240, 32, 119, 1024),
}


class MVTecAD(AnomalyDataModule):
    """One category of MVTec AD, see `AnomalyDataModule`."""

    revision = 1

    @classmethod
    def category_names(cls, data_root: Path) -> list[str]:
        """The 15 official ones, wherever the data are."""
        return list(OFFICIAL)

    @classmethod
    def category_folder(cls, data_root: Path, category: str) -> Path:
        """`<data-root>/mvtec/<category>`; two other names of the first folder are common, and accepted."""
        roots = [data_root / name for name in FOLDERS if (data_root / name).is_dir()]
        for root in roots:
            if (root / category).is_dir():
                return root / category
        if roots:
            raise UserError(f"MVTec AD's {category} is not in {roots[0]}; put it there, or choose other categories.")
        inside = (data_root / category / "train").is_dir()
        remedy = (
            f"pass --data-root {data_root.resolve().parent}"
            if inside
            else "correct --data-root (or ANOMALY_BENCH_DATA), or see the README for where to get it"
        )
        raise UserError(f"no MVTec AD in {data_root}: expected {data_root / FOLDERS[0] / category}; {remedy}.")

    @classmethod
    def official(cls, category: str) -> Official:
        """As published."""
        train, good, defective, side = OFFICIAL[category]
        return Official(Counts(train, good, defective, masks=defective), (side, side))


DATASET = MVTecAD
