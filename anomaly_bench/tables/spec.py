"""What a table is: rows and columns, and for each a part of the question which run makes the cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from anomaly_bench.bench.catalog import PACKAGE, dataset_names, method_names
from anomaly_bench.bench.profiles import Profile
from anomaly_bench.errors import UserError, nearest
from anomaly_bench.metrics import METRIC_KEYS
from anomaly_bench.tables.yaml_lines import Mapping, load_mapping

EXPERIMENTS = PACKAGE.parent / "experiments"
ALL = "all"
QUERY_KEYS = ("method", "options", "dataset", "categories", "metric")
LINE_KEYS = ("name", "printed", "compare", *QUERY_KEYS)
TABLE_KEYS = ("title", "runs", "rows", "columns", "notes")


@dataclass(frozen=True)
class Query:
    """Which number a cell shows; rows, columns and the table each give a part.

    Attributes:
        method: name of the method, None where the cell is only quoted.
        options: options of the method, fields of its protocol or of its evaluation, by name.
        dataset: name of the data set.
        categories: their names, or ("all",).
        metric: key of the metric.
    """

    method: str | None = None
    options: tuple[tuple[str, Any], ...] = ()
    dataset: str | None = None
    categories: tuple[str, ...] = ()
    metric: str | None = None

    def over(self, other: Query) -> Query:
        """This query, with what it leaves open taken from `other`; options are put together."""
        options = dict(other.options) | dict(self.options)
        return Query(
            method=self.method or other.method,
            options=tuple(sorted(options.items())),
            dataset=self.dataset or other.dataset,
            categories=self.categories or other.categories,
            metric=self.metric or other.metric,
        )

    @property
    def measurable(self) -> bool:
        return bool(self.method and self.dataset and self.categories and self.metric)


@dataclass(frozen=True)
class Line:
    """A row or a column of a table.

    Attributes:
        name: its label.
        printed: the label of the paper's row or column whose numbers stand beside ours, or "".
        query: its part of the question.
        compare: False where the printed number is of another kind than ours, so that a difference would mislead.
    """

    name: str
    printed: str
    query: Query = field(default_factory=Query)
    compare: bool = True


@dataclass(frozen=True)
class TableSpec:
    """One table of one paper, as its YAML says."""

    name: str  # <paper>/<table>
    title: str
    rows: tuple[Line, ...]
    columns: tuple[Line, ...]
    runs: Query
    notes: tuple[str, ...] = ()

    def query(self, row: Line, column: Line) -> Query:
        """The cell's question."""
        return column.query.over(row.query).over(self.runs)

    def for_profile(self, profile: Profile, categories: Sequence[str]) -> TableSpec:
        """The same table on the profile's stand-in data set, whose `categories` replace the rows or columns of one.

        The paper's rows name categories that the stand-in does not have: a number of `brick` beside the label
        `Carpet` would be a lie.
        """
        if profile.dataset is None:
            return self
        rows = _stand_in(self.rows, categories)
        columns = _stand_in([line for line in self.columns if self._measures(line)], categories)
        return replace(
            self,
            title=f"{self.title}, here on the data set '{profile.dataset}'",
            runs=replace(self.runs, dataset=profile.dataset),
            rows=rows,
            columns=columns,
            notes=("No printed number is shown: none was measured on this data set.",),
        )

    def _measures(self, column: Line) -> bool:
        return any(self.query(row, column).measurable for row in self.rows)


def _stand_in(lines: Sequence[Line], categories: Sequence[str]) -> tuple[Line, ...]:
    """Without printed numbers; lines of single categories become those of the stand-in."""
    named = [line for line in lines if line.query.categories not in ((), (ALL,))]
    kept = [replace(line, printed="", query=replace(line.query, dataset=None)) for line in lines if line not in named]
    if not named:
        return tuple(kept)
    return (*(Line(name, "", Query(categories=(name,))) for name in categories), *kept)


def table_names() -> list[str]:
    """`<paper>/<table>` of every YAML below experiments/, sorted with numbers in order."""
    files = EXPERIMENTS.glob("*/table*.yaml")
    return sorted(
        (f"{file.parent.name}/{file.stem}" for file in files), key=lambda name: (name.split("/")[0], len(name), name)
    )


def load_table(name: str) -> TableSpec:
    """Read `experiments/<name>.yaml`.

    Raises:
        UserError: no such table, or its YAML is wrong; names file and line.
    """
    if name not in table_names():
        if not EXPERIMENTS.is_dir():
            raise UserError(f"no tables in {EXPERIMENTS}: run from a clone, installed with 'pip install -e .'.")
        raise UserError(f"unknown table '{name}'{nearest(name, table_names())}")
    return read_table(EXPERIMENTS / f"{name}.yaml")


def read_table(path: Path) -> TableSpec:
    """The table of one YAML file; the table's name is the file's, with its folder."""
    plain = load_mapping(path)
    _check_keys(plain, TABLE_KEYS, required=("title", "rows", "columns"))
    rows, columns = _lines(plain, "rows"), _lines(plain, "columns")
    table = TableSpec(
        name=f"{path.parent.name}/{path.stem}",
        title=str(plain["title"]),
        rows=rows,
        columns=columns,
        runs=_query(plain["runs"]) if "runs" in plain else Query(),
        notes=tuple(str(note) for note in plain.get("notes", [])),
    )
    if not any(table.query(row, column).measurable for row in rows for column in columns):
        raise plain.wrong("no cell has method, dataset, categories and metric; say in rows, columns or runs.")
    return table


def _check_keys(mapping: Mapping, known: Sequence[str], required: Sequence[str]) -> None:
    for key in mapping:
        if key not in known:
            raise mapping.wrong(f"unknown key '{key}'{nearest(key, known)}")
    for key in required:
        if key not in mapping:
            raise mapping.wrong(f"key '{key}' is missing; add it.")


def _lines(plain: Mapping, key: str) -> tuple[Line, ...]:
    lines: list[Line] = []
    for entry in plain[key]:
        if not isinstance(entry, Mapping):
            raise plain.wrong(f"an entry of {key} is not a mapping like {{name: ...}}; correct it.")
        _check_keys(entry, LINE_KEYS, required=("name",))
        name = str(entry["name"])
        if name in [line.name for line in lines]:
            raise entry.wrong(f"{key} has '{name}' twice; rename one.")
        if not isinstance(entry.get("compare", True), bool):
            raise entry.wrong("compare must be true or false; correct it.")
        lines.append(Line(name, str(entry.get("printed", name)), _query(entry), entry.get("compare", True)))
    return tuple(lines)


def _query(entry: Mapping) -> Query:
    allowed = {"method": method_names(), "dataset": dataset_names(), "metric": METRIC_KEYS}
    for key, names in allowed.items():
        if key in entry and entry[key] not in names:
            raise entry.wrong(f"unknown {key} '{entry[key]}'{nearest(str(entry[key]), names)}")
    categories = entry.get("categories", [])
    options = entry.get("options", {})
    if not isinstance(options, dict):
        raise entry.wrong("options is a mapping of names to values; correct it.")
    return Query(
        method=entry.get("method"),
        options=tuple(sorted(options.items())),
        dataset=entry.get("dataset"),
        categories=(categories,) if isinstance(categories, str) else tuple(str(name) for name in categories),
        metric=entry.get("metric"),
    )
