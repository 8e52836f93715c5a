"""Every table from a hand-made store, against a file that a person has read; `--update-golden` writes them anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from anomaly_bench.bench.profiles import PROFILES
from anomaly_bench.tables.build import BuiltTable, Index, build_table
from anomaly_bench.tables.printed import load_printed
from anomaly_bench.tables.render import RENDERERS
from anomaly_bench.tables.spec import load_table, table_names
from tests.tables.made_store import CATEGORIES, made_record, value, with_data

GOLDEN = Path(__file__).parent / "golden"
NO_DATA = Path("no data are needed")


def built(name: str) -> BuiltTable:
    """All categories but two, one of them incomplete, one a resized copy, one with a second seed."""
    records = [made_record(category) for category in CATEGORIES if category not in ("cable", "zipper")]
    records[0] = with_data(records[0], image_sizes=[[512, 512]], resized=True)
    counts = records[-3].evidence["data"]["counts"] | {"test_good": 1}
    records[-3] = with_data(records[-3], counts=counts, complete=False)
    records.append(made_record("screw", seed=1))
    records += [made_record(category, method="fmm_scsatt") for category in ("bottle", "pill")]
    return build_table(load_table(name), PROFILES["lite"], Index.of(records), load_printed(name), NO_DATA)


@pytest.mark.parametrize("suffix", sorted(RENDERERS))
@pytest.mark.parametrize("name", table_names())
def test_table_is_its_golden_file(name: str, suffix: str, request: pytest.FixtureRequest) -> None:
    text = RENDERERS[suffix](built(name))
    path = GOLDEN / f"{name.replace('/', '-')}.{suffix}"
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
    assert text == RENDERERS[suffix](built(name)), "built twice it must be the same bytes"


@pytest.mark.parametrize("name", table_names())
def test_every_measured_number_stands_in_its_own_row_and_column(name: str) -> None:
    table = built(name)
    seen = 0
    for row, cells in zip(table.spec.rows, table.cells, strict=True):
        for column, cell in zip(table.spec.columns, cells, strict=True):
            query = table.spec.query(row, column)
            if cell.measured is None or len(query.categories) != 1 or query.categories == ("all",):
                continue
            category, seeds = query.categories[0], [record.spec.seed for record in cell.records]
            expected = [100 * value(category, str(query.metric), seed, str(query.method)) for seed in seeds]
            assert cell.measured == pytest.approx(sum(expected) / len(expected))
            seen += 1
    assert seen


def test_a_swapped_column_changes_the_table() -> None:
    name = "fmm_scsatt/table3"
    table = built(name)
    first, second = (index for index, line in enumerate(table.spec.columns) if line.name in ("RD AUROC", "RD PRO"))
    columns = list(table.spec.columns)
    columns[first], columns[second] = (
        replace(columns[first], query=columns[second].query),
        replace(columns[second], query=columns[first].query),
    )
    swapped = replace(table.spec, columns=tuple(columns))
    index = Index.of(table.records)
    other = build_table(swapped, PROFILES["lite"], index, load_printed(name), NO_DATA)
    assert RENDERERS["csv"](other) != RENDERERS["csv"](table)


def test_every_printed_number_is_shown_where_the_paper_has_it() -> None:
    for name in table_names():
        printed, table = load_printed(name), built(name)
        shown = {
            (row.printed, column.printed): cell.printed
            for row, cells in zip(table.spec.rows, table.cells, strict=True)
            for column, cell in zip(table.spec.columns, cells, strict=True)
        }
        assert shown == printed
