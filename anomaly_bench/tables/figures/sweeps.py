"""Sweep curves: what a table's rows measure against the option that they step through, with the paper's points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from anomaly_bench.tables.build import BuiltTable, Cell
from anomaly_bench.tables.figures.style import COLOURS, MARKERS, house_style, save, wrapped
from anomaly_bench.tables.spec import Line

WIDTH, PANEL_HEIGHT, REST = 6.4, 3.0, 1.3  # inches: the figure, one panel, title and caption
LINEAR_SPAN = 20.0  # beyond this ratio of the largest value to the smallest the axis is logarithmic
OPTION_UNITS = {"batch_size": "images", "image_size": "pixels", "sigma": "pixels", "mean_kernel": "pixels"}
UNIT_NAMES = {"%": "in %", "M": "in millions", "G": "in 10⁹", "ms": "in milliseconds", "s": "in seconds"}


@dataclass(frozen=True)
class Point:
    """What stands over one value: the cell, and the paper's number where it is of the same kind as ours."""

    value: float
    cell: Cell
    printed: float | None


@dataclass(frozen=True)
class Curve:
    """One line of the figure; its points rise in value, and each has something to show."""

    name: str
    unit: str
    points: list[Point]

    @property
    def comparable(self) -> bool:
        """Whether all that is measured is a mean over the same categories; a line between others would be an effect of
        the categories."""
        return len({point.cell.categories for point in self.points if point.cell.measured is not None}) < 2


def sweep_curve(built: BuiltTable, option: str, path: Path) -> Path | None:
    """Write `sweep_figure` as an SVG; None, and no file, where nothing is measured.

    Raises:
        UserError: the folder cannot be written to.
    """
    figure = sweep_figure(built, option)
    return None if figure is None else save(figure, path)


def sweep_figure(built: BuiltTable, option: str) -> Figure | None:
    """One panel a unit, in it one line a curve; the paper's points are hollow. None where nothing is measured.

    Args:
        built: a table whose rows (or else columns) give `option` numbers; its columns (or else rows) are the lines.
        option: the option's name.
    """
    curves = sweep_curves(built, option)
    points = [point for curve in curves for point in curve.points]
    if all(point.cell.measured is None for point in points):
        return None
    units = list(dict.fromkeys(curve.unit for curve in curves))
    with house_style():
        figure = Figure(figsize=(WIDTH, REST + len(units) * PANEL_HEIGHT), layout="constrained")
        panels = figure.subplots(len(units), 1, sharex=True, squeeze=False)[:, 0]
        for unit, axes in zip(units, panels, strict=True):
            _draw(axes, unit, [(index, curve) for index, curve in enumerate(curves) if curve.unit == unit])
        _scale(panels[-1], option, sorted({point.value for point in points}))
        figure.suptitle(wrapped(f"{built.spec.name}: {built.spec.title}", WIDTH - 0.2, 10), parse_math=False)
        caption = wrapped(f"{built.profile.label}.\n{_caption(curves)}", WIDTH - 0.2, 7)
        figure.supxlabel(caption, size=7, x=0.02, ha="left", parse_math=False)
    return figure


def sweep_curves(built: BuiltTable, option: str) -> list[Curve]:
    """A curve for every column of the table that has something to show; for every row, where columns have the option.

    Raises:
        ValueError: no row and no column gives the option a number.
    """
    steps, lines, cells = built.spec.rows, built.spec.columns, built.cells
    if all(_number(step, option) is None for step in steps):
        steps, lines, cells = lines, steps, [list(column) for column in zip(*cells, strict=True)]
    if all(_number(step, option) is None for step in steps):
        raise ValueError(f"{built.spec.name} has no row and no column that gives {option} a number")
    curves = []
    for index, line in enumerate(lines):
        found = [_point(step, line, row[index], option) for step, row in zip(steps, cells, strict=True)]
        points = sorted((point for point in found if point), key=lambda point: point.value)
        if points:
            curves.append(Curve(line.name, points[0].cell.unit, points))
    return curves


def _number(step: Line, option: str) -> float | None:
    value = dict(step.query.options).get(option)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _point(step: Line, line: Line, cell: Cell, option: str) -> Point | None:
    """None where there is no value to stand over, or nothing to show."""
    value = _number(step, option)
    printed = cell.printed.value if step.is_compared_in(line) and line.is_compared_in(step) else None
    return None if value is None or cell.measured is printed is None else Point(value, cell, printed)


def _draw(axes: Axes, unit: str, curves: Sequence[tuple[int, Curve]]) -> None:
    """The curves of one unit, each in the colour of its position in the table."""
    for index, curve in curves:
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        measured = [(p.value, p.cell.measured, p.cell.std) for p in curve.points if p.cell.measured is not None]
        spread = [(value, mean, std) for value, mean, std in measured if std is not None]
        printed = [(point.value, point.printed) for point in curve.points if point.printed is not None]
        values, means = [value for value, _, _ in measured], [mean for _, mean, _ in measured]
        joined = "-" if curve.comparable else "none"
        axes.plot(values, means, color=colour, marker=marker, linestyle=joined, label=curve.name)
        if spread:
            values, means = [value for value, _, _ in spread], [mean for _, mean, _ in spread]
            axes.errorbar(values, means, [std for _, _, std in spread], fmt="none", ecolor=colour, capsize=3)
        if printed:
            values, means = [value for value, _ in printed], [value for _, value in printed]
            axes.plot(values, means, color=colour, marker=marker, markerfacecolor="white", linestyle=":", linewidth=0.8)
    axes.set_ylabel(f"measured, {UNIT_NAMES.get(unit, f'in {unit}')}")
    axes.grid(axis="y")
    axes.legend()


def _scale(axes: Axes, option: str, values: Sequence[float]) -> None:
    """The axis of the option, a tick at every value."""
    sizes = sorted(abs(value) for value in values if value)
    if sizes and sizes[-1] > LINEAR_SPAN * sizes[0]:
        # A logarithmic axis has no place for 0; this one is linear between it and the value next to it.
        axes.set_xscale("log") if values[0] > 0 else axes.set_xscale("symlog", linthresh=sizes[0])
    axes.minorticks_off()
    axes.set_xticks(values, labels=[f"{value:g}" for value in values])
    axes.set_xlabel(f"{option} ({OPTION_UNITS[option]})" if option in OPTION_UNITS else option, parse_math=False)


def _caption(curves: Sequence[Curve]) -> str:
    """What the points are means of, and what is wrong with them."""
    points = [point for curve in curves for point in curve.points]
    cells = [point.cell for point in points if point.cell.measured is not None]
    seeds = _range({len(cell.seeds) for cell in cells}, max(cell.seeds_planned for cell in cells), "seeds")
    categories = _range(
        {len(cell.categories) for cell in cells}, max(c.categories_planned for c in cells), "categories"
    )
    words = [f"Filled: measured, mean over {categories} and {seeds}"]
    words[0] += ", bars their standard deviation." if any(cell.std is not None for cell in cells) else "."
    if not all(curve.comparable for curve in curves):
        words.append("NO LINE joins means over different categories: they cannot be compared.")
    if any(point.printed is not None for point in points):
        words.append("Hollow: printed in the paper, over all categories.")
    words += [f"Some are {caveat}." for caveat in dict.fromkeys(cell.caveat for cell in cells if cell.caveat)]
    return " ".join(words)


def _range(counts: set[int], planned: int, what: str) -> str:
    """`3 of 3 seeds`, or `1 to 3 of 3 seeds`."""
    least, most = min(counts), max(counts)
    return f"{least if least == most else f'{least} to {most}'} of {planned} {what}"
