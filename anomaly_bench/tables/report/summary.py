"""What all tables together say: how much is measured, what does not reproduce, which differences hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from anomaly_bench.bench.profiles import Profile
from anomaly_bench.tables.build import BuiltTable, Cell
from anomaly_bench.tables.header import header_lines
from anomaly_bench.tables.parts import stands_beside_print
from anomaly_bench.tables.report.article import status
from anomaly_bench.tables.report.markup import Html, element, fold, fragment, items, number_cell, plain_table
from anomaly_bench.tables.report.names import (
    by_paper,
    follows_paper,
    link,
    paper_title,
    profiles_of,
    row_id,
    table_id,
    table_label,
)
from anomaly_bench.tables.report.provenance import bounds, shortfalls, signed, spread, verdict

COUNTED = ("matches", "below", "above", "not compared", "not measured")
SAID = {"below": "below", "above": "above", "matches": "match"}

Place = tuple[int, int, Cell]  # row, column


def measured_of(tables: Sequence[BuiltTable], profile: Profile) -> tuple[int, int, int]:
    """How many cells a profile's tables measure in full, in part, and could measure at all."""
    cells = [cell for built in tables if built.profile.name == profile.name for _, _, cell in _cells(built)]
    there = [cell for cell in cells if cell.measured is not None]
    part = sum(bool(shortfalls(cell)) for cell in there)
    return len(there) - part, part, sum(cell.measurable for cell in cells)


def overview(tables: Sequence[BuiltTable]) -> Html:
    """One line a table: how many of its cells are what."""
    rows = [_overview_row(paper, built) for paper, group in by_paper(tables).items() for built in group]
    columns = ("Table", "What", "Profile", "Measured", *map(str.capitalize, COUNTED))
    return plain_table(columns, rows, "Overview", numbers=3)


def _overview_row(paper: str, built: BuiltTable) -> Iterator[Html]:
    counts = Counter(cell.status for _, _, cell in _cells(built))
    measurable = sum(counts[name] for name in COUNTED)
    measured = measurable - counts["not measured"]
    name = f"{paper_title(paper)[0]}, {table_label(built.spec.name)}"
    yield element("th", link(table_id(built), name), scope="row", class_="name")
    yield element("td", built.spec.title, class_="what")
    yield element("td", built.profile.name)
    yield number_cell(f"{measured} of {measurable}", measured / measurable if measurable else None)
    if not stands_beside_print(built):
        counts["not compared"] = 0  # there is nothing to compare with
    for name in COUNTED:
        yield number_cell(str(counts[name]) if counts[name] else "·", counts[name])


def differences(tables: Sequence[BuiltTable]) -> Iterator[Html]:
    """Two lists of the cells that are not what is printed: those that are evidence, and those that are not."""
    faithful = [built for built in tables if follows_paper(built.profile)]
    other = [built for built in tables if not follows_paper(built.profile)]
    yield element("h2", "What does not reproduce", id="differences")
    if _compared(faithful):
        yield element("p", "Cells measured under the paper's protocol that are not what the paper prints.")
        yield from _folds(faithful)
    else:
        yield element("p", "Nothing can be said yet: no cell is measured under a paper's own protocol and comparable.")
    if _compared(other):
        labels = "; ".join(profile.label for profile in profiles_of(other))
        yield element("h2", "Differences under another protocol: no evidence against the papers", id="other-protocol")
        yield element("p", f"Measured otherwise than in the papers ({labels}): they show how far that is from what is "
                      "printed, and not whether the papers' numbers can be had.")  # fmt: skip
        yield from _folds(other)


def _compared(tables: Sequence[BuiltTable]) -> bool:
    return any(cell.difference is not None for built in tables for _, _, cell in _cells(built))


def _folds(tables: Sequence[BuiltTable]) -> Iterator[Html]:
    for paper, group in by_paper(tables).items():
        folds = [_table_differences(built) for built in group if _compared([built])]
        if folds:
            yield element("h3", paper_title(paper)[0])
            yield from folds


def _table_differences(built: BuiltTable) -> Html:
    counts = Counter(cell.status for _, _, cell in _cells(built))
    said = ", ".join(f"{counts[name]} {word}" for name, word in SAID.items() if counts[name])
    heading = fragment([element("b", table_label(built.spec.name)), f" {built.spec.title}: {said}"])
    rows = [_difference_row(built, *place) for place in _cells(built) if place[2].status in ("below", "above")]
    warnings = items((text for label, text in header_lines(built) if label == "WARNING"), class_="warnings")
    label = f"Differences in {table_label(built.spec.name)}, {built.profile.name}"
    columns = ("Row", "Column", "Printed", "Measured", "Difference")
    listed = plain_table(columns, rows, label, numbers=2) if rows else Html()
    faithful = follows_paper(built.profile)
    return fold(heading, warnings, listed, open_=faithful and bool(rows), class_=None if faithful else "other")


def _difference_row(built: BuiltTable, row: int, column: int, cell: Cell) -> Iterator[Html]:
    assert cell.measure is not None
    assert cell.measured is not None
    assert cell.difference is not None
    over, decimals = cell.printed_over_same, cell.measure.decimals
    printed = cell.printed.text if over is None else f"{over:.2f}"
    lacking = [element("small", text) for text in shortfalls(cell)]
    yield element("th", link(row_id(built, row), built.spec.rows[row].name), scope="row")
    yield element("td", built.spec.columns[column].name)
    yield number_cell(printed, cell.measured - cell.difference)
    unit = "" if cell.unit == "%" else f" {cell.unit}"
    yield number_cell(fragment([spread(cell, decimals), unit, *lacking]), cell.measured)
    yield number_cell(fragment([signed(cell.difference, decimals), " ", status(cell)]), cell.difference)


def variants(tables: Sequence[BuiltTable]) -> Iterator[Html]:
    """Every paired test of a variant against its reference."""
    yield element("h2", "Which differences between variants hold", id="variants")
    tested = [(built, place) for built in tables for place in _cells(built) if place[2].interval is not None]
    if not tested:
        yield element("p", "No variant can be tested against its reference yet: that needs three seeds of both, on the "
                      "same categories.")  # fmt: skip
        return
    yield element("p", "The difference in image AUROC to a reference, in points, with its 95 % interval from a paired "
                  "bootstrap over test images and seeds. ▲ above, ▼ below: 0 is not in the interval. ○ no difference "
                  "that holds.")  # fmt: skip
    columns = ("Variant", "Reference", "In", "Table", "Profile", "Verdict", "Difference", "95 % interval")
    rows = [_variant_row(built, *place) for built, place in tested]
    yield plain_table(columns, rows, "Tests between variants", numbers=6)


def _variant_row(built: BuiltTable, row: int, column: int, cell: Cell) -> Iterator[Html]:
    assert cell.interval is not None
    lines = built.spec.rows[row], built.spec.columns[column]
    variant, other = lines if lines[0].reference else lines[::-1]
    sign, words = verdict(cell.interval)
    name = f"{paper_title(built.spec.name.partition('/')[0])[0]}, {table_label(built.spec.name)}"
    yield element("th", link(row_id(built, row), variant.name), scope="row")
    yield element("td", cell.reference)
    yield element("td", other.name)
    yield element("td", name)
    yield element("td", built.profile.name)
    yield element("td", f"{sign} {words}")
    yield number_cell(signed(100 * cell.interval.difference, 2), cell.interval.difference)
    yield number_cell(bounds(cell.interval), cell.interval.low)


def _cells(built: BuiltTable) -> Iterator[Place]:
    for row, cells in enumerate(built.cells):
        for column, cell in enumerate(cells):
            yield row, column, cell
