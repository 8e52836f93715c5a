"""What a table is: rows and columns, and for each a part of the question which run makes the cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from anomaly_bench.bench.catalog import PACKAGE, dataset_names, method_names, peer_names
from anomaly_bench.errors import UserError, nearest
from anomaly_bench.tables.measures import MEASURES
from anomaly_bench.tables.yaml_lines import Mapping, load_mapping

EXPERIMENTS = PACKAGE.parent / "experiments"
ALL = "all"
RUN_KEYS = ("method", "options", "dataset", "categories", "metric")
LINE_KEYS = ("name", "printed", "compare", "reference", "relative_to", "peer", *RUN_KEYS)
TABLE_KEYS = ("title", "runs", "rows", "columns", "notes", "sweep", "printed")


@dataclass(frozen=True)
class Query:
    """Which number a cell shows; rows, columns and the table each give a part.

    Attributes:
        method: name of the method, None where the cell is only quoted.
        options: options of the method, fields of its protocol or of its evaluation, by name.
        dataset: name of the data set.
        categories: their names, or ("all",).
        metric: key of a metric or another measure, see `measures`.
        relative_to: another question; the cell is then by how many percent its own answer is larger than that one's.
    """

    method: str | None = None
    options: tuple[tuple[str, Any], ...] = ()
    dataset: str | None = None
    categories: tuple[str, ...] = ()
    metric: str | None = None
    relative_to: Query | None = None

    def over(self, other: Query) -> Query:
        """This query, with what it leaves open taken from `other`; options are put together."""
        options = dict(other.options) | dict(self.options)
        return Query(
            method=self.method or other.method,
            options=tuple(sorted(options.items())),
            dataset=self.dataset or other.dataset,
            categories=self.categories or other.categories,
            metric=self.metric or other.metric,
            relative_to=self.relative_to or other.relative_to,
        )

    @property
    def partner(self) -> Query | None:
        """What `relative_to` asks, in full: a method that it names comes with none of this query's options."""
        if self.relative_to is None:
            return None
        own = replace(self, relative_to=None, options=() if self.relative_to.method else self.options)
        return self.relative_to.over(own)

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
        compare: False where the printed number is of another kind than ours, so that a difference would mislead; or
            the names of the columns (for a column, of the rows) where it is of the same kind.
        reference: name of the row or column that this one is held against by a paired test, or "".
        peer: question that measures what is otherwise only quoted, see `peers.with_peers`; or None.
    """

    name: str
    printed: str
    query: Query = field(default_factory=Query)
    compare: bool | tuple[str, ...] = True
    reference: str = ""
    peer: Query | None = None

    def is_compared_in(self, other: Line) -> bool:
        """Whether what is printed in this row and that column (or the other way round) is of our number's kind."""
        return self.compare if isinstance(self.compare, bool) else other.name in self.compare


@dataclass(frozen=True)
class TableSpec:
    """One table of one paper, as its YAML says; a sweep names the option that its rows step through.

    Not `printed` where no paper prints its numbers: what is measured then stands alone. `peers` where the lines that
    name a peer are measured, not only quoted.
    """

    name: str  # <paper>/<table>
    title: str
    rows: tuple[Line, ...]
    columns: tuple[Line, ...]
    runs: Query
    notes: tuple[str, ...] = ()
    sweep: str = ""
    printed: bool = True
    peers: bool = False

    @property
    def file_name(self) -> str:
        """Under which its writings are kept, apart with peers and without."""
        return f"{self.name}-peers" if self.peers else self.name

    def query(self, row: Line, column: Line) -> Query:
        """The cell's question."""
        return column.query.over(row.query).over(self.runs)


def table_names() -> list[str]:
    """`<paper>/<table>` of every YAML below experiments/, sorted with numbers in order, sweeps behind tables."""
    files = [file for pattern in ("table*", "fig*") for file in EXPERIMENTS.glob(f"*/{pattern}.yaml")]
    files.sort(key=lambda file: (file.parent.name, file.stem.startswith("fig"), len(file.stem), file.stem))
    return [f"{file.parent.name}/{file.stem}" for file in files]


def load_table(name: str) -> TableSpec:
    """Read `experiments/<name>.yaml`.

    Raises:
        UserError: no such table, or its YAML is wrong; names file and line.
    """
    if name not in table_names():
        if not EXPERIMENTS.is_dir():
            raise UserError(f"no tables in {EXPERIMENTS}: run from a clone, installed with 'pip install -e .'.")
        # A table's own name alone, or a paper's.
        meant = [known for known in table_names() if name in known.split("/")]
        which = f"; choose one of: {', '.join(meant)}." if meant else nearest(name, table_names())
        raise UserError(f"unknown table '{name}'{which}")
    return read_table(EXPERIMENTS / f"{name}.yaml")


