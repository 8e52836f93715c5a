"""Reading images and masks as RD4AD does: Pillow, resized to a square with bilinear interpolation."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from anomaly_bench.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class DecodedImage:
    """`pixels`: (size, size, 3) uint8; `full_size`: (height, width) of the file, in pixels."""

    pixels: NDArray[np.uint8]
    full_size: tuple[int, int]


@dataclass(frozen=True)
class DecodedMask:
    """`pixels`: (size, size) bool; `full_size`: (height, width); `share`: anomalous part of all pixels, full size."""

    pixels: NDArray[np.bool_]
    full_size: tuple[int, int]
    share: float
    binary: bool


def parallel(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`[function(item) for item in items]` on all cores: Pillow lets go of the interpreter while it decodes."""
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return list(pool.map(function, items))


def open_image(path: Path) -> Image.Image:
    """A fully decoded image.

    Raises:
        UserError: the file is missing, is no image, or is damaged.
    """
    try:
        image = Image.open(io.BytesIO(path.read_bytes()))
        image.load()
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is not an image; replace or remove it.") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read ({error}); replace or remove it.") from error
    return image


def full_size(path: Path) -> tuple[int, int]:
    """(height, width) from the file's header, in pixels; raises UserError where there is none."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except OSError as error:
        raise UserError(f"{path} is not an image; replace or remove it.") from error


def read_image(path: Path, size: int) -> DecodedImage:
    """One RGB image; grey ones get three equal channels."""
    image = open_image(path)
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would cut at 255 instead of scaling them
        image = Image.fromarray((np.asarray(image).astype(np.uint32) // 257).astype(np.uint8))
    # Pillow's bilinear filter widens when it shrinks an image (antialiasing), as torchvision's Resize in RD4AD did.
    resized = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    return DecodedImage(np.asarray(resized), (image.height, image.width))


def read_mask(path: Path, size: int) -> DecodedMask:
    """One mask: bilinear, then above one half is anomalous (RD4AD); its highest value, 1 or 255, is a whole."""
    image = open_image(path).convert("L")
    full = np.asarray(image)
    highest = max(int(full.max()), 1)
    binary = bool(np.isin(full, (0, highest)).all())
    full = np.round(full * (255 / highest)).astype(np.uint8)
    image = Image.fromarray(full)
    small = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
    return DecodedMask(small > 127, full.shape, float((full > 127).mean()), binary)


def manifest_sha256(files: Sequence[tuple[str, Path]]) -> str:
    """One hash for the content of all files: SHA-256 over the sorted lines `<sha256 of the file>  <name>`."""

    def line(entry: tuple[str, Path]) -> str:
        name, path = entry
        try:
            return f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}\n"
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); replace or remove it.") from error

    return hashlib.sha256("".join(parallel(line, sorted(files))).encode()).hexdigest()
