"""MVTec AD's folder layout: <category>/{train/good, test/<defect>, ground_truth/<defect>}."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

GOOD = "good"
Split = Literal["train", "test"]
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")


@dataclass(frozen=True)
class Sample:
    """One image: `name` is its path below the category, `defect` its folder; the label comes from that folder."""

    path: Path
    name: str
    defect: str
    mask: Path | None = None

    @property
    def anomalous(self) -> bool:
        return self.defect != GOOD


def mvtec_samples(folder: Path, split: Split) -> list[Sample]:
    """All images of a split, sorted by name; a training image outside `good` is never used."""
    samples = []
    for defect in _folders(folder / split):
        if split == "train" and defect.name != GOOD:
            continue
        masks_folder = folder / "ground_truth" / defect.name
        masks = {path.stem: path for path in image_files(masks_folder)}
        for path in image_files(defect):
            mask = None if defect.name == GOOD else _mask_of(path.stem, masks, masks_folder)
            samples.append(Sample(path, f"{split}/{defect.name}/{path.name}", defect.name, mask))
    return samples


def _mask_of(stem: str, masks: dict[str, Path], folder: Path) -> Path:
    """MVTec AD's `<stem>_mask`, or plainly `<stem>`; where there is none, the path at which it is missed."""
    return masks.get(f"{stem}_mask") or masks.get(stem) or folder / f"{stem}_mask.png"


def image_files(folder: Path) -> list[Path]:
    """Files with an image's suffix, hidden ones left out, sorted by name."""
    if not folder.is_dir():
        return []
    files = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != "."]
    return sorted(files)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
