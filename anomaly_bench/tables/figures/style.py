"""What all figures share: one look, and files that are the same bytes whenever and wherever they are made.

A figure is made and saved inside `house_style`, which sets aside what the user's `matplotlibrc` says. The text of an
SVG is text: it can be searched and read aloud, and a page shows it in a font of the reader's own, fetching nothing.
The card is white, on light pages and dark ones.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib.style
from matplotlib.figure import Figure

from anomaly_bench.errors import UserError

DEFECTIVE, GOOD = "#d55e00", "#0072b2"
# Okabe and Ito's palette, told apart by colour-blind readers; its yellow is too pale for lines on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, FAINT = "#333333", "#e4e4e4"
LOOK = {
    "font.sans-serif": ["DejaVu Sans"],  # which matplotlib ships; an SVG adds "or any other like it"
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "figure.titlesize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "grid.color": FAINT,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "anomaly-bench",  # without it the ids in an SVG are drawn anew each time
}
NO_STAMP = {".png": {"Software": None}, ".svg": {"Date": None, "Creator": None}}
INCHES_PER_LETTER = 0.62 / 72  # for a font size of one point; a little more than the average of plain text


@contextmanager
def house_style() -> Iterator[None]:
    """Matplotlib's settings are our own inside, and what they were afterwards."""
    with matplotlib.style.context(LOOK, after_reset=True):
        yield


def wrapped(text: str, inches: float, size: float) -> str:
    """`text` in lines of at most so many inches at a font size in points; its own line breaks are kept."""
    letters = max(int(inches / (INCHES_PER_LETTER * size)), 1)
    return "\n".join(line for part in text.splitlines() for line in textwrap.wrap(part, letters) or [""])


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as its path's suffix says, `.png` or `.svg`; the file is replaced whole.

    Raises:
        UserError: the folder cannot be written to.
    """
    drawn = io.BytesIO()
    with house_style():
        figure.savefig(drawn, format=path.suffix[1:], metadata=NO_STAMP[path.suffix])
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_name(f".{path.name}-new")  # no suffix by which a page would find it
        staged.write_bytes(drawn.getvalue())
        staged.replace(path)
    return path


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns a failure to write into a UserError that names the file."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); choose another --results.") from error
