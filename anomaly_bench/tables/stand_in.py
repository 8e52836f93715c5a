"""A table on a profile's stand-in data set, whose categories take the place of the paper's.

The paper's rows name categories that the stand-in does not have: a number of `brick` beside the label `Carpet`
would be a lie. For the same reason nothing printed is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from anomaly_bench.tables.spec import ALL, Line, Query, TableSpec


def on_stand_in(table: TableSpec, dataset: str, categories: Sequence[str]) -> TableSpec:
    """The same variants and measures on `categories` of `dataset`; what the paper only quotes is left out."""
    queries = {(row, column): table.query(row, column) for row in table.rows for column in table.columns}
    rows = [row for row in table.rows if any(queries[row, column].measurable for column in table.columns)]
    columns = [column for column in table.columns if any(queries[row, column].measurable for row in table.rows)]
    return replace(
        table,
        title=f"{table.title}, here on the data set '{dataset}'",
        runs=replace(table.runs, dataset=dataset),
        rows=_lines(rows, categories),
        columns=_lines(columns, categories),
        notes=("No printed number is shown: none was measured on this data set.",),
    )


def _lines(lines: Sequence[Line], categories: Sequence[str]) -> tuple[Line, ...]:
    """Lines about some of the paper's categories become one a stand-in category and question; others stay."""
    about_some = [line for line in lines if line.query.categories not in ((), (ALL,))]
    questions = list(dict.fromkeys(replace(line.query, categories=(), dataset=None) for line in about_some))
    label: Callable[[str, Query], str] = (
        (lambda category, question: category)
        if len(questions) == 1
        else (lambda category, question: f"{category} {question.metric or question.method}")
    )
    replaced = [
        Line(label(category, question), "", replace(question, categories=(category,)))
        for category in categories
        for question in questions
    ]
    kept = [
        replace(line, printed="", query=replace(line.query, dataset=None)) for line in lines if line not in about_some
    ]
    names = {line.name for line in kept}
    kept = [line if line.reference in names else replace(line, reference="") for line in kept]
    return (*replaced, *kept)
