"""The papers' printed numbers: all there, none without its table, and known where they contradict themselves."""

from __future__ import annotations

import statistics
from decimal import Decimal

import pytest

from anomaly_bench.tables.measures import MEASURES
from anomaly_bench.tables.printed import PRINTED, load_printed
from anomaly_bench.tables.spec import load_table, table_names

# Cells, those among them without a number, and the sum of the numbers, all taken from the papers apart from the files.
EXPECTED = {
    "ast_mfr/table1": (192, 95, "9327.4"),
    "ast_mfr/table2": (24, 6, "1723.3"),
    "ast_mfr/table3": (48, 4, "4356.7"),
    "ast_mfr/table4": (8, 0, "779.8"),
    "ast_mfr/table5": (15, 0, "804.0"),
    "ast_mfr/table6": (8, 0, "784.7"),
    "ast_mfr/table7": (14, 0, "1374.5"),
    "ast_mfr/table8": (16, 0, "1565.4"),
    "ast_mfr/table9": (22, 0, "2170.1"),
    "ast_mfr/fig6": (10, 10, "0"),
    "dlkd/table1": (112, 0, "10946.14"),
    "dlkd/table2": (42, 0, "4008.12"),
    "dlkd/table3": (48, 0, "3736.55"),
    "dlkd/table4": (9, 0, "873.11"),
    "dlkd/table5": (9, 0, "875.29"),
    "fmm_scsatt/table1": (224, 15, "18409.8"),
    "fmm_scsatt/table2": (88, 0, "6682.9"),
    "fmm_scsatt/table3": (448, 80, "32755.1"),
    "fmm_scsatt/table4": (9, 0, "875.6"),
    "fmm_scsatt/table5": (6, 0, "585.7"),
    "fmm_scsatt/table6": (12, 0, "1168.4"),
    "fmm_scsatt/table7": (21, 0, "2016.0"),
    "variance_rd/table1": (64, 0, "6295.1"),
    "variance_rd/table2": (3, 0, "6668.4"),
    "variance_rd/table3": (8, 0, "628.09"),
    "variance_rd/table4": (8, 0, "786.31"),
    "variance_rd/table5": (8, 0, "787.35"),
    "variance_rd/fig4": (10, 10, "0"),
}

# The rows that are means of all others. ast_mfr/table1 is not here: most of its column is unreadable.
MEAN_ROWS = {
    "fmm_scsatt/table1": "Mean",
    "fmm_scsatt/table2": "Mean",
    "fmm_scsatt/table3": "Mean",
    "ast_mfr/table3": "average",
    "ast_mfr/table9": "average",
    "variance_rd/table1": "Average",
    "dlkd/table1": "Average",
}

# Printed means that are not the mean of what they are of, with what that mean is.
WRONG_MEANS = {
    ("fmm_scsatt/table1", "Mean", "SSIM-AE"): "63.47",
    ("fmm_scsatt/table1", "Mean", "AnoGAN"): "55.60",
    ("fmm_scsatt/table1", "Mean", "PaDiM"): "95.42",
    ("fmm_scsatt/table1", "Mean", "CutPaste"): "96.16",
    ("fmm_scsatt/table1", "Mean", "RecDMs"): "97.85",
    ("fmm_scsatt/table1", "Mean", "CA-AE"): "91.39",
    ("fmm_scsatt/table3", "Mean", "L2-AE PRO"): "79.07",
    ("fmm_scsatt/table3", "Mean", "SSIM-AE AUROC"): "84.00",
    ("fmm_scsatt/table3", "Mean", "SSIM-AE PRO"): "69.46",
    ("fmm_scsatt/table3", "Mean", "AnoGAN AUROC"): "74.87",
    ("fmm_scsatt/table3", "Mean", "AnoGAN PRO"): "44.70",
    ("fmm_scsatt/table3", "Mean", "STPM AUROC"): "97.09",
    ("fmm_scsatt/table3", "Mean", "STPM PRO"): "92.43",
    ("fmm_scsatt/table3", "Mean", "RecDMs AUROC"): "94.19",
    ("fmm_scsatt/table3", "Mean", "Ours AUROC"): "98.58",
    ("fmm_scsatt/table3", "Mean", "Ours PRO"): "95.99",
    ("dlkd/table1", "Average", "DRAEM"): "97.64",
    ("dlkd/table1", "Average", "RD"): "98.75",
    ("dlkd/table2", "STFPM", "PRO Total"): "93.29",
    ("dlkd/table2", "DRAEM", "Pixel-AUROC Total"): "96.17",
    ("dlkd/table2", "Noco", "PRO Total"): "92.09",
}


