"""MVTec AD: 15 categories of industrial objects and textures.

Source      Bergmann et al., "MVTec AD - A Comprehensive Real-World Dataset for Unsupervised Anomaly Detection",
            CVPR 2019, table 1: 3629 training and 1725 test images. Licence CC BY-NC-SA 4.0.
Layout      <data-root>/mvtec/<category>/{train/good, test/<defect>, ground_truth/<defect>/<image>_mask.png}
"""

from __future__ import annotations

from pathlib import Path

from anomaly_bench.data.base import AnomalyDataModule, Counts, Official
from anomaly_bench.data.fetch import Archive
from anomaly_bench.data.layout import find_category

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

ARCHIVE = Archive(
    title="MVTec AD",
    # MVTec renews this link now and then, and old ones answer 404; its page has the newest, for --url.
    url="https://www.mydrive.ch/shares/150996/b52ecdcbf521176e9db9c731f2304b27/download/420938113-1629960298/"
    "mvtec_anomaly_detection.tar.xz",
    page="https://www.mvtec.com/research-teaching/datasets/mvtec-ad",
    folder=FOLDERS[0],
    holds=("train", "test", "ground_truth"),
    licence="CC BY-NC-SA 4.0 (no commercial use)",
    citation="Bergmann, Fauser, Sattlegger, Steger: MVTec AD, CVPR 2019; Bergmann, Batzner, Fauser, Sattlegger, "
    "Steger: The MVTec Anomaly Detection Dataset, IJCV 129, 2021",
    # MVTec publishes no checksum; this one is what several projects give for its 5,264,982,680 bytes.
    sha256="cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d",
    sha256_source="anomalib (MVTec publishes none)",
)


class MVTecAD(AnomalyDataModule):
    """One category of MVTec AD, see `AnomalyDataModule`."""

    revision = 1
    categories = tuple(OFFICIAL)
    archive = ARCHIVE

    @classmethod
    def category_folder(cls, data_root: Path, category: str) -> Path:
        """`<data-root>/mvtec/<category>`; two other names of the first folder are common, and accepted."""
        return find_category(data_root, FOLDERS, category, title="MVTec AD")

    @classmethod
    def official(cls, category: str) -> Official:
        """As published."""
        train, good, defective, side = OFFICIAL[category]
        return Official(Counts(train, good, defective, masks=defective), (side, side))


DATASET = MVTecAD
