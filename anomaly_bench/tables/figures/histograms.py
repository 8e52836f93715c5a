"""Score histograms: how far a method's image scores hold good images and defective ones apart, one panel a method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from anomaly_bench.tables.figures.style import DEFECTIVE, GOOD, house_style, save, wrapped
from anomaly_bench.tables.scores import Scores

BINS = 30
MOST_COLUMNS = 3
PANEL = (2.7, 2.1)  # inches


@dataclass(frozen=True)
class MethodScores:
    """One panel.

    Attributes:
        label: the method, with its options.
        scores: of every test image.
        auroc: the record's image AUROC, a fraction in [0, 1]; None where it is undefined.
    """

    label: str
    scores: Scores
    auroc: float | None


def score_histogram(methods: Sequence[MethodScores], title: str, path: Path) -> Path:
    """Write `histogram_figure` as an SVG.

    Raises:
        UserError: the folder cannot be written to.
    """
    return save(histogram_figure(methods, title), path)


def histogram_figure(methods: Sequence[MethodScores], title: str) -> Figure:
    """One panel a method. Bins are common to good and defective images, but not to methods: their units differ."""
    across = min(len(methods), MOST_COLUMNS)
    down = math.ceil(len(methods) / across)
    width = across * PANEL[0]
    with house_style():
        figure = Figure(figsize=(width, down * PANEL[1] + 0.6), layout="constrained")
        for position, method in enumerate(methods):
            _draw(figure.add_subplot(down, across, position + 1), method)
        figure.suptitle(wrapped(title, width - 0.2, 10), parse_math=False)
        figure.supylabel("test images", size=8)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def _draw(axes: Axes, method: MethodScores) -> None:
    scores, labels = method.scores.scores, method.scores.labels
    edges = np.histogram_bin_edges(scores, BINS)
    for name, colour, chosen in (("good", GOOD, ~labels), ("defective", DEFECTIVE, labels)):
        counts, _ = np.histogram(scores[chosen], edges)
        axes.stairs(counts, edges, fill=True, facecolor=(colour, 0.35), edgecolor=colour, linewidth=1, label=name)
    auroc = "undefined" if method.auroc is None else f"{100 * method.auroc:.2f} %"
    text = f"{method.label}\nimage AUROC {auroc}\n{(~labels).sum()} good, {labels.sum()} defective"
    axes.set_title(wrapped(text, PANEL[0] - 0.3, 8), parse_math=False)
    axes.set_xlabel("image score")
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(5))
