"""Draws the synthetic data set: anomaly detection images in MVTec AD's layout, with nothing to download.

Source      four photographs inside scikit-image's wheel: brick, grass, gravel (512 x 512) and 24 coins (303 x 384).
Clean       textures: a random crop, flip and brightness; coins: one coin, turned a little, on a smooth ground.
Split       textures: train from the photograph's left part, test from its right; 16 coins train, 8 others test.
Defects     painted into clean test images. The mask is exact: every pixel outside it is the clean image's, every pixel
            inside it differs by at least `VISIBLE` grey levels in some channel.
Sameness    an image depends on (revision, category, split, index) alone, so any image can be made without the others.
            Drawing is integer arithmetic, or float64 rounded to grey levels, so that machines agree; a numpy or Pillow
            that drew otherwise would show in the golden numbers of the tests.
Shapes      H = W = 256 for images (H, W, 3) and regions (H, W); lengths are in pixels, intensities in grey levels.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from skimage import data, measure, morphology, segmentation

Pixels = NDArray[np.uint8]
Region = NDArray[np.bool_]
Part = Literal["train", "test"]

CATEGORIES: tuple[str, ...] = ("brick", "coins", "grass", "gravel")
GENERATOR_REVISION = 1  # seeds every image: raise it when any pixel moves
GOOD_COUNTS: dict[Part, int] = {"train": 40, "test": 10}
DEFECT_COUNT = 6  # images of each kind
SIDE = 256
VISIBLE = 8  # smallest change of a defective pixel, in grey levels of its most changed channel

TEXTURE_DEFECTS = ("blob", "blur", "patch", "scratch", "spot")
OBJECT_DEFECTS = ("blob", "blur", "missing", "scratch", "spot")
DEFECTS = {"brick": TEXTURE_DEFECTS, "coins": OBJECT_DEFECTS, "grass": TEXTURE_DEFECTS, "gravel": TEXTURE_DEFECTS}
# A folder's place in this list is part of its images' seeds: append only.
SPLITS = ("train/good", "test/good", *(f"test/{name}" for name in (*TEXTURE_DEFECTS, "missing")))

# Red, green, blue gains of the grey photographs; none above 1, so that no highlight saturates.
TINTS = {
    "brick": (1.0, 0.84, 0.76),
    "coins": (1.0, 0.94, 0.80),
    "grass": (0.86, 1.0, 0.70),
    "gravel": (1.0, 0.97, 0.92),
}
# Eight columns lie between the parts. Columns, because the bricks shrink towards the top: both parts hold every size.
TEXTURE_COLUMNS: dict[Part, slice] = {"train": slice(0, 288), "test": slice(296, 512)}
CROP_SIDES = (176, 208)  # of the photograph, before resizing to SIDE


@dataclass(frozen=True)
class Scene:
    """A clean image, and what a defect has to know about it."""

    category: str
    pixels: Pixels  # (H, W, 3), within [VISIBLE, 255 - VISIBLE] so that a pixel can always move by VISIBLE
    surface: Region  # (H, W), where defects may lie: the coin, or the whole texture
    ground: Pixels  # (H, W, 3), what a missing piece uncovers; of a texture, the texture itself


@dataclass(frozen=True)
class Defective:
    """A defective image with the clean one it was painted on."""

    clean: Pixels  # (H, W, 3)
    pixels: Pixels  # (H, W, 3)
    mask: Region  # (H, W), exactly the pixels where the two differ


def generate_category(category: str, folder: Path) -> None:
    """Write `<folder>/{train/good,test/good,test/<defect>,ground_truth/<defect>}/000.png` ..., `<name>_mask.png`.

    The folder appears by one rename, whole or not at all. One that already holds something is left as it is: another
    process was faster, and its images are the same. So a folder's name should carry `GENERATOR_REVISION`.
    """
    if category not in CATEGORIES:
        raise ValueError(f"no synthetic category {category!r}; there are {', '.join(CATEGORIES)}")
    if _holds_something(folder):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as workplace:
        draft = Path(workplace) / folder.name
        _write_good(category, draft)
        _write_defective(category, draft)
        try:
            draft.rename(folder)
        except OSError:
            if not _holds_something(folder):  # else another process renamed first
                raise


def clean_image(category: str, part: Part, index: int) -> Pixels:
    """The image `<part>/good/<index>`, (H, W, 3)."""
    return _scene(category, part, _generator(category, f"{part}/good", index)).pixels


def defective_image(category: str, defect: str, index: int) -> Defective:
    """The image `test/<defect>/<index>`. Sizes grow with the index: a handful of images spans small to large."""
    rng = _generator(category, f"test/{defect}", index)
    scene = _scene(category, "test", rng)
    painted, region = PAINTERS[defect](scene, (index + rng.random()) / DEFECT_COUNT, rng)
    mask = region & scene.surface
    pixels = np.where(mask[..., None], _make_visible(scene.pixels, painted), scene.pixels)
    return Defective(scene.pixels, pixels, mask)


def _holds_something(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _write_good(category: str, folder: Path) -> None:
    for part, count in GOOD_COUNTS.items():
        for index in range(count):
            _save(clean_image(category, part, index), folder / part / "good" / f"{index:03}.png")


def _write_defective(category: str, folder: Path) -> None:
    for defect in DEFECTS[category]:
        for index in range(DEFECT_COUNT):
            sample = defective_image(category, defect, index)
            _save(sample.pixels, folder / "test" / defect / f"{index:03}.png")
            mask = np.where(sample.mask, 255, 0).astype(np.uint8)
            _save(mask, folder / "ground_truth" / defect / f"{index:03}_mask.png")


def _save(pixels: Pixels, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Level 1 writes three times as fast as the default, for files hardly larger: photographs compress badly anyway.
    Image.fromarray(pixels).save(path, compress_level=1)


def _generator(category: str, split: str, index: int) -> Generator:
    return np.random.default_rng((GENERATOR_REVISION, CATEGORIES.index(category), SPLITS.index(split), index))


# Clean images


def _scene(category: str, part: Part, rng: Generator) -> Scene:
    return _coin(part, rng) if category == "coins" else _texture(category, part, rng)


def _texture(category: str, part: Part, rng: Generator) -> Scene:
    """A square crop of the part's columns, flipped half of the time."""
    photograph = load_photograph(category)[:, TEXTURE_COLUMNS[part]]
    side = int(rng.integers(CROP_SIDES[0], CROP_SIDES[1], endpoint=True))
    top, left = (int(rng.integers(length - side, endpoint=True)) for length in photograph.shape)
    crop = photograph[top : top + side, left : left + side]
    flipped = crop[:, ::-1] if rng.random() < 0.5 else crop
    resized = Image.fromarray(np.ascontiguousarray(flipped)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    pixels = _tint(category, np.asarray(resized, dtype=np.float64), rng.uniform(0.9, 1.1))
    return Scene(category, pixels, np.ones((SIDE, SIDE), dtype=np.bool_), ground=pixels)


def _coin(part: Part, rng: Generator) -> Scene:
    """One of the part's coins, turned, shifted and scaled a little, laid on a smooth ground."""
    outlines = coin_outlines(part)
    outline = outlines[int(rng.integers(len(outlines)))]
    photograph = np.where(outline, load_photograph("coins"), 0).astype(np.uint8)
    # The opacity falls off inside the outline only: nothing beside the coin, where other coins lie, is ever seen.
    opacity = np.asarray(Image.fromarray(morphology.erosion(outline)).convert("L").filter(ImageFilter.BoxBlur(1)))
    place = _coin_placement(outline, rng)
    grey = _place(photograph, place)
    alpha = _place(opacity, place) / 255.0
    gain = rng.uniform(0.9, 1.1)
    ground = _smooth_ground(rng)
    pixels = _tint("coins", alpha * grey + (1 - alpha) * ground, gain)
    return Scene("coins", pixels, alpha > 0.05, _tint("coins", ground, gain))


def _coin_placement(outline: Region, rng: Generator) -> tuple[float, ...]:
    """PIL's affine coefficients, output to input: diameter 150 to 176, turn up to 12 degrees, shift up to 8 pixels."""
    diameter, angle = rng.uniform(150, 176), math.radians(rng.uniform(-12, 12))
    rows, columns = np.nonzero(outline)
    zoom = 2 * math.sqrt(rows.size / math.pi) / diameter
    a, b = zoom * math.cos(angle), zoom * math.sin(angle)
    x, y = SIDE / 2 + rng.uniform(-8, 8), SIDE / 2 + rng.uniform(-8, 8)
    return a, b, float(columns.mean()) + 0.5 - a * x - b * y, -b, a, float(rows.mean()) + 0.5 + b * x - a * y


def _place(grey: Pixels, placement: tuple[float, ...]) -> NDArray[np.float64]:
    """A part of the coins' photograph, moved to where the coin shall lie: (303, 384) to (H, W)."""
    moved = Image.fromarray(grey).transform(
        (SIDE, SIDE), Image.Transform.AFFINE, placement, resample=Image.Resampling.BICUBIC
    )
    return np.asarray(moved, dtype=np.float64)


def _smooth_ground(rng: Generator) -> NDArray[np.float64]:
    """A dark plane that brightens slowly in some direction, (H, W)."""
    down, right = rng.uniform(-12, 12, size=2)
    steps = np.linspace(-0.5, 0.5, SIDE)
    return np.asarray(rng.uniform(45, 60) + down * steps[:, None] + right * steps)


def _tint(category: str, grey: NDArray[np.float64], gain: float) -> Pixels:
    """Colour a grey image, (H, W) to (H, W, 3)."""
    colours = grey[..., None] * (gain * np.asarray(TINTS[category]))
    return np.clip(np.rint(colours), VISIBLE, 255 - VISIBLE).astype(np.uint8)


@lru_cache(maxsize=len(CATEGORIES))
def load_photograph(name: str) -> Pixels:
    """One of the photographs, grey."""
    load: Callable[[], Pixels] = {
        "brick": data.brick, "coins": data.coins, "grass": data.grass, "gravel": data.gravel,
    }[name]  # fmt: skip
    return load()


@lru_cache(maxsize=2)
def coin_outlines(part: Part) -> tuple[Region, ...]:
    """The filled outlines of the part's coins, (303, 384) each; every third coin is a test coin, two in each row."""
    photograph = load_photograph("coins")
    edges = morphology.dilation(photograph).astype(np.int32) - morphology.erosion(photograph)
    # 30 is below every coin, 150 above the ground even in its bright corner; the watershed decides what is between.
    seeds = np.where(photograph > 150, 2, np.where(photograph < 30, 1, 0))
    basins = segmentation.watershed(edges, seeds)  # type: ignore[no-untyped-call]
    labels = measure.label(basins == 2)  # type: ignore[no-untyped-call]
    outlines = []
    for coin in measure.regionprops(labels):  # type: ignore[no-untyped-call]
        if coin.area > 300:  # square pixels; the smallest coin has 1079, dust a few
            outline = np.zeros(photograph.shape, dtype=np.bool_)
            outline[coin.slice] = coin.image_filled
            outlines.append(outline)
    return tuple(outline for number, outline in enumerate(outlines) if (number % 3 == 1) == (part == "test"))


# Defects: each returns painted pixels (H, W, 3) and the region (H, W) where they replace the clean ones. A defect's
# size is in [0, 1).


def _paint_blob(scene: Scene, size: float, rng: Generator) -> tuple[Pixels, Region]:
    """A large half transparent stain."""
    colour, opacity = _contrasting_colour(scene, rng), rng.uniform(0.35, 0.75)
    stained = np.rint((1 - opacity) * scene.pixels + opacity * colour)
    return stained.astype(np.uint8), _lump(_pick(scene.surface, rng), 16 + 44 * size, rng)


def _paint_blur(scene: Scene, size: float, rng: Generator) -> tuple[Pixels, Region]:
    """The texture worn away: blurred, and a little darker, so that it shows where there was little texture too."""
    blurred = Image.fromarray(scene.pixels).filter(ImageFilter.BoxBlur(6)).filter(ImageFilter.BoxBlur(6))
    darkened = np.maximum(np.asarray(blurred, dtype=np.int16) - rng.integers(12, 20), 0)
    return darkened.astype(np.uint8), _lump(_pick(scene.surface, rng), 14 + 36 * size, rng)


def _paint_missing(scene: Scene, size: float, rng: Generator) -> tuple[Pixels, Region]:
    """A piece broken off the rim; the ground shows."""
    rim = scene.surface & ~morphology.erosion(scene.surface)
    return scene.ground, _lump(_pick(rim, rng), 10 + 36 * size, rng)


def _paint_patch(scene: Scene, size: float, rng: Generator) -> tuple[Pixels, Region]:
    """A rectangle of another texture, in this image's colour and mean brightness."""
    others = [name for name in CATEGORIES if name not in (scene.category, "coins")]
    photograph = load_photograph(others[int(rng.integers(len(others)))])
    other = photograph[:SIDE, :SIDE] / photograph[:SIDE, :SIDE].mean()
    painted = np.clip(np.rint(other[..., None] * scene.pixels.mean(axis=(0, 1))), 0, 255).astype(np.uint8)
    row, column = _pick(scene.surface, rng)
    height, width = ((14 + 90 * size) * rng.uniform(0.8, 1.2, size=2)).astype(int)
    region = np.zeros(scene.surface.shape, dtype=np.bool_)
    region[max(0, row - height // 2) : row + height // 2, max(0, column - width // 2) : column + width // 2] = True
    return painted, region


def _paint_scratch(scene: Scene, size: float, rng: Generator) -> tuple[Pixels, Region]:
    """A thin, slightly bent line, 30 to 180 pixels long and one to three wide."""
    corners = _trace(_pick(scene.surface, rng), 30 + 150 * size, rng)
    canvas = Image.new("1", (SIDE, SIDE))
    ImageDraw.Draw(canvas).line(corners, fill=1, width=1 + int(3 * size))
    return np.full_like(scene.pixels, _contrasting_colour(scene, rng)), np.array(canvas)


def _paint_spot(scene: Scene, size: float, rng: Generator) -> tuple[Pixels, Region]:
    """A few round dots, one to three pixels in radius."""
    region = np.zeros(scene.surface.shape, dtype=np.bool_)
    rows, columns = np.ogrid[:SIDE, :SIDE]
    for _ in range(int(rng.integers(3, 8))):
        row, column = _pick(scene.surface, rng)
        region |= (rows - row) ** 2 + (columns - column) ** 2 <= (1 + int(3 * size)) ** 2
    return np.full_like(scene.pixels, _contrasting_colour(scene, rng)), region


PAINTERS: dict[str, Callable[[Scene, float, Generator], tuple[Pixels, Region]]] = {
    "blob": _paint_blob,
    "blur": _paint_blur,
    "missing": _paint_missing,
    "patch": _paint_patch,
    "scratch": _paint_scratch,
    "spot": _paint_spot,
}


def _pick(region: Region, rng: Generator) -> tuple[int, int]:
    """Row and column of a random pixel of the region."""
    rows, columns = np.nonzero(region)
    chosen = int(rng.integers(rows.size))
    return int(rows[chosen]), int(columns[chosen])


def _lump(centre: tuple[int, int], radius: float, rng: Generator) -> Region:
    """An irregular disc, (H, W): its edge lies at radius (1 + sum_k a_k cos(k angle + phase_k)), k = 2 ... 5."""
    rows, columns = np.ogrid[:SIDE, :SIDE]
    down, right = rows - centre[0], columns - centre[1]
    angle = np.arctan2(down, right)
    edge = np.ones((SIDE, SIDE))
    for wave in range(2, 6):
        edge += rng.uniform(0, 0.3 / wave) * np.cos(wave * angle + rng.uniform(0, 2 * math.pi))
    return np.asarray(np.hypot(down, right) <= radius * edge)


def _trace(middle: tuple[int, int], length: float, rng: Generator) -> list[tuple[int, int]]:
    """Eleven corners (x, y) of a bent line around its middle (row, column)."""
    headings = rng.uniform(0, 2 * math.pi) + np.cumsum(rng.uniform(-0.25, 0.25, size=10))
    x = np.cumsum(np.append(0, np.cos(headings))) * length / 10
    y = np.cumsum(np.append(0, np.sin(headings))) * length / 10
    return [(round(right), round(down)) for right, down in zip(x - x[5] + middle[1], y - y[5] + middle[0], strict=True)]


def _contrasting_colour(scene: Scene, rng: Generator) -> Pixels:
    """The surface's mean colour, 50 to 100 grey levels darker or brighter and a little off its hue, (3,)."""
    mean = scene.pixels[scene.surface].mean(axis=0)
    contrast = rng.uniform(50, 100) * rng.choice([-1.0, 1.0])
    colour: NDArray[np.float64] = np.rint(mean + contrast + rng.uniform(-20, 20, size=3))
    return np.clip(colour, 0, 255).astype(np.uint8)


def _make_visible(clean: Pixels, painted: Pixels) -> Pixels:
    """Move the pixels that a defect left nearly as they were by `VISIBLE`, in the direction it took them.

    A blur or a stain meets some pixels whose value it would keep. They belong to the defect all the same, and a mask
    that left them out would be riddled with holes; a mask that held them would not be exact.
    """
    change = painted.astype(np.int16) - clean
    faint = np.abs(change).max(axis=2) < VISIBLE
    step = np.where(change.sum(axis=2) < 0, -VISIBLE, VISIBLE).astype(np.int16)
    return np.where(faint[..., None], clean + step[..., None], painted).astype(np.uint8)
