"""A table's YAML: a mistake is one sentence with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from anomaly_bench.bench.profiles import PROFILES
from anomaly_bench.errors import UserError
from anomaly_bench.tables.plan import table_runs
from anomaly_bench.tables.spec import EXPERIMENTS, TableSpec, load_table, read_table, table_names
from anomaly_bench.tables.stand_in import on_stand_in
from anomaly_bench.tables.yaml_lines import load_mapping

GOOD = """\
title: A table
runs: {dataset: mvtec, metric: image_auroc}
rows:
  - {name: Bottle, categories: [bottle]}
  - {name: Mean, categories: all}
columns:
  - {name: RD, method: rd}
"""


def read(tmp_path: Path, text: str) -> object:
    path = tmp_path / "table9.yaml"
    path.write_text(text)
    return read_table(path)


def test_a_table_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD).title == "A table"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("method: rd", "method: rdd", "table9.yaml:7: unknown method 'rdd'; did you mean 'rd'?"),
        ("metric: image_auroc", "metric: image_aurc", "table9.yaml:2: unknown metric 'image_aurc'; did you mean"),
        ("dataset: mvtec", "dataset: mvtek", "table9.yaml:2: unknown dataset 'mvtek'; did you mean 'mvtec'?"),
        ("name: Mean", "name: Bottle", "table9.yaml:5: rows has 'Bottle' twice; rename one."),
        ("columns:", "colums:", "table9.yaml:1: unknown key 'colums'; did you mean 'columns'?"),
        ("name: RD, ", "", "table9.yaml:7: key 'name' is missing; add it."),
        ("name: RD,", "name: RD, metod: rd,", "table9.yaml:7: unknown key 'metod'; did you mean 'method'?"),
        ("method: rd", "method: rd, method: rd", "table9.yaml:7: duplicate key 'method'; keep one."),
        ("[bottle]", "[bottle", "table9.yaml:4: not valid YAML ("),
        ("- {name: RD, method: rd}", "- RD", "an entry of columns is not a mapping like {name: ...}; correct it."),
        ("RD, ", "RD, compare: 1, ", "table9.yaml:7: compare must be true, false or a list of names; correct it."),
        ("RD, ", "RD, compare: [Botle], ", "'RD' is compared in an unknown 'Botle'; did you mean 'Bottle'?"),
        (
            "columns:\n",
            "notes:\ncolumns:\n",
            "table9.yaml:1: notes is a list of entries, each behind a hyphen; correct it.",
        ),
        ("columns:\n", "notes: foo\ncolumns:\n", "table9.yaml:1: notes is a list of entries"),
        ("columns:\n  - {name: RD, method: rd}", "columns:", "table9.yaml:1: columns is a list of entries"),
        ("{dataset: mvtec, metric: image_auroc}", "", "table9.yaml:1: runs is a mapping such as {dataset: mvtec,"),
        ("{dataset: mvtec, metric: image_auroc}", "x", "table9.yaml:1: runs is a mapping such as {dataset: mvtec,"),
        (", method: rd", "", "table9.yaml:1: no cell has method, dataset, categories and metric"),
    ],
)
def test_a_mistake_is_one_sentence_with_file_and_line(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    assert old in GOOD
    with pytest.raises(UserError) as error:
        read(tmp_path, GOOD.replace(old, new, 1))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_in_another_coding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table9.yaml"
    path.write_bytes("title: Tücher".encode("latin-1"))
    with pytest.raises(UserError, match=r"table9.yaml is no UTF-8 text; save it as that\."):
        read_table(path)


def test_an_option_that_the_method_does_not_have_names_the_file(tmp_path: Path) -> None:
    table = read(tmp_path, GOOD.replace("method: rd", "method: rd, options: {los_form: pixel}"))
    with pytest.raises(UserError, match=r"table9.yaml: rd has no option 'los_form'; did you mean 'loss_form'\?"):
        table_runs(table, PROFILES["lite"], tmp_path)  # type: ignore[arg-type]


def test_tables_1_and_3_are_two_views_of_the_same_runs(tmp_path: Path) -> None:
    lite = PROFILES["lite"]
    first, third = (table_runs(load_table(f"fmm_scsatt/{name}"), lite, tmp_path) for name in ("table1", "table3"))
    assert first == third
    assert [run.spec.method for run in first] == ["rd", "fmm_scsatt"] * 15


def test_categories_and_seeds_limit_the_runs(tmp_path: Path) -> None:
    runs = table_runs(
        load_table("fmm_scsatt/table1"), PROFILES["paper"], tmp_path, categories=["pill", "bottle"], seeds=[5, 6]
    )
    assert [(run.spec.category, run.spec.seed, run.spec.method) for run in runs] == [
        (category, seed, method)
        for seed in (5, 6)
        for category in ("bottle", "pill")
        for method in ("rd", "fmm_scsatt")
    ]
    with pytest.raises(UserError, match=r"has no category 'botle'; did you mean 'bottle'\?"):
        table_runs(load_table("fmm_scsatt/table1"), PROFILES["paper"], tmp_path, categories=["botle"])


def test_the_smoke_profile_replaces_rows_and_never_borrows_their_names(tmp_path: Path) -> None:
    table = on_stand_in(load_table("fmm_scsatt/table1"), "synthetic", ["brick", "coins"])
    assert [row.name for row in table.rows] == ["brick", "coins", "Mean"]
    assert [column.name for column in table.columns] == ["RD", "Ours"]
    assert {line.printed for line in (*table.rows, *table.columns)} == {""}
    runs = table_runs(table, PROFILES["smoke"], tmp_path)
    assert {run.spec.dataset for run in runs} == {"synthetic"}


def test_categories_on_both_axes_keep_their_measures_on_a_stand_in() -> None:
    btad = on_stand_in(load_table("dlkd/table3"), "synthetic", ["brick", "coins"])
    assert [row.name for row in btad.rows] == ["DLKD"], "what is only quoted is left out"
    asked = {(line.query.categories, line.query.metric) for line in btad.columns}
    for category in ("brick", "coins"):
        assert {metric for categories, metric in asked if categories == (category,)} >= {"image_auroc", "pixel_auroc"}
    assert len({line.name for line in btad.columns}) == len(btad.columns)


@pytest.mark.parametrize("name", table_names())
def test_no_variant_is_lost_on_a_stand_in(name: str) -> None:
    def variants(table: TableSpec) -> set[tuple[object, ...]]:
        queries = [table.query(row, column) for row in table.rows for column in table.columns]
        return {(query.method, query.options, query.metric, query.relative_to) for query in queries if query.measurable}

    whole = load_table(name)
    assert variants(on_stand_in(whole, "synthetic", ["brick"])) == variants(whole)


def test_a_row_that_names_a_larger_network_is_left_out_of_lite(tmp_path: Path) -> None:
    table = load_table("fmm_scsatt/table4")
    runs = table_runs(table, PROFILES["lite"], tmp_path, categories=["bottle"])
    assert {run.spec.protocol.teacher for run in runs} == {"resnet18.tv_in1k"}
    smoke = on_stand_in(table, "synthetic", ["brick"])
    named = {run.spec.protocol.teacher for run in table_runs(smoke, PROFILES["smoke"], tmp_path)}
    assert named == {"resnet18.random", "resnet50.random", "wide_resnet50_2.random"}


def test_an_unknown_reference_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "fmm_scsatt" / "table9.yaml"
    path.parent.mkdir()
    path.write_text(
        "title: T\nruns: {dataset: mvtec, categories: all, metric: image_auroc}\n"
        "rows:\n  - {name: A, method: rd}\n  - {name: B, method: rd, reference: Bb}\ncolumns:\n  - {name: C}\n"
    )
    with pytest.raises(UserError, match=r"table9.yaml:5: 'B' has an unknown reference 'Bb'; choose one of: A, B"):
        read_table(path)


def numbers(value: object) -> list[object]:
    """Every number in a YAML's content but those among options."""
    if isinstance(value, dict):
        return [found for key, entry in value.items() if key != "options" for found in numbers(entry)]
    if isinstance(value, list):
        return [found for entry in value for found in numbers(entry)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


@pytest.mark.parametrize("name", table_names())
def test_a_yaml_holds_no_number(name: str) -> None:
    assert numbers(load_mapping(EXPERIMENTS / f"{name}.yaml")) == []
