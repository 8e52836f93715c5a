"""What the papers print: `results/printed/<paper>/<table>.csv`, values as the text that stands in the paper."""

from __future__ import annotations

import csv
from dataclasses import dataclass

from anomaly_bench.bench.catalog import PACKAGE
from anomaly_bench.errors import UserError
from anomaly_bench.tables.spec import load_table

PRINTED = PACKAGE.parent / "results" / "printed"
COLUMNS = ["row", "column", "printed", "unit", "note"]


@dataclass(frozen=True)
class PrintedCell:
    """`text` is empty where the paper prints nothing readable; `note` says why, or what is odd about it."""

    text: str
    unit: str
    note: str

    @property
    def value(self) -> float | None:
        return float(self.text) if self.text else None


PrintedTable = dict[tuple[str, str], PrintedCell]  # by row and column of the paper's table
NOTHING = PrintedCell("", "", "")


def load_printed(table: str) -> PrintedTable:
    """The paper's table by name, `<paper>/<table>`; empty for a table that no paper prints.

    Raises:
        UserError: the file is missing, or is not as it should be; names the line.
    """
    path = PRINTED / f"{table}.csv"
    if not path.exists() and not load_table(table).printed:
        return {}
    try:
        lines = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    except OSError as error:
        raise UserError(
            f"the printed numbers {path} cannot be read ({error.strerror}); restore the file, or say "
            "`printed: false` in the table's YAML where no paper prints them."
        ) from error
    if not lines or lines[0] != COLUMNS:
        raise UserError(f"{path}:1: the header must be {','.join(COLUMNS)}; restore the file.")
    cells: PrintedTable = {}
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(COLUMNS) or (line[0], line[1]) in cells:
            raise UserError(f"{path}:{number}: not five values, or a cell that stands there twice; correct it.")
        cells[line[0], line[1]] = PrintedCell(*line[2:])
    return cells
