"""What one column of a table becomes beside its printed numbers, on the page and in every file alike."""

from __future__ import annotations

from typing import Literal

from anomaly_bench.tables.build import BuiltTable
from anomaly_bench.tables.printed import NOTHING

Part = Literal["printed", "measured", "difference"]


def column_parts(built: BuiltTable, column: int) -> tuple[Part, ...]:
    """A quoted column stays one, a measured one stands beside what is printed and the difference, if anything is."""
    cells = [row[column] for row in built.cells]
    if not any(cell.measurable for cell in cells):
        return ("printed",)
    if not stands_beside_print(built) or all(cell.printed is NOTHING for cell in cells):
        return ("measured",)
    if built.spec.peers and built.spec.columns[column].peer:
        return ("printed", "measured")
    return ("printed", "measured", "difference")


def stands_beside_print(built: BuiltTable) -> bool:
    """Whether a paper prints the table's numbers: none does where the YAML says so, or of stand-in data."""
    return built.spec.printed and built.profile.dataset is None
