"""Reading images and masks as RD4AD does: Pillow, resized to a square with bilinear interpolation.

Beyond it    RD4AD only ever met upright PNGs of 8 bits. An image whose EXIF or XMP data say that it is to be turned is
             turned, as every viewer shows it and as its mask was drawn over it. 16 bits a channel are scaled to 8.
Speed        A plain PNG is decoded by kornia-rs, in less than half of Pillow's time and to the same pixels: it is
             lossless, so there is one right answer. It holds Python's lock meanwhile, and other threads resize: torch
             where every pixel is Pillow's, in a third of its time, else Pillow. Every other format is Pillow's alone.
Memory       A file is decoded whole, at its own size: a JPEG could be decoded smaller, but to other pixel values. All
             threads together hold `PIXELS_AT_ONCE` pixels, or one image that is larger: 4 bytes a pixel in Pillow, and
             as many again while one is turned, comes from kornia-rs or changes its mode.
Limit        Pillow refuses images above twice its `MAX_IMAGE_PIXELS`, 179 million pixels; so do we.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeGuard, TypeVar

import kornia_rs.io
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile

from anomaly_bench.errors import UserError

Whole = Image.Image | NDArray[np.uint8]  # at its own size; an array is (height, width) or (height, width, 3)
Item = TypeVar("Item")
Result = TypeVar("Result")

PIXELS_AT_ONCE = 150_000_000  # one image of 12000x12000; hundreds of the usual size
READ_AT_ONCE = 64 * 2**20  # bytes of a file; a larger one is read as it is decoded
COPIED_AT_MOST = PIXELS_AT_ONCE // 4  # a larger PNG is read by Pillow, row by row, and held once
# An image so many times as wide and high is shrunk by torch: its weights, eighths or thirty-seconds, are exact in both
# libraries, so every pixel is equal. At other factors torch's rounding of the weights moves some pixels by 1.
SAME_AS_PILLOW = (2, 4)
PORTIONS = 32  # a thread takes so many portions of the work: each costs a switch of threads, and the last ones a wait
# By the EXIF tag's value: what makes the stored image the one that is shown.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Between once and twice its limit Pillow warns. A large photograph is no attack; above twice it still raises.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class DecodedImage:
    """`pixels`: (size, size, 3) uint8; `full_size`: (height, width) of the image as shown, in pixels."""

    pixels: NDArray[np.uint8]
    full_size: tuple[int, int]


@dataclass(frozen=True)
class DecodedMask:
    """`pixels`: (size, size) bool; `full_size`: (height, width); `share`: anomalous part of all pixels, full size."""

    pixels: NDArray[np.bool_]
    full_size: tuple[int, int]
    share: float
    binary: bool


class PixelBudget:
    """Lets threads hold so many pixels at once; who wants more than there are waits until all are free."""

    def __init__(self, pixels: int) -> None:
        self.total = self.free = pixels
        self.changed = threading.Condition()

    @contextmanager
    def reserve(self, pixels: int) -> Iterator[None]:
        wanted = min(pixels, self.total)
        with self.changed:
            self.changed.wait_for(lambda: self.free >= wanted)
            self.free -= wanted
        try:
            yield
        finally:
            with self.changed:
                self.free += wanted
                self.changed.notify_all()


BUDGET = PixelBudget(PIXELS_AT_ONCE)


def parallel(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`[function(item) for item in items]` on all cores: Pillow lets go of the interpreter while it decodes."""
    waiting, workers = list(items), os.cpu_count() or 1
    length = max(1, len(waiting) // (PORTIONS * workers))
    portions = [waiting[start : start + length] for start in range(0, len(waiting), length)]
    with ThreadPoolExecutor(workers) as pool:
        done = pool.map(lambda portion: list(map(function, portion)), portions)
        return [result for portion in done for result in portion]


@contextmanager
def whole_image(path: Path) -> Iterator[Whole]:
    """A fully decoded image, turned as it is shown; a plain PNG as its array, whose copy into Pillow would cost more
    than shrinking it.

    Raises:
        UserError: the file is missing, is no image, is damaged, or is too large.
    """
    with ExitStack() as held:
        with in_one_sentence(path):
            file = held.enter_context(_opened(path))
            header = Image.open(file)
            orientation, plain = _orientation(header), _is_plain_png(header)
            copies = 2 if plain or orientation in TURNS else 1
            held.enter_context(BUDGET.reserve(copies * header.width * header.height))
            image: Whole = _decoded_png(file, header) if plain else _loaded(header)
            if orientation in TURNS:
                image = _in_pillow(image).transpose(TURNS[orientation])
        yield image


def _loaded(header: Image.Image) -> Image.Image:
    header.load()
    return header


def _in_pillow(image: Whole) -> Image.Image:
    return image if isinstance(image, Image.Image) else Image.fromarray(image)


def _height_and_width(image: Whole) -> tuple[int, int]:
    return (image.height, image.width) if isinstance(image, Image.Image) else image.shape[:2]


def _opened(path: Path) -> BinaryIO:
    """The file, in memory where it is small: with every read from disk a thread lets go of Python's lock, and waits for
    another one's decoder to give it back."""
    if path.stat().st_size > READ_AT_ONCE:
        return path.open("rb")
    with path.open("rb", buffering=0) as file:
        return io.BytesIO(file.read())


def _is_plain_png(image: Image.Image) -> bool:
    """8 bits of grey or of red, green and blue in rows, nothing else: no palette, transparency or animation."""
    return (
        isinstance(image, PngImageFile)
        and image.mode in ("L", "RGB")
        and [tile.args for tile in image.tile] == [image.mode]  # "RGB;16B" and the like hold other depths
        and not image.is_animated
        and not {"transparency", "interlace"} & image.info.keys()
        and image.width * image.height <= COPIED_AT_MOST
    )


def _decoded_png(file: BinaryIO, header: Image.Image) -> NDArray[np.uint8]:
    """(height, width) or (height, width, 3) from a plain PNG; raises where it is cut short or a checksum is wrong."""
    file.seek(0)
    mode = "mono" if header.mode == "L" else "rgb"
    pixels = kornia_rs.io.decode_image_png_u8(file.read(), (header.height, header.width), mode)
    return pixels[:, :, 0] if header.mode == "L" else pixels


def full_size(path: Path) -> tuple[int, int]:
    """(height, width) as shown, from the file's header, in pixels; raises UserError where there is none."""
    with in_one_sentence(path), Image.open(path) as image:
        on_its_side = _orientation(image) >= 5
        return (image.width, image.height) if on_its_side else (image.height, image.width)


@contextmanager
def in_one_sentence(path: Path) -> Iterator[None]:
    """Turns whatever goes wrong with a file into a UserError that names it."""
    try:
        yield
    except MemoryError:  # no fault of the file's
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is not an image; replace or remove it.") from error
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise UserError(f"{path} has more than {most} million pixels; replace it by a smaller copy.") from error
    except Exception as error:  # a damaged file leads Pillow's decoders to exceptions of every kind
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise UserError(f"{path} cannot be read ({' '.join(reason.split())}); replace or remove it.") from error


def _orientation(image: Image.Image) -> int:
    """The EXIF tag's value, 1 to 8, as the header has it; a TIFF is turned by Pillow itself."""
    if image.format == "TIFF":
        return 1
    try:
        # Not `image.getexif()`: for a PNG without the tag it would decode all pixels to look behind them.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken EXIF data of a sound image: no reason to refuse it
        return 1
    return value if value in TURNS else 1


def read_image(path: Path, size: int) -> DecodedImage:
    """One RGB image; grey ones get three equal channels, transparency is ignored."""
    pixels = np.empty((size, size, 3), dtype=np.uint8)
    return DecodedImage(pixels, read_image_into(path, pixels))


def read_image_into(path: Path, pixels: NDArray[np.uint8]) -> tuple[int, int]:
    """`read_image` for one place of a larger array, (size, size, 3) uint8; returns (height, width) as shown."""
    with whole_image(path) as image, in_one_sentence(path):
        fill_colours(pixels, _as_colours(image))
        return _height_and_width(image)


def fill_colours(pixels: NDArray[np.uint8], image: Whole) -> None:
    """Resizes an image of mode L or RGB, or such an array, to `pixels`: (size, size, 3) uint8."""
    if image.mode == "L" if isinstance(image, Image.Image) else image.ndim == 2:
        pixels[...] = _square(image, len(pixels))[:, :, None]
    else:
        _fill(pixels, image)


def _square(image: Whole, size: int) -> NDArray[np.uint8]:
    """(size, size) from a grey image."""
    square = np.empty((size, size), dtype=np.uint8)
    _fill(square, image)
    return square


def _fill(square: NDArray[np.uint8], image: Whole) -> None:
    """Resizes as RD4AD did: Pillow's bilinear filter, which widens when it shrinks an image (antialiasing)."""
    size = len(square)
    if _shrinks_alike(image, size):
        # The operation behind `interpolate`, for its `out`: an array more for every image is a tenth of the time.
        source, target = (torch.from_numpy(pixels).permute(2, 0, 1)[None] for pixels in (image, square))
        torch.ops.aten._upsample_bilinear2d_aa.out(source, [size, size], False, out=target)
    else:
        square[...] = np.asarray(_in_pillow(image).resize((size, size), Image.Resampling.BILINEAR))


def _shrinks_alike(image: Whole, size: int) -> TypeGuard[NDArray[np.uint8]]:
    """Whether torch is as exact as Pillow and faster, which it is not for one channel."""
    if isinstance(image, Image.Image) or image.ndim == 2:
        return False
    return image.shape[:2] in {(factor * size, factor * size) for factor in SAME_AS_PILLOW}


def _as_colours(image: Whole) -> Whole:
    """Mode RGB, or L, which has a quarter of the bytes: three equal channels are resized alike."""
    if not isinstance(image, Image.Image):
        return image
    if image.mode.startswith(("I", "F")):
        # 16 bits a pixel, which Pillow would cut at 255 instead of scaling them.
        return Image.fromarray((_sixteen_bits(image) // 257).astype(np.uint8))
    image.info.pop("transparency", None)  # of a palette: Pillow would warn that we ignore it
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _sixteen_bits(image: Image.Image) -> NDArray[np.integer]:
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError("32 bits a pixel; 8 or 16 can be used")
    return values


def read_mask(path: Path, size: int) -> DecodedMask:
    """One mask: bilinear, then above one half is anomalous (RD4AD); its highest value, 1 or 255, is a whole."""
    with whole_image(path) as image, in_one_sentence(path):
        full_size, values = _height_and_width(image), _as_grey(image)
        highest = max(int(values.max()), 1)
        whole = _scaled(np.arange(256), highest)
        share = np.count_nonzero(values >= np.argmax(whole > 127)) / values.size
        binary = np.count_nonzero(values == 0) + np.count_nonzero(values == highest) == values.size
        if highest < 255:
            values = whole[values]
        return DecodedMask(_square(values, size) > 127, full_size, float(share), bool(binary))


def _as_grey(image: Whole) -> NDArray[np.uint8]:
    """(height, width)"""
    if not isinstance(image, Image.Image) and image.ndim == 2:
        return image
    image = _in_pillow(image)
    if image.mode.startswith(("I", "F")):
        values = _sixteen_bits(image)
        return _scaled(np.arange(65536), max(int(values.max()), 1))[values]
    image.info.pop("transparency", None)
    return np.asarray(image if image.mode == "L" else image.convert("L"))


def _scaled(values: NDArray[np.integer], highest: int) -> NDArray[np.uint8]:
    """`highest` becomes 255, and what is above it too."""
    return np.round(np.minimum(values, highest) * (255 / highest)).astype(np.uint8)


def manifest_sha256(files: Sequence[tuple[str, Path]]) -> str:
    """One hash for the content of all files, see `manifest_of`; raises UserError for a file that cannot be read."""

    def digest(entry: tuple[str, Path]) -> tuple[str, str]:
        name, path = entry
        try:
            with path.open("rb") as file:
                return name, hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); replace or remove it.") from error

    return manifest_of(parallel(digest, files))


def manifest_of(digests: Iterable[tuple[str, str]]) -> str:
    """SHA-256 over the lines `<sha256 of the content>  <name>`, sorted by name; takes (name, sha256)."""
    lines = [f"{digest}  {name}\n" for name, digest in sorted(digests)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
