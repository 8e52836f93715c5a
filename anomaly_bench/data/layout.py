"""Folders as MVTec AD lays them out: <category>/{train/good, test/<defect>, ground_truth/<defect>}."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from anomaly_bench.errors import UserError

GOOD = "good"
Split = Literal["train", "test"]
# What Pillow and OpenCV both read; upper case counts too.
IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2",
)  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """One image: `name` is its path below the category, `defect` its kind; the label comes from that kind."""

    path: Path
    name: str
    defect: str
    mask: Path | None = None

    @property
    def anomalous(self) -> bool:
        return self.defect != GOOD


def mvtec_samples(folder: Path, split: Split, *, good: str = GOOD, mask_ending: str = "_mask") -> list[Sample]:
    """All images of a split, sorted by name; a training image outside the good folder is never used.

    Args:
        folder: the category's.
        split: which of the two.
        good: name of the folders of normal images; their samples' defect is `GOOD` whatever it is.
        mask_ending: stands behind the image's stem in the name of its mask; a mask without it is found too.

    Raises:
        UserError: a folder cannot be read.
    """
    samples = []
    for defect in _folders(folder / split):
        normal = defect.name == good
        if split == "train" and not normal:
            continue
        masks_folder = folder / "ground_truth" / defect.name
        masks = {path.stem: path for path in image_files(masks_folder)}
        for path in image_files(defect):
            mask = None if normal else _mask_of(path.stem, masks, masks_folder, mask_ending)
            name = f"{split}/{defect.name}/{path.name}"
            samples.append(Sample(path, name, GOOD if normal else defect.name, mask))
    return samples


def _mask_of(stem: str, masks: dict[str, Path], folder: Path, ending: str) -> Path:
    """`<stem><ending>`, or plainly `<stem>`; where there is none, the path at which it is missed."""
    return masks.get(f"{stem}{ending}") or masks.get(stem) or folder / f"{stem}{ending}.png"


def image_files(folder: Path) -> list[Path]:
    """Files with an image's suffix, hidden ones left out, sorted by name; none where there is no such folder."""
    return entries(folder, lambda path: path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir())


def entries(folder: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    """What a folder holds that is `wanted` and not hidden, sorted.

    Raises:
        UserError: the folder cannot be read, or a name in it cannot be written down.
    """
    try:
        found = sorted(path for path in folder.iterdir() if path.name[0] != "." and wanted(path))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"folder {folder} cannot be read ({error.strerror}); mend or remove it.") from error
    for path in found:
        if _undecoded(path.name):
            raise UserError(f"the name {os.fsencode(path.name)!r} in folder {folder} is not UTF-8; rename it.")
    return found


def _undecoded(name: str) -> bool:
    """Whether it holds bytes that are no text, as names unpacked from archives of other systems may."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return True
    return False


def is_folder(path: Path) -> bool:
    """Whether it is one and may be looked into; somebody else's `lost+found` beside the data is none."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _folders(folder: Path) -> list[Path]:
    found = entries(folder, lambda path: path.is_dir() or path.is_symlink())
    for path in found:
        if path.is_symlink() and not path.exists():
            raise UserError(f"link {path} leads nowhere or in a circle; mend or remove it.")
    return [path for path in found if path.is_dir()]


def find_category(data_root: Path, roots: Sequence[str], category: str, *, title: str) -> Path:
    """`<data-root>/<root>/<category>` by any of a data set's `roots`, the names under which its folder is known.

    Raises:
        UserError: it is in none of them; says where it belongs. `title` is the data set's name.
    """
    present = [data_root / name for name in roots if is_folder(data_root / name)]
    for root in present:
        if is_folder(root / category):
            return root / category
    if present:
        raise UserError(f"{title}'s {category} is not in {present[0]}; put it there, or choose other categories.")
    raise UserError(missing_data_set(data_root, f"{roots[0]}/{category}", title, inside=f"{category}/train"))


def missing_data_set(data_root: Path, expected: str, title: str, *, inside: str) -> str:
    """That a data set is not below the data root; a data root that holds `inside` itself was meant one level up."""
    if (data_root / inside).exists():
        remedy = f"pass --data-root {data_root.resolve().parent}"
    else:
        remedy = "correct --data-root (or ANOMALY_BENCH_DATA), or see the README for where to get it"
    return f"no {title} in {data_root}: expected {data_root / expected}; {remedy}."
