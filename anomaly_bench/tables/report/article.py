"""One table on the page: its warnings, where it is from, the table itself, its notes and its figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from anomaly_bench.tables.build import BuiltTable, Cell
from anomaly_bench.tables.header import header_lines
from anomaly_bench.tables.parts import column_parts
from anomaly_bench.tables.report.markup import (
    Html,
    definitions,
    element,
    fold,
    fragment,
    items,
    number_cell,
    prose,
    scroller,
)
from anomaly_bench.tables.report.names import follows_paper, row_id, table_id, table_label
from anomaly_bench.tables.report.provenance import provenance, shortfalls, signed, spread, verdict, why_not_compared


@dataclass
class _Notes:
    """What is odd about printed cells; equal notes share a number."""

    table: str
    texts: list[str] = field(default_factory=list)

    def mark(self, note: str) -> Html:
        if not note:
            return Html()
        if note not in self.texts:
            self.texts.append(note)
        number = self.texts.index(note) + 1
        link = element("a", str(number), href=f"#{self.table}-note{number}", aria_label=f"note {number}")
        return element("sup", link)

    def listed(self) -> Html:
        entries = [element("li", text, id=f"{self.table}-note{n}") for n, text in enumerate(self.texts, start=1)]
        return element("ol", *entries, class_="notes") if entries else Html()


def article(built: BuiltTable, writings: Sequence[tuple[str, str]], figures: Html) -> Html:
    """The whole of one table.

    Args:
        built: the table.
        writings: the same table as other files: what each is called, and its address.
        figures: the table's figures, or nothing.
    """
    spec, header = built.spec, header_lines(built)
    notes = _Notes(table_id(built))
    table = scroller(f"{table_label(spec.name)}, {built.profile.name}", _table(built, notes))
    heading = [element("span", table_label(spec.name), class_="label"), f" {spec.title}{_unit(built)} "]
    return element(
        "article",
        element("h3", *heading, element("span", built.profile.name, class_="badge")),
        element("div", _origin(header), _files(writings), _quoted_switch(built), class_="tools"),
        items((text for label, text in header if label == "WARNING"), class_="warnings"),
        table,
        notes.listed(),
        items(map(prose, spec.notes), class_="notes"),
        figures,
        id=table_id(built),
        class_=None if follows_paper(built.profile) else "other",
    )


def _unit(built: BuiltTable) -> str:
    return ", in percent" if _units(built.cells) <= {"%", ""} else ""


def _units(rows: Sequence[Sequence[Cell]]) -> set[str]:
    return {cell.unit for row in rows for cell in row}


def _origin(header: Sequence[tuple[str, str]]) -> Html:
    return fold("Provenance", definitions(pair for pair in header if pair[0] != "WARNING"), class_="provenance")


def _files(writings: Sequence[tuple[str, str]]) -> Html:
    if not writings:
        return Html()
    links = (part for name, address in writings for part in (" ", element("a", name, href=address)))
    return element("span", "As a file:", *links, class_="files")


def _quoted_switch(built: BuiltTable) -> Html:
    """Shows the columns that the paper prints and nobody measures here; CSS does it, no script."""
    quoted = sum(column_parts(built, column) == ("printed",) for column in range(len(built.spec.columns)))
    if not quoted:
        return Html()
    box = element("input", type="checkbox", class_="show-quoted")
    return element("label", box, f" show the columns that are only quoted ({quoted})")


def _table(built: BuiltTable, notes: _Notes) -> Html:
    rows = [
        element("tr", element("th", line.name, scope="row"), *_row(built, index, notes), id=row_id(built, index))
        for index, line in enumerate(built.spec.rows)
    ]
    return element("table", element("thead", *_head(built)), element("tbody", *rows), class_="sortable cells")


def _head(built: BuiltTable) -> Iterator[Html]:
    """Two lines: columns of the table, and below them what the measured ones are made of."""
    first = [element("th", "Row", scope="col", rowspan=2, data_column=0)]
    second: list[Html] = []
    position = 1
    for index, column in enumerate(built.spec.columns):
        parts, name = column_parts(built, index), _named(built, index, column.name)
        if len(parts) == 1:
            kind = "quoted" if parts == ("printed",) else "measured"
            first.append(element("th", name, scope="col", rowspan=2, class_=kind, data_column=position))
        else:
            first.append(element("th", name, scope="colgroup", colspan=len(parts), class_="group"))
            second += [
                element("th", part, scope="col", class_=part, data_column=position + offset)
                for offset, part in enumerate(parts)
            ]
        position += len(parts)
    yield element("tr", *first)
    yield element("tr", *second)


def _named(built: BuiltTable, column: int, name: str) -> str:
    """The column's name, with its unit where the table mixes several and the name does not have it."""
    units = _units([[row[column]] for row in built.cells]) - {""}
    if _unit(built) or len(units) != 1 or f"({min(units)})" in name:
        return name
    return f"{name} ({min(units)})"


def _row(built: BuiltTable, row: int, notes: _Notes) -> Iterator[Html]:
    for column, cell in enumerate(built.cells[row]):
        title = f"{built.spec.rows[row].name}, {built.spec.columns[column].name}"
        name = f"{row_id(built, row)}-{column + 1}"
        for part in (parts := column_parts(built, column)):
            if part == "printed":
                yield _printed(cell, notes, quoted=len(parts) == 1)
            elif part == "measured":
                yield _measured(cell, title, name)
            else:
                yield _difference(cell)


def _printed(cell: Cell, notes: _Notes, *, quoted: bool) -> Html:
    value = None if cell.printed.value is None else repr(cell.printed.value)
    content = cell.printed.text or ("—" if cell.printed.note else "")
    mark = notes.mark(cell.printed.note)
    return element("td", content, mark, class_="number quoted" if quoted else "number printed", data_value=value)


def _measured(cell: Cell, title: str, name: str) -> Html:
    """The number, which opens its provenance; or the reason why there is none."""
    if cell.measure is None:
        return element("td", element("small", "only quoted"), class_="number measured none")
    if cell.measured is None:
        return element("td", element("small", cell.reason), class_="number measured none")
    button = element("button", spread(cell, cell.measure.decimals), type="button", popovertarget=name, class_="value")
    lacking = [element("small", text) for text in shortfalls(cell)]
    content = fragment([button, _sign(cell), *lacking, provenance(cell, title, name)])
    return element("td", content, class_="number measured", data_value=repr(round(cell.measured, 10)))


def _sign(cell: Cell) -> Html:
    """Whether the difference to the reference holds."""
    if cell.interval is None:
        return Html()
    sign, words = verdict(cell.interval)
    text = f"{words}, against {cell.reference}"
    shown = element("span", sign, aria_hidden="true")
    return element("span", shown, element("span", text, class_="unseen"), class_="sign", title=text)


def _difference(cell: Cell) -> Html:
    if cell.difference is None or cell.measure is None:
        reasons = [cell.status, why_not_compared(cell)] if cell.status == "not compared" else []
        return element("td", *(element("small", text) for text in reasons if text), class_="number none")
    over = cell.printed_over_same
    to = element("small", f"against {over:.2f} for the same") if over is not None else Html()
    shown = fragment([signed(cell.difference, cell.measure.decimals), " ", status(cell), to])
    return number_cell(shown, cell.difference)


def status(cell: Cell) -> Html:
    """The word; its colour says nothing that the word does not."""
    return element("span", cell.status, class_=f"status {cell.status}")