def read_table(path: Path) -> TableSpec:
    """The table of one YAML file; the table's name is the file's, with its folder."""
    plain = load_mapping(path)
    _check_keys(plain, TABLE_KEYS, required=("title", "rows", "columns"))
    rows, columns = _lines(plain, "rows"), _lines(plain, "columns")
    runs = plain.get("runs", Mapping())
    if not isinstance(runs, Mapping):
        raise plain.wrong("runs is a mapping such as {dataset: mvtec, categories: all}; correct it.")
    table = TableSpec(
        name=f"{path.parent.name}/{path.stem}",
        title=str(plain["title"]),
        rows=rows,
        columns=columns,
        runs=_query(runs),
        notes=tuple(str(note) for note in plain.list_of("notes")),
        sweep=str(plain.get("sweep", "")),
        printed=_truth(plain, "printed"),
    )
    for key, lines, others in (("rows", rows, columns), ("columns", columns, rows)):
        _check_references(plain[key], lines, others)
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
    for entry in plain.list_of(key):
        if not isinstance(entry, Mapping):
            raise plain.wrong(f"an entry of {key} is not a mapping like {{name: ...}}; correct it.")
        _check_keys(entry, LINE_KEYS, required=("name",))
        name = str(entry["name"])
        if name in [line.name for line in lines]:
            raise entry.wrong(f"{key} has '{name}' twice; rename one.")
        printed, reference = str(entry.get("printed", name)), str(entry.get("reference", ""))
        lines.append(Line(name, printed, _query(entry), _compared(entry), reference, _peer(entry)))
    return tuple(lines)


def _peer(entry: Mapping) -> Query | None:
    if "peer" not in entry:
        return None
    peer = entry["peer"]
    if not isinstance(peer, Mapping):
        raise entry.wrong("peer is a mapping such as {method: padim}; correct it.")
    _check_keys(peer, RUN_KEYS, required=("method",))
    return _query(peer, peer_names())


def _truth(entry: Mapping, key: str) -> bool:
    """A switch that is on unless the YAML says otherwise."""
    value = entry.get(key, True)
    if not isinstance(value, bool):
        raise entry.wrong(f"{key} must be true or false; correct it.")
    return value


def _compared(entry: Mapping) -> bool | tuple[str, ...]:
    value = entry.get("compare", True)
    if not isinstance(value, bool | list):
        raise entry.wrong("compare must be true, false or a list of names; correct it.")
    return value if isinstance(value, bool) else tuple(map(str, value))


def _check_references(entries: Sequence[Mapping], lines: Sequence[Line], others: Sequence[Line]) -> None:
    names, across = [line.name for line in lines], [line.name for line in others]
    for entry, line in zip(entries, lines, strict=True):
        for name in () if isinstance(line.compare, bool) else line.compare:
            if name not in across:
                raise entry.wrong(f"'{line.name}' is compared in an unknown '{name}'{nearest(name, across)}")
        if line.reference and line.reference not in names:
            raise entry.wrong(
                f"'{line.name}' has an unknown reference '{line.reference}'{nearest(line.reference, names)}"
            )


def _query(entry: Mapping, methods: Sequence[str] | None = None) -> Query:
    allowed = {"method": methods or method_names(), "dataset": dataset_names(), "metric": MEASURES}
    for key, names in allowed.items():
        if key in entry and entry[key] not in names:
            raise entry.wrong(f"unknown {key} '{entry[key]}'{nearest(str(entry[key]), names)}")
    categories = entry.get("categories", [])
    options = entry.get("options", {})
    if not isinstance(options, dict):
        raise entry.wrong("options is a mapping of names to values; correct it.")
    return Query(
        method=entry.get("method"),
        options=tuple(sorted((name, _frozen(value)) for name, value in options.items())),
        dataset=entry.get("dataset"),
        categories=(categories,) if isinstance(categories, str) else tuple(str(name) for name in categories),
        metric=entry.get("metric"),
        relative_to=_partner(entry),
    )


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _partner(entry: Mapping) -> Query | None:
    if "relative_to" not in entry:
        return None
    partner = entry["relative_to"]
    if not isinstance(partner, Mapping):
        raise entry.wrong("relative_to is a mapping such as {method: rd}; correct it.")
    _check_keys(partner, RUN_KEYS, required=())
    return _query(partner)
