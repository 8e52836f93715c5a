"""Every table from a hand-made store, against a file that a person has read; `--update-golden` writes them anew."""

from __future__ import annotations

import functools
import itertools
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from anomaly_bench.bench.profiles import PROFILES
from anomaly_bench.bench.spec import PlannedRun
from anomaly_bench.tables.build import BuiltTable, build_table
from anomaly_bench.tables.index import Index
from anomaly_bench.tables.plan import cell_runs
from anomaly_bench.tables.printed import load_printed
from anomaly_bench.tables.render import LATEX_COLUMNS, RENDERERS, lay_out, to_latex
from anomaly_bench.tables.spec import Query, load_table, table_names
from tests.tables.made_store import CATEGORIES, MadeStore, made_record, made_table_store, with_data

GOLDEN = Path(__file__).parent / "golden"
NO_DATA = Path("no data are needed")
LAID_OUT = ("fmm_scsatt/table1", "ast_mfr/table5", "variance_rd/table2")  # these also as LaTeX and HTML
PARTIAL = "partial"  # of fmm_scsatt's table 1: a store as it is half-way


@functools.cache
def store(name: str) -> MadeStore:
    return made_table_store(load_table(name), PROFILES["paper"], seeds=(0, 1))


@functools.cache
def built(name: str) -> BuiltTable:
    """Two of three seeds of everything that the table asks for; for `PARTIAL` all categories but two, one of them
    incomplete, one a resized copy, one with a second seed."""
    if name != PARTIAL:
        index = Index.of(store(name).records, store(name).scores_of)
        return build_table(load_table(name), PROFILES["paper"], index, load_printed(name), NO_DATA)
    records = [made_record(category) for category in CATEGORIES if category not in ("cable", "zipper")]
    records[0] = with_data(records[0], image_sizes=[[512, 512]], resized=True)
    counts = records[-3].evidence["data"]["counts"] | {"test_good": 5}
    records[-3] = with_data(records[-3], counts=counts, complete=False)
    records.append(made_record("screw", seed=1))
    records += [made_record(category, method="fmm_scsatt") for category in ("bottle", "pill")]
    table = load_table("fmm_scsatt/table1")
    return build_table(table, PROFILES["lite"], Index.of(records), load_printed(table.name), NO_DATA)


GOLDENS = [
    *((name, suffix) for name in table_names() for suffix in ("csv", "md")),
    *((name, suffix) for name in (*LAID_OUT, PARTIAL) for suffix in ("tex", "html")),
    *((PARTIAL, suffix) for suffix in ("csv", "md")),
]


@pytest.mark.parametrize(("name", "suffix"), GOLDENS)
def test_table_is_its_golden_file(name: str, suffix: str, request: pytest.FixtureRequest) -> None:
    text = RENDERERS[suffix](built(name))
    path = GOLDEN / f"{name.replace('/', '-')}.{suffix}"
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_there_is_a_golden_file_for_every_table_and_no_other() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == {
        f"{name.replace('/', '-')}.{suffix}" for name, suffix in GOLDENS
    }


@pytest.mark.parametrize("name", [*table_names(), PARTIAL])
def test_a_table_built_twice_is_the_same_bytes(name: str) -> None:
    first = built(name)
    built.cache_clear()
    assert [render(first) for render in RENDERERS.values()] == [render(built(name)) for render in RENDERERS.values()]


SIZES = ("image_auroc_small", "image_auroc_middle", "image_auroc_large")
COSTS = {
    "parameters_student": ("parameters_student", 1e-6),
    "multiply_accumulates_student": ("multiply_accumulates_student", 1e-9),
    "latency": ("seconds_latency", 1e3),
    "seconds_train": ("seconds_train", 1.0),
}


def made_value(made: MadeStore, run: PlannedRun, metric: str) -> float | None:
    """What the store has for a run, None where its category has no such defects."""
    if metric in SIZES:
        size = SIZES.index(metric)
        return None if (run.spec.category, size) == ("zipper", 2) else float(made.above_good(run, size))
    if metric in COSTS:
        key, scale = COSTS[metric]
        return float(made.cost(run)[key]) * scale
    return made.percent(run, metric)


