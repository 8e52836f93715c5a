"""What the papers contradict themselves in, leave open or misprint, each remark once with all its places."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from anomaly_bench.tables.build import BuiltTable
from anomaly_bench.tables.report.markup import Html, element, fold, fragment, items, prose
from anomaly_bench.tables.report.names import by_paper, link, paper_title, table_id, table_label

FEW = 4  # cells that are named one by one


def contradictions(tables: Sequence[BuiltTable]) -> Iterator[Html]:
    """By paper: the remarks on its tables, and those on single printed numbers."""
    yield element("h2", "The papers' own contradictions, gaps and misprints", id="contradictions")
    for paper, group in by_paper(_of_papers(tables)).items():
        remarks, odd = list(_remarks(group)), list(_odd_numbers(group))
        if remarks or odd:
            said = f": {len(remarks)} on tables and text, {len(odd)} on single numbers"
            heading = element("h4", "Single printed numbers") if odd else Html()
            yield fold(fragment([element("b", paper_title(paper)[0]), said]), items(remarks), heading, items(odd))


def _of_papers(tables: Sequence[BuiltTable]) -> list[BuiltTable]:
    """Each table once; on stand-in data a table has other notes, and prints nothing."""
    return list({built.spec.name: built for built in reversed(tables) if built.profile.dataset is None}.values())[::-1]


def _remarks(tables: Sequence[BuiltTable]) -> Iterator[Html]:
    places: dict[str, list[BuiltTable]] = defaultdict(list)
    for built in tables:
        for note in built.spec.notes:
            places[note].append(built)
    for note, where in places.items():
        yield fragment([prose(note), " ", element("span", *_joined(map(_table_link, where)), class_="where")])


def _odd_numbers(tables: Sequence[BuiltTable]) -> Iterator[Html]:
    places: dict[str, dict[str, tuple[BuiltTable, list[str]]]] = defaultdict(dict)
    for built in tables:
        for row, cells in zip(built.spec.rows, built.cells, strict=True):
            for column, cell in zip(built.spec.columns, cells, strict=True):
                if cell.printed.note:
                    place = f"{row.printed} / {column.printed}"
                    _, cells_of = places[cell.printed.note].setdefault(built.spec.name, (built, []))
                    cells_of += [] if place in cells_of else [place]
    for note, where in places.items():
        shown = (fragment([_table_link(built), f" ({_named(cells)})"]) for built, cells in where.values())
        yield fragment([prose(note), " ", element("span", *_joined(shown), class_="where")])


def _named(cells: Sequence[str]) -> str:
    return "; ".join(cells) if len(cells) <= FEW else f"{len(cells)} numbers"


def _table_link(built: BuiltTable) -> Html:
    return link(table_id(built), table_label(built.spec.name))


def _joined(parts: Iterator[Html]) -> Iterator[str]:
    for index, part in enumerate(parts):
        yield from (", ", part) if index else (part,)