def numbers(table: str) -> dict[tuple[str, str], Decimal]:
    """What the paper prints, by row and column."""
    return {place: Decimal(cell.text) for place, cell in load_printed(table).items() if cell.text}


def parts_of_means() -> dict[tuple[str, str, str], list[Decimal]]:
    """The printed numbers that each printed mean is of, by table, row and column."""
    parts = {}
    for table, mean in MEAN_ROWS.items():
        values = numbers(table)
        for row, column in values:
            if row == mean:
                parts[table, row, column] = [v for (r, c), v in values.items() if c == column and r != mean]
    by_kind, by_product = numbers("dlkd/table2"), numbers("dlkd/table3")
    for row, column in by_kind:
        kind, _, which = column.partition(" ")
        if which == "Total":  # MVTec AD has 5 textures and 10 objects
            parts["dlkd/table2", row, column] = [
                *[by_kind[row, f"{kind} Textures"]] * 5,
                *[by_kind[row, f"{kind} Objects"]] * 10,
            ]
    for row, column in by_product:
        product, _, measure = column.partition(" ")
        if product == "Avg":
            parts["dlkd/table3", row, column] = [by_product[row, f"{p} {measure}"] for p in ("01", "02", "03")]
    return {place: found for place, found in parts.items() if found}


def decimals(table: str) -> int:
    return max(len(str(value).partition(".")[2]) for value in numbers(table).values())


def test_every_table_has_its_printed_numbers_and_its_expected_ones() -> None:
    files = {f"{path.parent.name}/{path.stem}" for path in PRINTED.glob("*/*.csv")}
    assert {name for name in table_names() if load_table(name).printed} == files == set(EXPECTED)


@pytest.mark.parametrize("table", EXPECTED)
def test_every_cell_of_the_paper_is_there_with_its_number(table: str) -> None:
    values, cells = numbers(table), load_printed(table)
    assert (len(cells), len(cells) - len(values), sum(values.values())) == (
        *EXPECTED[table][:2],
        Decimal(EXPECTED[table][2]),
    )


def test_the_printed_means_that_are_none_are_the_known_ones_and_say_so() -> None:
    parts, wrong = parts_of_means(), {}
    for (table, row, column), values in parts.items():
        mean, half_a_digit = statistics.mean(values), Decimal(5).scaleb(-decimals(table) - 1)
        if abs(mean - numbers(table)[row, column]) > half_a_digit:
            wrong[table, row, column] = f"{mean:.2f}"
            assert f"{mean:.2f}" in load_printed(table)[row, column].note
    assert len(parts) == 86
    assert wrong == WRONG_MEANS


@pytest.mark.parametrize("table", EXPECTED)
def test_a_cell_without_a_number_says_why(table: str) -> None:
    assert [place for place, cell in load_printed(table).items() if not cell.text and not cell.note] == []


@pytest.mark.parametrize("table", EXPECTED)
def test_the_table_shows_all_printed_cells_and_asks_for_no_others(table: str) -> None:
    spec = load_table(table)
    asked = {(row.printed, column.printed) for row in spec.rows for column in spec.columns}
    assert {place for place in asked if all(place)} == set(load_printed(table))


@pytest.mark.parametrize("table", EXPECTED)
def test_what_is_measured_beside_a_printed_number_has_its_unit(table: str) -> None:
    spec, printed = load_table(table), load_printed(table)
    measured = 0
    for row in spec.rows:
        for column in spec.columns:
            query = spec.query(row, column)
            if query.measurable and row.printed and column.printed:
                unit = "%" if query.relative_to else MEASURES[str(query.metric)].unit
                assert printed[row.printed, column.printed].unit == unit
                measured += 1
    assert measured
