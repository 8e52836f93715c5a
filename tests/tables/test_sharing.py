"""Cells that are to be compared are means over the same seeds, or say that they are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from anomaly_bench.bench.profiles import PROFILES
from anomaly_bench.bench.store import Record
from anomaly_bench.tables.build import BuiltTable, Cell, build_table
from anomaly_bench.tables.header import header_lines
from anomaly_bench.tables.index import Index
from anomaly_bench.tables.printed import load_printed
from anomaly_bench.tables.render import lay_out
from anomaly_bench.tables.sharing import shared_by_most
from anomaly_bench.tables.spec import load_table
from tests.tables.made_store import made_record

NAME = "fmm_scsatt/table5"
GLOBAL = {"loss_form": "global"}


def built(*records: Record) -> BuiltTable:
    return build_table(load_table(NAME), PROFILES["lite"], Index.of(list(records)), load_printed(NAME), Path())


def images(table: BuiltTable) -> dict[str, Cell]:
    """The measured cells of the column of image AUROCs, by row."""
    cells = {row.name: cells[0] for row, cells in zip(table.spec.rows, table.cells, strict=True)}
    return {name: cell for name, cell in cells.items() if cell.records}


def run(seed: int, category: str = "bottle", **settings: Any) -> Record:
    return made_record(category, method="fmm_scsatt", seed=seed, **settings)


def test_a_row_of_three_seeds_is_cut_down_to_the_one_seed_of_the_others() -> None:
    default = [run(seed) for seed in (0, 1, 2)]
    table = built(*default, run(0, fmm=False), run(0, **GLOBAL))
    cells = images(table)
    assert list(cells) == ["baseline", "baseline+FMM", "baseline+FMM, global loss"]
    assert {(cell.seeds, cell.std, cell.seeds_differ) for cell in cells.values()} == {((0,), None, False)}
    cut = cells["baseline+FMM"]
    assert (cut.seeds_unshared, cut.records) == ((1, 2), (default[0],))
    assert cut.measured == pytest.approx(100 * (default[0].metrics["image_auroc"] or 0))
    assert any("seed 0 only, for others to be compared lack 1, 2" in note for note in lay_out(table).footnotes)
    assert dict(header_lines(table))["Seeds"] == "0"


def test_one_row_of_one_seed_among_rows_of_three_cuts_none_down_and_all_say_their_seeds() -> None:
    full = [run(seed, **settings) for settings in ({}, GLOBAL, {"fmm": False}) for seed in (0, 1, 2)]
    table = built(*full, run(0, mask_rate=0.0))
    assert sorted(cell.seeds for cell in images(table).values()) == [(0,), *[(0, 1, 2)] * 3]
    assert all(cell.seeds_differ for cell in images(table).values())
    warnings = " | ".join(text for label, text in header_lines(table) if label == "WARNING")
    assert "means over different seeds" in warnings
    notes = " | ".join(lay_out(table).footnotes)
    assert "of seed 0, unlike others to be compared" in notes
    assert "of seeds 0, 1, 2, unlike others to be compared" in notes


def test_seeds_are_shared_after_categories() -> None:
    """Pill is in one row alone, so it is left out first; then bottle's seeds are what is compared."""
    cells = images(built(run(0, "pill"), run(1), run(1, **GLOBAL), run(2, **GLOBAL)))
    assert {cell.categories for cell in cells.values()} == {("bottle",)}
    assert [(cell.seeds, cell.seeds_unshared) for cell in cells.values()] == [((1,), ()), ((1,), (2,))]


@pytest.mark.parametrize(
    ("sets", "shared"),
    [
        ([{0, 1, 2}, {0}], {0}),
        ([{0, 1, 2}, {0, 1, 2}, {0, 1, 2}, {0}], {0, 1, 2}),
        ([{0, 1}, {1, 2}], {1}),
        ([{0}, {1}, {1}], {1}),
    ],
)
def test_what_most_share_weighs_cells_in_pairs(sets: list[set[int]], shared: set[int]) -> None:
    assert shared_by_most([frozenset(own) for own in sets]) == shared
