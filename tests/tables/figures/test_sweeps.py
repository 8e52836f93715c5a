"""Sweep curves: points and bars from the records, hollow markers from the paper, an axis that fits the values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from anomaly_bench.bench.profiles import PROFILES
from anomaly_bench.bench.store import Record
from anomaly_bench.tables.build import BuiltTable, build_table
from anomaly_bench.tables.figures.sweeps import sweep_curve, sweep_figure
from anomaly_bench.tables.index import Index
from anomaly_bench.tables.printed import PrintedCell, PrintedTable
from anomaly_bench.tables.spec import Line, Query, TableSpec
from tests.tables.made_store import made_record, with_data

COLUMNS = (Line("Image", "Image", Query(metric="image_auroc")), Line("Pixel", "Pixel", Query(metric="pixel_auroc")))
PRINTED: PrintedTable = {
    ("4", "Image"): PrintedCell("97.87", "%", ""),
    ("8", "Image"): PrintedCell("99.14", "%", ""),
    ("32", "Pixel"): PrintedCell("97.91", "%", ""),
    ("4", "Pixel"): PrintedCell("", "%", "unreadable"),
}


def steps(*values: Any, option: str = "batch_size", **changes: Any) -> tuple[Line, ...]:
    return tuple(Line(str(value), str(value), Query(options=((option, value),)), **changes) for value in values)


def made(batch_size: int, image: float, pixel: float, seed: int = 0) -> Record:
    """A run on bottle under the paper's protocol but for the batch size; fractions."""
    record = made_record("bottle", PROFILES["paper"], seed=seed, batch_size=batch_size)
    entry = record.evaluations[record.evaluation]
    metrics = entry["metrics"] | {"image_auroc": image, "pixel_auroc": pixel}
    return dataclasses.replace(record, evaluations={record.evaluation: entry | {"metrics": metrics}})


RECORDS = [
    *(made(4, 0.90, 0.80, seed) for seed in (0, 1)),
    *(made(8, 0.91, 0.81), made(8, 0.93, 0.85, seed=1)),
    *(made(32, 0.95, 0.82, seed) for seed in (0, 1)),
]


def built(
    records: Sequence[Record] = RECORDS, rows: Sequence[Line] = (), columns: Sequence[Line] = COLUMNS
) -> BuiltTable:
    rows, runs = rows or steps(32, 4, 8, 16), Query(method="rd", dataset="mvtec", categories=("bottle",))
    table = TableSpec(name="rd/fig1", title="Batch size", rows=tuple(rows), columns=tuple(columns), runs=runs)
    return build_table(table, PROFILES["paper"], Index.of(records), PRINTED, Path())


def drawn(table: BuiltTable, option: str = "batch_size") -> Figure:
    figure = sweep_figure(table, option)
    assert figure is not None
    return figure


def points(line: Line2D) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in line.get_xydata().tolist()]  # type: ignore[union-attr]