@pytest.mark.parametrize("name", table_names())
def test_every_measured_number_stands_in_its_own_row_and_column(name: str) -> None:
    table, made = built(name), store(name)
    seen = 0
    for row, cells in zip(table.spec.rows, table.cells, strict=True):
        for column, cell in zip(table.spec.columns, cells, strict=True):
            query = table.spec.query(row, column)
            if not query.measurable or query.partner:
                continue
            runs = [
                run for seed in (0, 1) for run in cell_runs(query, PROFILES["paper"], NO_DATA, table=name, seed=seed)
            ]
            values = [made_value(made, run, str(query.metric)) for run in runs]
            known = [value for value in values if value is not None]
            seen += 1
            if known:
                assert cell.measured == pytest.approx(statistics.fmean(known), abs=1e-9), (row.name, column.name)
            else:
                assert cell.reason == "no such defects"
    assert seen


def test_an_overhead_is_that_of_pairs() -> None:
    table, made = built("variance_rd/table2"), store("variance_rd/table2")
    [cell] = [cell for row in table.cells for cell in row if cell.unit == "%" and cell.measured is not None]
    with_it, without = ({r.spec.seed: r.cost["seconds_train"] for r in made.records if r.spec.method == method}
                        for method in ("variance_rd", "rd"))  # fmt: skip
    ratios = [100 * (with_it[seed] / without[seed] - 1) for seed in (0, 1)]
    assert cell.measured == pytest.approx(statistics.fmean(ratios))
    assert cell.std == pytest.approx(statistics.stdev(ratios * 15))


def test_an_overhead_of_some_seeds_says_which_and_its_mean_and_spread_are_of_the_same_pairs() -> None:
    made = store("variance_rd/table2")
    records = [
        replace(r, cost=r.cost | {"device": "another"})
        if (r.spec.method, r.spec.category, r.spec.seed) == ("rd", "pill", 0) else r
        for r in made.records
    ]  # fmt: skip
    spec = load_table("variance_rd/table2")
    table = build_table(spec, PROFILES["paper"], Index.of(records, made.scores_of), load_printed(spec.name), Path())
    [cell] = [cell for row in table.cells for cell in row if cell.unit == "%" and cell.measured is not None]
    assert (cell.seeds, cell.seeds_left_out) == ((1,), (0,))
    assert {record.spec.seed for record in cell.records} == {1}
    assert len(cell.records) == 2 * 15  # pairs


@pytest.mark.parametrize("name", table_names())
@pytest.mark.parametrize("axis", ["rows", "columns"])
def test_two_lines_that_change_places_change_the_table(name: str, axis: str) -> None:
    table = built(name)
    lines = list(getattr(table.spec, axis))
    asking = [index for index, line in enumerate(lines) if line.query != Query()]
    for first, second in itertools.pairwise(asking):
        one, other = lines[first], lines[second]
        if one.query == other.query:
            continue
        exchanged = list(lines)
        exchanged[first], exchanged[second] = replace(one, query=other.query), replace(other, query=one.query)
        swapped = replace(table.spec, **{axis: tuple(exchanged)})
        index = Index.of(store(name).records, store(name).scores_of)
        built_so = build_table(swapped, PROFILES["paper"], index, load_printed(name), NO_DATA)
        assert RENDERERS["csv"](built_so) != RENDERERS["csv"](table), (one.name, other.name)


def test_every_printed_number_is_shown_where_the_paper_has_it() -> None:
    for name in table_names():
        printed, table = load_printed(name), built(name)
        shown = {
            (row.printed, column.printed): cell.printed
            for row, cells in zip(table.spec.rows, table.cells, strict=True)
            for column, cell in zip(table.spec.columns, cells, strict=True)
            if row.printed and column.printed and table.spec.printed
        }
        assert shown == printed


def test_latex_keeps_code_and_sets_no_more_than_a_page_holds_side_by_side() -> None:
    text = to_latex(built("ast_mfr/table9"))
    assert r"\texttt{-{}-set background=sam}" in text
    wide = to_latex(built("dlkd/table3"))
    assert max(line.count(" & ") for line in wide.splitlines()) == LATEX_COLUMNS
    heads = [head for line in wide.splitlines() if "shortstack" in line for head in line.split(" & ")[1:]]
    assert len(heads) == len(lay_out(built("dlkd/table3")).columns) - 1
