"""What a script has measured: printed, and written to a CSV with units in the columns' names."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from anomaly_bench.bench.cost import commit

Row = dict[str, Any]


def publish(name: str, rows: list[Row], folder: Path | None, *, comparison: tuple[str, ...] = ()) -> None:
    """Print a line for each row; where a folder is given, write them with the commit to `name`.csv in it.

    Rows are compared with each other, so those that the file has of the same comparison (equal in these columns; in
    none, all of them) go, even where they are not measured anew; rows of others stay.
    """
    rows = [{**row, "commit": commit() or ""} for row in rows]
    for row in rows:
        print(", ".join(f"{column} {value}" for column, value in row.items()))
    if folder:
        path = folder / f"{name}.csv"
        new = {tuple(str(row[column]) for column in comparison) for row in rows}
        old = list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []
        kept = [row for row in old if tuple(row.get(column) for column in comparison) not in new]
        write_csv(path, [*kept, *rows])


def write_csv(path: Path, rows: list[Row]) -> None:
    """Write one line for each row at once; a column that a row lacks is empty in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    whole = path.with_suffix(".tmp")
    with whole.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    whole.replace(path)