def filled(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    return {str(line.get_label()): points(line) for line in axes.lines if line.get_label()[0] != "_"}  # type: ignore[index]


def hollow(axes: Axes) -> list[list[tuple[float, float]]]:
    return [points(line) for line in axes.lines if line.get_markerfacecolor() == "white"]


def bars(axes: Axes) -> list[list[list[float]]]:
    parts = [part for part in axes.collections if isinstance(part, LineCollection)]
    return [segment.tolist() for part in parts for segment in part.get_segments()]


def caption(figure: Figure) -> str:
    return figure.get_supxlabel().replace("\n", " ")


def test_a_column_is_a_line_of_means_by_rising_value_without_its_empty_cells() -> None:
    axes = drawn(built()).axes[0]
    lines = filled(axes)
    assert list(lines) == ["Image", "Pixel"]
    assert [value for value, _ in lines["Image"]] == [4, 8, 32]
    assert dict(lines["Image"]) == pytest.approx({4: 90, 8: 92, 32: 95})
    assert dict(lines["Pixel"]) == pytest.approx({4: 80, 8: 83, 32: 82})


def test_bars_stand_where_there_is_a_standard_deviation_and_nowhere_else() -> None:
    four, image, thirty_two, *pixel = bars(drawn(built()).axes[0])
    spread = 2**0.5  # of 91 and 93
    assert four == [pytest.approx([4, 90])] * 2  # two seeds that agree
    assert thirty_two == [pytest.approx([32, 95])] * 2
    assert image == [pytest.approx([8, 92 - spread]), pytest.approx([8, 92 + spread])]
    assert pixel[1] == [pytest.approx([8, 83 - 2 * spread]), pytest.approx([8, 83 + 2 * spread])]
    assert bars(drawn(built([record for record in RECORDS if record.spec.seed == 0])).axes[0]) == []


def test_the_papers_points_are_hollow_and_stand_where_it_prints_them() -> None:
    assert hollow(drawn(built()).axes[0]) == [[(4, 97.87), (8, 99.14)], [(32, 97.91)]]


def test_printed_numbers_of_another_kind_are_not_shown_beside_ours() -> None:
    columns = (dataclasses.replace(COLUMNS[0], compare=False), COLUMNS[1])
    assert hollow(drawn(built(columns=columns)).axes[0]) == [[(32, 97.91)]]
    figure = drawn(built(rows=steps(4, 8, 32, compare=False)))
    assert hollow(figure.axes[0]) == []
    assert "printed in the paper" not in caption(figure)


def test_the_option_may_stand_in_the_columns() -> None:
    table = built()
    turned = dataclasses.replace(
        table,
        spec=dataclasses.replace(table.spec, rows=table.spec.columns, columns=table.spec.rows),
        cells=[list(column) for column in zip(*table.cells, strict=True)],
    )
    one, other = drawn(table).axes[0], drawn(turned).axes[0]
    assert filled(one) == filled(other)
    assert hollow(one) == hollow(other)


@pytest.mark.parametrize(
    ("values", "scale"),
    [((1, 20), "linear"), ((1, 21), "log"), ((0, 1, 20), "linear"), ((0, 1, 21), "symlog"), ((3,), "linear")],
)
def test_the_axis_is_logarithmic_beyond_a_factor_of_20(values: tuple[float, ...], scale: str) -> None:
    table = built(rows=steps(*values, option="weight_decay"), records=[made(16, 0.9, 0.9)])
    cells = [[dataclasses.replace(cell, measured=90.0) for cell in row] for row in table.cells]
    axes = drawn(dataclasses.replace(table, cells=cells), "weight_decay").axes[0]
    assert axes.get_xscale() == scale
    assert axes.get_xticks().tolist() == list(values)
    assert [text.get_text() for text in axes.get_xticklabels()] == [f"{value:g}" for value in values]


def test_the_figure_names_table_profile_seeds_and_units() -> None:
    figure = drawn(built())
    assert figure.get_suptitle() == "rd/fig1: Batch size"
    assert figure.axes[0].get_xlabel() == "batch_size (images)"
    assert figure.axes[0].get_ylabel() == "measured, in %"
    assert caption(figure) == (
        "PAPER: the paper's protocol. Filled: measured, mean over 1 of 1 categories and 2 of 3 seeds, bars their "
        "standard deviation. Hollow: printed in the paper, over all categories."
    )
    incomplete = [with_data(record, complete=False) for record in RECORDS[:1]]
    assert caption(drawn(built(incomplete))).endswith(
        "and 1 of 3 seeds. Hollow: printed in the paper, over all categories. "
        "Some are on INCOMPLETE data (bottle), so no difference is given."
    )


def test_no_line_joins_means_over_different_categories() -> None:
    table = built()
    mixed = [
        [dataclasses.replace(cell, categories=(f"row {number}",)) for cell in row]
        for number, row in enumerate(table.cells)
    ]
    figure = drawn(dataclasses.replace(table, cells=mixed))
    joined = [line for line in figure.axes[0].lines if line.get_linestyle() == "-"]
    assert joined == []
    assert filled(figure.axes[0])  # the points are there all the same
    assert "NO LINE joins means over different categories" in caption(figure)
    assert "NO LINE" not in caption(drawn(table))


def test_each_unit_has_a_panel_and_each_line_a_look_of_its_own() -> None:
    records = [dataclasses.replace(record, cost={"seconds_train": 10.0}) for record in RECORDS]
    columns = (COLUMNS[0], Line("Time", "", Query(metric="seconds_train")), COLUMNS[1])
    axes = drawn(built(records, columns=columns)).axes
    assert [list(filled(panel)) for panel in axes] == [["Image", "Pixel"], ["Time"]]
    assert [panel.get_ylabel() for panel in axes] == ["measured, in %", "measured, in seconds"]
    lines = [line for panel in axes for line in panel.lines if line.get_linestyle() == "-"]
    assert len({line.get_color() for line in lines}) == len({line.get_marker() for line in lines}) == 3


def test_with_nothing_measured_there_is_no_figure_and_no_file(tmp_path: Path) -> None:
    assert sweep_curve(built([]), "batch_size", tmp_path / "new" / "fig1.svg") is None
    assert not (tmp_path / "new").exists()


def test_an_option_without_numbers_is_our_own_mistake(tmp_path: Path) -> None:
    for option, rows in (("lr", steps(4, 8)), ("loss_form", steps("pixel", "global", option="loss_form"))):
        with pytest.raises(ValueError, match=f"rd/fig1 has no row and no column that gives {option} a number"):
            sweep_curve(built(rows=rows), option, tmp_path / "fig1.svg")


def test_the_same_table_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    paths = [sweep_curve(table, "batch_size", tmp_path / f"{index}.svg")
             for index, table in enumerate([built(), built(), built(RECORDS[:3])])]  # fmt: skip
    contents = [path.read_bytes() for path in paths if path]
    assert contents[0] == contents[1] != contents[2]
    assert b'href="http' not in contents[0]
