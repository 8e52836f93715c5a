"""With three seeds a table says which differences between its own lines hold; and what a lost record changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anomaly_bench.bench.profiles import PROFILES
from anomaly_bench.bench.spec import EvalSpec
from anomaly_bench.bench.store import Record
from anomaly_bench.tables.build import BuiltTable, build_table
from anomaly_bench.tables.index import Index
from anomaly_bench.tables.printed import load_printed
from anomaly_bench.tables.render import to_csv, to_markdown
from anomaly_bench.tables.scores import Scores
from anomaly_bench.tables.spec import load_table, table_names
from tests.tables.made_store import made_table_store

NAME = "variance_rd/table5"  # D1 is held against D3


def scores(record: Record, _: EvalSpec, *, better: bool) -> Scores:
    """Of 40 images; with `better`, those of D1 alone are told apart."""
    generator = np.random.default_rng([record.spec.seed, sum(map(ord, record.spec.category))])
    labels = np.arange(40) >= 15
    gain = 1.5 if better and dict(record.spec.options).get("variance_stages", (1,)) == (1,) else 0.0
    noise = generator.normal(size=40)
    return Scores(tuple(map(str, range(40))), labels, noise + gain * labels, labels / 10)


def built(seeds: tuple[int, ...], *, better: bool) -> BuiltTable:
    made = made_table_store(load_table(NAME), PROFILES["paper"], seeds=seeds)
    index = Index.of(made.records, lambda record, rule: scores(record, rule, better=better))
    return build_table(load_table(NAME), PROFILES["paper"], index, load_printed(NAME), Path())


def test_a_difference_that_holds_is_marked_and_one_of_nothing_is_not() -> None:
    image, pixel = built((0, 1, 2), better=True).cells
    assert (image[0].reference, image[2].interval) == ("D3", None)
    assert image[0].interval is not None
    assert image[0].interval.low > 0.2
    assert pixel[0].interval is None, "only image scores are kept"
    text = to_markdown(built((0, 1, 2), better=True))
    assert [line.count(" ▲") for line in text.splitlines() if line.startswith("| Image level")] == [1]
    assert "▲ above, ▼ below the reference (D3), ○ no difference that holds" in text
    assert "D1,%,99.19" in to_csv(built((0, 1, 2), better=True))
    nothing = to_markdown(built((0, 1, 2), better=False))
    assert [(line.count(" ▲"), line.count(" ○")) for line in nothing.splitlines() if line.startswith("| Image")] == [
        (0, 1)
    ]


def test_two_seeds_are_too_few_for_a_test() -> None:
    table = built((0, 1), better=True)
    assert all(cell.interval is None for row in table.cells for cell in row)
    assert "▲" not in to_markdown(table)


def test_lost_scores_leave_the_test_out() -> None:
    made = made_table_store(load_table(NAME), PROFILES["paper"], seeds=(0, 1, 2))
    table = build_table(load_table(NAME), PROFILES["paper"], Index.of(made.records), load_printed(NAME), Path())
    assert all(cell.interval is None and cell.measured is not None for row in table.cells for cell in row)


def test_sides_that_saw_other_images_are_not_tested_and_the_table_is_still_built() -> None:
    made = made_table_store(load_table(NAME), PROFILES["paper"], seeds=(0, 1, 2))

    def other_images(record: Record, rule: EvalSpec) -> Scores:
        whole = scores(record, rule, better=True)
        first = int(record.spec.seed == 2)  # one seed's data lack an image
        return Scores(whole.names[first:], whole.labels[first:], whole.scores[first:], whole.shares[first:])

    index = Index.of(made.records, other_images)
    table = build_table(load_table(NAME), PROFILES["paper"], index, load_printed(NAME), Path())
    assert all(cell.interval is None and cell.measured is not None for row in table.cells for cell in row)


@pytest.mark.parametrize("name", table_names())
def test_a_deleted_record_changes_the_cells_that_showed_it_and_no_other(name: str) -> None:
    table, printed = load_table(name), load_printed(name)
    made = made_table_store(table, PROFILES["paper"], seeds=(0,))
    lost = made.records[-1]
    whole, without = (
        build_table(table, PROFILES["paper"], Index.of(records, made.scores_of), printed, Path())
        for records in (made.records, made.records[:-1])
    )
    changed = 0
    for cells, others in zip(whole.cells, without.cells, strict=True):
        for cell, other in zip(cells, others, strict=True):
            if lost not in cell.records:
                assert other.measured == cell.measured
                # Whether the lost category has defects of a size, its record alone could tell.
                assert other == cell or name == "ast_mfr/table3"
            else:
                changed += 1
                assert lost not in other.records
                assert other.measured is None or len(other.categories) < len(cell.categories)
                assert other.measured is not None or other.reason in ("not run", "no such defects; not run")
    assert changed
