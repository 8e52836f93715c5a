"""How a heat-map sheet is laid out: everything in inches, so that cells are square and texts have their room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from anomaly_bench.data.layout import Sample
from anomaly_bench.tables.figures.style import house_style, wrapped

DOTS_PER_INCH = 160  # a cell is then 256 pixels wide, as most images are
CELL, GAP, BELOW, EDGE = 1.6, 0.12, 0.24, 0.2  # inches: an image, between two, the line under one, around all
BAR, BAR_LABELS = 0.1, 0.3
TITLE, HEAD, SMALL = 10.0, 8.0, 6.5  # font sizes in points
LINE = 1.35 / 72  # height in inches of a line of text, for a font size of one point
FRAME = "#bbbbbb"
COLOUR_MAP, OUTLINE = "inferno", "#5fe3ff"  # inferno is even in brightness; no colour of it is near the outline's
LETTERS = 28  # of a file's name, as many as a cell is wide
CAPTION = (
    "Colours: one scale a method, the same for all its maps here, from the 1st percentile of the pixels of all good "
    "test images to the maximum of the maps shown. Methods have different units: compare places, not colours, from "
    "column to column."
)


@dataclass(frozen=True)
class ShownImages:
    """The R images of a sheet.

    Attributes:
        samples: R of them.
        positions: R indices into the test images.
        pixels: (R, H, W, 3).
        masks: (R, H, W), or None where the data set has none.
    """

    samples: list[Sample]
    positions: list[int]
    pixels: NDArray[np.uint8]
    masks: NDArray[np.bool_] | None


@dataclass(frozen=True)
class MapColumn:
    """One method's column.

    Attributes:
        label: the method, with its options.
        trained: how it was trained, in words.
        maps: (R, H, W).
        scores: R of them.
        limits: the ends of its colour scale.
    """

    label: str
    trained: str
    maps: NDArray[np.float32]
    scores: list[float]
    limits: tuple[float, float]


def sheet_figure(title: str, shown: ShownImages, columns: Sequence[MapColumn]) -> Figure:
    """The sheet itself; every image's axes are labelled `<row> <column>`."""
    with house_style():
        page = _Page(title, shown, columns)
        for row, sample in enumerate(shown.samples):
            page.draw_input(row, sample)
        for index, column in enumerate(columns):
            maps = [page.draw_map(row, index, column) for row in range(len(shown.samples))]
            page.draw_scale(index, column, maps[0])
    return page.figure


class _Page:
    """Places are in inches from the upper left corner."""

    def __init__(self, title: str, shown: ShownImages, columns: Sequence[MapColumn]) -> None:
        self.shown = shown
        self.heads = ["input"] + (["ground truth"] if shown.masks is not None else [])
        self.first_map = len(self.heads)
        self.heads += [wrapped(column.label, CELL, HEAD) for column in columns]
        self.width = 2 * EDGE + len(self.heads) * (CELL + GAP) - GAP
        caption = wrapped(_caption(columns, masked=shown.masks is not None), self.width - 2 * EDGE, SMALL)
        title = wrapped(title, self.width - 2 * EDGE, TITLE)
        heads_at = EDGE + _height(title, TITLE)
        self.top = heads_at + max(_height(head, HEAD) for head in self.heads) + 0.1
        self.bottom = self.top + len(shown.samples) * (CELL + BELOW)
        caption_at = self.bottom + BAR + BAR_LABELS
        self.height = caption_at + _height(caption, SMALL) + EDGE
        self.figure = Figure(figsize=(self.width, self.height), dpi=DOTS_PER_INCH)
        self.write(EDGE, EDGE, title, TITLE)
        for index, head in enumerate(self.heads):
            self.write(self.left(index) + CELL / 2, self.top - 0.06, head, HEAD, across="center", down="baseline")
        self.write(EDGE, caption_at, caption, SMALL)

    def left(self, index: int) -> float:
        return EDGE + index * (CELL + GAP)

    def write(self, x: float, y: float, text: str, size: float, *, across: str = "left", down: str = "top") -> None:
        self.figure.text(
            x / self.width, 1 - y / self.height, text, size=size, ha=across, va=down, linespacing=1.25, parse_math=False
        )

    def axes(self, x: float, y: float, width: float, height: float, label: str) -> Axes:
        box = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box, label=label)

    def cell(self, row: int, index: int, below: str) -> Axes:
        """Framed axes without ticks, with a line of text below."""
        x, y = self.left(index), self.top + row * (CELL + BELOW)
        axes = self.axes(x, y, CELL, CELL, f"{row} {self.heads[index]}")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=FRAME, linewidth=0.5)
        self.write(x + CELL / 2, y + CELL + 0.05, below, SMALL, across="center")
        return axes

    def draw_input(self, row: int, sample: Sample) -> None:
        """The image and, where there are masks, its mask."""
        name = sample.name.removeprefix("test/")
        short = name if len(name) <= LETTERS else f"…{name[1 - LETTERS :]}"
        self.cell(row, 0, short).imshow(self.shown.pixels[row])
        if self.shown.masks is not None:
            mask = self.shown.masks[row]
            below = f"{100 * mask.mean():.2f} % of the pixels" if sample.anomalous else "good"
            self.cell(row, 1, below).imshow(mask, cmap="gray", vmin=0, vmax=1)

    def draw_map(self, row: int, index: int, column: MapColumn) -> AxesImage:
        low, high = column.limits
        label = "defective" if self.shown.samples[row].anomalous else "good"
        axes = self.cell(row, self.first_map + index, f"score {column.scores[row]:.4g}, {label}")
        image = axes.imshow(column.maps[row], cmap=COLOUR_MAP, vmin=low, vmax=high)
        mask = None if self.shown.masks is None else self.shown.masks[row]
        if mask is not None and mask.any() and not mask.all():
            axes.contour(mask, levels=[0.5], colors=OUTLINE, linewidths=0.7)
        return image

    def draw_scale(self, index: int, column: MapColumn, image: AxesImage) -> None:
        """The colour bar under a column, of `image`, whose limits all its maps have."""
        left = self.left(self.first_map + index)
        axes = self.axes(left, self.bottom + 0.02, CELL, BAR, f"scale of {column.label}")
        bar = self.figure.colorbar(image, cax=axes, orientation="horizontal")
        bar.set_ticks(list(column.limits), labels=[f"{limit:.3g}" for limit in column.limits])
        axes.tick_params(labelsize=SMALL, length=2)
        first, last = axes.get_xticklabels()
        first.set_horizontalalignment("left")
        last.set_horizontalalignment("right")


def _caption(columns: Sequence[MapColumn], *, masked: bool) -> str:
    trained: dict[str, list[str]] = {}
    for column in columns:
        trained.setdefault(column.trained, []).append(column.label)
    words = [CAPTION, "Outlines are the ground truth's." if masked else ""]
    words += [f"{', '.join(labels)}: {how}." for how, labels in trained.items()]
    return " ".join(filter(None, words))


def _height(text: str, size: float) -> float:
    """Of some lines of text, in inches."""
    return (text.count("\n") + 1) * LINE * size
