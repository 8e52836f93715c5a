"""The metrics on anomaly maps that any program made: two folders, matched by relative path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_bench.errors import UserError
from anomaly_bench.metrics import METRICS_REVISION, NonFiniteError, anomaly_panel

MAP_SUFFIXES = (".npy", ".tiff", ".tif", ".png")
MASK_SUFFIXES = (".png", ".tiff", ".tif", ".bmp", ".jpg", ".jpeg", ".npy")
MASK_ENDING = "_mask"


def score_folders(maps_dir: Path, masks_dir: Path) -> dict[str, Any]:
    """All metrics of the maps in one folder against the masks in another.

    A map `a/b.npy` belongs to the mask `a/b.png` or `a/b_mask.png`. An image without a mask, or with an empty one,
    is normal; its score is the largest value of its map.

    Args:
        maps_dir: .npy, .tiff or .png files, one channel.
        masks_dir: image files, above half of their highest value where anomalous, as large as the map.

    Returns:
        The eight metrics, `undefined` reasons, and counts of images.

    Raises:
        UserError: a folder or file cannot be used; names it.
    """
    map_files, mask_files = _by_key(maps_dir, MAP_SUFFIXES), _by_key(masks_dir, MASK_SUFFIXES, ending=MASK_ENDING)
    lonely = sorted(mask_files.keys() - map_files.keys())
    if lonely:
        raise UserError(
            f"mask {mask_files[lonely[0]]} has no map {maps_dir / lonely[0]}.*; add it, or remove the mask."
        )
    names = sorted(map_files)
    maps = [_read(map_files[name]) for name in names]
    masks = [_mask(mask_files.get(name), image, map_files[name]) for name, image in zip(names, maps, strict=True)]
    labels = [bool(mask.any()) for mask in masks]
    scores = np.array([image.max() for image in maps])
    try:
        panel = anomaly_panel(maps, scores, labels, masks, names=[str(map_files[name]) for name in names])
    except NonFiniteError as error:
        raise UserError(f"{error}; make the map again.") from error
    empty = sum(name in mask_files and not label for name, label in zip(names, labels, strict=True))
    counts = {"images": len(names), "anomalous_images": sum(labels), "empty_masks": empty}
    return {**panel.values, "undefined": panel.undefined, **counts, "metrics_revision": METRICS_REVISION}


def _by_key(folder: Path, suffixes: tuple[str, ...], ending: str = "") -> dict[str, Path]:
    """Files by their path below the folder, without suffix and `ending`."""
    if not folder.is_dir():
        raise UserError(f"folder {folder} does not exist; correct the path.")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in suffixes or path.name.startswith(".") or not path.is_file():
            continue
        key = path.relative_to(folder).with_suffix("").as_posix().removesuffix(ending)
        if key in found:
            raise UserError(f"{found[key]} and {path} both stand for '{key}'; keep one of them.")
        found[key] = path
    if not found:
        raise UserError(f"no {', '.join(suffixes)} files in {folder}; correct the path.")
    return found


def _read(path: Path) -> NDArray[Any]:
    """(H, W) of any numeric type; an image with equal channels counts as grey."""
    import cv2

    if path.suffix.lower() == ".npy":
        try:
            array = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise UserError(f"{path} is not a NumPy array ({error}); replace it.") from error
        array = np.squeeze(array)
    else:
        array = (
            cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
            if path.stat().st_size
            else None
        )
        if array is None:
            raise UserError(f"{path} is not an image that can be read; replace it.")
        if array.ndim == 3 and (array[..., :3] == array[..., :1]).all():
            array = array[..., 0]
    usable = np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating) or array.dtype == bool
    if array.ndim != 2 or not array.size or not usable:
        raise UserError(f"{path} has shape {array.shape} and type {array.dtype}; a map is one number a pixel.")
    return np.asarray(array)


def _mask(path: Path | None, image: NDArray[Any], map_path: Path) -> NDArray[np.bool_]:
    if path is None:
        return np.zeros(image.shape, dtype=bool)
    values = _read(path)
    mask = values > max(float(values.max()), 1.0) / 2  # as everywhere: above one half of a whole, 1 or 255
    if mask.shape != image.shape:
        sizes = "{1}x{0} pixels, its mask {3}x{2}".format(*image.shape, *mask.shape)
        raise UserError(f"map {map_path} has {sizes}; resize the one or the other.")
    return np.asarray(mask)
