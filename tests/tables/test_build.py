"""What a cell says when all is well, and when it is not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from anomaly_bench.bench.profiles import PROFILES, Profile
from anomaly_bench.bench.spec import EvalSpec
from anomaly_bench.bench.store import STANDS_IN, Failure, Record
from anomaly_bench.tables.build import Cell, build_table
from anomaly_bench.tables.header import header_lines
from anomaly_bench.tables.index import Index
from anomaly_bench.tables.plan import cell_runs
from anomaly_bench.tables.printed import load_printed
from anomaly_bench.tables.render import _remarks
from anomaly_bench.tables.spec import load_table
from tests.tables.made_store import CATEGORIES, WEIGHTS, made_record, value, with_data

NAME = "fmm_scsatt/table1"
BOTTLE = made_record("bottle")


def rd_cells(records: list[Record | Failure], profile: Profile = PROFILES["lite"]) -> dict[str, Cell]:
    """Table 1's RD column by row."""
    table = load_table(NAME)
    built = build_table(table, profile, Index.of(records), load_printed(NAME), Path())
    column = [line.name for line in table.columns].index("RD")
    return {row.name: cells[column] for row, cells in zip(table.rows, built.cells, strict=True)}


def header(records: list[Record | Failure], profile: Profile = PROFILES["lite"]) -> dict[str, str]:
    built = build_table(load_table(NAME), profile, Index.of(records), load_printed(NAME), Path())
    lines = header_lines(built)
    warnings = " | ".join(text for label, text in lines if label == "WARNING")
    return dict(lines) | {"WARNING": warnings}


def test_the_difference_is_measured_minus_printed() -> None:
    cell = rd_cells([made_record("bottle")])["Bottle"]
    assert cell.printed.text == "100"
    assert cell.measured == pytest.approx(50.0)
    assert cell.difference == pytest.approx(-50.0)
    assert (cell.std, cell.seeds, cell.seeds_planned) == (None, (0,), 1)


def test_a_partial_mean_stands_beside_the_printed_mean_over_the_same_categories() -> None:
    cell = rd_cells([made_record("bottle"), made_record("pill")])["Mean"]
    measured = 100 * (value("bottle", "image_auroc") + value("pill", "image_auroc")) / 2
    assert (cell.categories, cell.categories_planned) == (("bottle", "pill"), 15)
    assert cell.printed_over_same == pytest.approx((100 + 96.6) / 2)
    assert cell.measured == pytest.approx(measured)
    assert cell.difference == pytest.approx(measured - (100 + 96.6) / 2)


def test_a_full_mean_stands_beside_the_printed_mean() -> None:
    cell = rd_cells([made_record(category) for category in CATEGORIES])["Mean"]
    assert cell.printed_over_same is None
    assert cell.measured == pytest.approx(57.0)
    assert cell.difference == pytest.approx(57.0 - 98.5)


def test_seeds_give_mean_and_standard_deviation() -> None:
    cells = rd_cells([made_record("bottle", seed=seed) for seed in (0, 1, 4)] + [made_record("pill")])
    assert cells["Bottle"].measured == pytest.approx(50 + 0.05 / 3)
    assert cells["Bottle"].std == pytest.approx(0.0208166, rel=1e-4)
    assert cells["Bottle"].seeds == (0, 1, 4)
    # Only seed 0 has both categories, and the spread of one is unknown.
    assert (cells["Mean"].seeds, cells["Mean"].std) == ((0,), None)


def test_a_mean_and_its_spread_are_of_the_same_seeds() -> None:
    records = [made_record("bottle", seed=seed) for seed in (0, 2)] + [
        made_record("pill", seed=seed) for seed in (0, 1)
    ]
    cell = rd_cells(records)["Mean"]
    assert (cell.seeds, cell.seeds_left_out, cell.std) == ((0,), (1, 2), None)
    assert cell.measured == pytest.approx(54.0)
    assert [record.spec.seed for record in cell.records] == [0, 0]  # the runs behind it, and no others
    assert _remarks(cell)[0] == "seed 0 only, for not every category has 1, 2"
    apart = rd_cells([made_record("bottle", seed=1), made_record("pill", seed=2)])["Mean"]
    assert (apart.seeds, apart.std) == ((), None)
    assert apart.measured == pytest.approx(54.015)


def test_incomplete_data_get_no_difference_and_say_why() -> None:
    counts = BOTTLE.evidence["data"]["counts"] | {"test_good": 5}
    cells = rd_cells([with_data(BOTTLE, counts=counts, complete=False), made_record("pill")])
    for row in ("Bottle", "Mean"):
        assert cells[row].measured is not None
        assert cells[row].difference is None
        assert cells[row].caveat == "on INCOMPLETE data (bottle), so no difference is given"
    assert cells["Pill"].difference is not None


def test_next_to_no_test_images_make_no_metric_of_images() -> None:
    counts = BOTTLE.evidence["data"]["counts"] | {"test_good": 1}
    records = [with_data(BOTTLE, counts=counts, complete=False), made_record("pill")]
    cells = rd_cells(records)
    assert cells["Bottle"].measured is None
    assert cells["Bottle"].reason == "1 of 20 good test images, too few for a metric of images"
    assert cells["Mean"].categories == ("pill",)
    name = "fmm_scsatt/table3"
    built = build_table(load_table(name), PROFILES["lite"], Index.of(records), load_printed(name), Path())
    row = [line.name for line in built.spec.rows].index("Bottle")
    assert any(cell.measured is not None for cell in built.cells[row])  # pixels there are enough


def test_numbers_of_another_kind_stand_side_by_side_without_a_difference() -> None:
    name = "fmm_scsatt/table3"
    built = build_table(load_table(name), PROFILES["lite"], Index.of([BOTTLE]), load_printed(name), Path())
    row = [line.name for line in built.spec.rows].index("Bottle")
    cells = dict(zip([line.name for line in built.spec.columns], built.cells[row], strict=True))
    assert cells["RD PRO"].printed.text == cells["RD PRO, RD4AD's rule"].printed.text == "96.6"
    assert cells["RD PRO"].difference is None
    assert cells["RD PRO, RD4AD's rule"].difference == pytest.approx(100 * value("bottle", "aupro_rd4ad") - 96.6)


def test_one_number_of_a_row_can_be_of_another_kind() -> None:
    """RD's printed PRO is by the rule of its authors' code alone."""
    for name in ("ast_mfr/table2", "fmm_scsatt/table6"):
        records = [made_record(category) for category in CATEGORIES]
        built = build_table(load_table(name), PROFILES["lite"], Index.of(records), load_printed(name), Path())
        [row] = [cells for cells in built.cells if any(cell.records for cell in cells)]
        cells = dict(zip([line.name for line in built.spec.columns], row, strict=True))
        assert cells["PRO"].printed.text == cells["PRO, RD4AD's rule"].printed.text == "93.9"
        assert [line for line, cell in cells.items() if cell.difference is None] == ["PRO"]


def undefined(record: Record, metric: str, reason: str) -> Record:
    entry = record.evaluations[record.evaluation]
    changed = entry | {"metrics": entry["metrics"] | {metric: None}, "undefined": {metric: reason}}
    return dataclasses.replace(record, evaluations={record.evaluation: changed})


def of_metrics_revision(record: Record, revision: int) -> Record:
    old = EvalSpec(metrics_revision=revision)
    entry = record.evaluations[record.evaluation] | {"spec": old.as_json()}
    return dataclasses.replace(record, evaluation=old.eval_id, evaluations={old.eval_id: entry})


def of_revision(record: Record, **revision: int) -> Record:
    return dataclasses.replace(record, spec=dataclasses.replace(record.spec, **revision))


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (made_record("pill"), "not run"),
        (made_record("bottle", PROFILES["paper"]), "not run"),
        (made_record("bottle", epochs=29), "not run"),
        (Failure(BOTTLE.spec, "the loss is nan in epoch 3"), "failed: the loss is nan in epoch 3"),
        (of_revision(BOTTLE, method_revision=0), "stale: rd revision 0, now 1"),
        (of_revision(BOTTLE, data_revision=0), "stale: mvtec revision 0, now 1"),
        (of_metrics_revision(BOTTLE, 0), "stale: metrics revision 0, now 1"),
        (undefined(BOTTLE, "image_auroc", "no normal image"), "undefined: no normal image"),
    ],
    ids=[
        "other category",
        "other profile",
        "other epochs",
        "failed",
        "old method",
        "old data",
        "old metrics",
        "undefined",
    ],
)
def test_an_empty_cell_says_why(entry: Record | Failure, reason: str) -> None:
    cell = rd_cells([entry])["Bottle"]
    assert (cell.measured, cell.difference, cell.reason) == (None, None, reason)


def test_profiles_are_never_mixed() -> None:
    records: list[Record | Failure] = [made_record("bottle"), made_record("pill", PROFILES["paper"])]
    assert rd_cells(records)["Mean"].categories == ("bottle",)
    assert rd_cells(records, PROFILES["paper"])["Mean"].categories == ("pill",)


def test_the_header_names_what_makes_a_comparison_unfair() -> None:
    resized = with_data(BOTTLE, image_sizes=[[512, 512]], resized=True)
    pill = made_record("pill")
    counts = pill.evidence["data"]["counts"] | {"test_good": 5}
    lines = header([resized, with_data(pill, counts=counts, complete=False)])
    assert "a SUBSTITUTE for wide_resnet50_2.tv_in1k" in lines["Teacher"]
    assert "SHA-256 0123456789ab" in lines["Teacher"]
    assert "epochs 30 (protocol: 200)" in lines["Training"]
    assert lines["Categories"] == "2 of 15 measured: bottle, pill"
    expected = (
        "training + good + defective test images; complete: bottle 209+20+63; INCOMPLETE: pill 267+5+141 of 267+26+141"
        "; RESIZED copies: bottle (512x512, official 900x900)"
    )
    assert lines["Data"] == expected
    assert "no evidence against the paper" in lines["WARNING"]
    assert "incomplete" in lines["WARNING"]
    assert "resized copies" in lines["WARNING"]
    assert "one seed" in lines["WARNING"]


def test_the_header_of_a_faithful_table_has_no_warning() -> None:
    paper = PROFILES["paper"]
    records: list[Record | Failure] = [made_record("bottle", paper, seed=seed) for seed in paper.seeds]
    assert header(records, paper)["WARNING"] == ""


def test_mixed_versions_are_a_warning() -> None:
    pill = made_record("pill")
    versions = pill.provenance["versions"] | {"torch": "2.11.0"}
    other = dataclasses.replace(pill, provenance={"versions": versions, "commit": None})
    assert "cells mix 2 versions" in header([BOTTLE, other])["WARNING"]


def test_runs_on_several_devices_are_warned_of() -> None:
    alone, shared = (dataclasses.replace(BOTTLE, cost={**BOTTLE.cost, "devices": devices}) for devices in (1, 2))
    assert "several devices" not in header([alone])["WARNING"]
    assert "some runs were trained on several devices" in header([shared])["WARNING"]


def test_runs_of_different_devices_are_a_warning() -> None:
    other = dataclasses.replace(made_record("pill"), cost={**BOTTLE.cost, "device": "another device"})
    lines = header([BOTTLE, other])
    assert lines["Device"] == f"{BOTTLE.device}; another device"
    assert "cells mix 2 devices or numbers of threads" in lines["WARNING"]
    assert "devices" not in header([BOTTLE, made_record("pill")])["WARNING"]


def test_means_over_different_categories_are_a_warning() -> None:
    def warnings(*records: Record) -> str:
        return header(list(records))["WARNING"]

    ours = [made_record(category, method="fmm_scsatt") for category in CATEGORIES]
    pill = ours[CATEGORIES.index("pill")]
    assert "different categories" in warnings(BOTTLE, pill)
    assert "different categories" in warnings(BOTTLE, *ours)
    assert "different categories" not in warnings(BOTTLE, made_record("pill"), pill)
    assert "different categories" not in warnings(*ours)  # a column without any number is not compared


def test_partial_means_are_cut_down_to_the_categories_that_they_share() -> None:
    def means(*records: Record) -> dict[str, Cell]:
        built = build_table(load_table(NAME), PROFILES["lite"], Index.of(list(records)), load_printed(NAME), Path())
        row = [row.name for row in built.spec.rows].index("Mean")
        return {column.name: cell for column, cell in zip(built.spec.columns, built.cells[row], strict=True)}

    ours = [made_record(category, method="fmm_scsatt") for category in CATEGORIES]
    bottle, pill = ours[CATEGORIES.index("bottle")], ours[CATEGORIES.index("pill")]
    cells = means(BOTTLE, bottle, pill)
    rd, fmm = cells["RD"], cells["Ours"]
    assert (rd.categories, rd.categories_left_out) == (("bottle",), ())
    assert (fmm.categories, fmm.categories_left_out, fmm.categories_planned) == (("bottle",), ("pill",), 15)
    assert fmm.records == (bottle,)
    assert fmm.measured == pytest.approx(100 * (bottle.metrics["image_auroc"] or 0))
    assert fmm.printed_over_same is not None
    assert "without pill, which others to be compared lack" in _remarks(fmm)
    most = [made_record(category) for category in CATEGORIES if category != "zipper"]
    assert len(means(*most, bottle, pill)["RD"].categories) == 14  # one row that has just begun does not cut all down
    assert means(BOTTLE, pill)["Ours"].categories == ("pill",)  # nothing shared: the warning has to do
    assert means(BOTTLE, *ours)["Ours"].categories == tuple(CATEGORIES)  # a mean over all of them stays one


def test_times_of_several_devices_in_one_cell_are_a_warning() -> None:
    def warning(*devices: str) -> str:
        table, profile = load_table("variance_rd/table2"), PROFILES["lite"]
        timed = [
            dataclasses.replace(made_record(category), cost={"device": device, "seconds_train": 10.0})
            for category, device in zip(("bottle", "pill"), devices, strict=True)
        ]
        built = build_table(table, profile, Index.of(timed), load_printed(table.name), Path())
        return " | ".join(text for label, text in header_lines(built) if label == "WARNING")

    assert "times of one cell are from several devices" in warning("1 thread", "2 threads")
    assert "several devices" not in warning("1 thread", "1 thread")


def test_other_data_under_another_seed_are_a_warning() -> None:
    other = with_data(made_record("bottle", seed=1), manifest_sha256="01")
    assert "runs of one category saw different data" in header([BOTTLE, other])["WARNING"]


def test_unverified_files_and_unconfirmed_counts_are_named() -> None:
    altered = with_data(BOTTLE, complete=False, verified=False)
    counted = with_data(made_record("pill"), complete=None, manifest_sha256="01")
    line = header([altered, counted])["Data"]
    assert "INCOMPLETE: bottle 209+20+63;" in line
    assert "files with OTHER CHECKSUMS than the official ones: bottle" in line
    assert "complete by counts that nobody confirmed: pill 267+26+141" in line


def test_missing_masks_are_counted() -> None:
    counts = BOTTLE.evidence["data"]["counts"] | {"masks": 60}
    line = header([with_data(BOTTLE, counts=counts, complete=False)])["Data"]
    assert "INCOMPLETE: bottle 209+20+63 (masks 60 of 63)" in line


def test_commits_are_named_and_runs_that_name_none_are_counted() -> None:
    pill = made_record("pill")
    pill = dataclasses.replace(pill, provenance=pill.provenance | {"commit": "0123456789abcdef"})
    assert header([BOTTLE, pill])["Commits"] == "0123456789; 1 of 2 runs name none"
    assert header([pill])["Commits"] == "0123456789"


def test_a_student_that_is_to_be_like_its_teacher_leaves_the_teacher_a_substitute() -> None:
    name = "ast_mfr/table8"  # one row asks for `same.random`
    table, lite = load_table(name), PROFILES["lite"]
    row = next(row for row in table.rows if row.name == "none")
    [bottle, *_] = cell_runs(table.query(row, table.columns[0]), lite, Path(), table=name)
    entry = BOTTLE.evaluations[BOTTLE.evaluation] | {"spec": bottle.evaluation.as_json()}
    evidence = BOTTLE.evidence | dict.fromkeys(bottle.spec.protocol.weights_evidence.values(), WEIGHTS)
    of_it = {"spec": bottle.spec, "evaluation": bottle.evaluation.eval_id, "evidence": evidence}
    record = dataclasses.replace(BOTTLE, **of_it, evaluations={bottle.evaluation.eval_id: entry})
    lines = dict(header_lines(build_table(table, lite, Index.of([record]), load_printed(name), Path())))
    assert lines["Teacher"].endswith("a SUBSTITUTE for wide_resnet50_2.tv_in1k (ast_mfr)")
    assert "SUBSTITUTE" not in lines["Student"]


def test_a_random_teacher_is_a_warning() -> None:
    untrained = made_record("bottle", teacher="resnet18.random")
    evidence = untrained.evidence | {"weights": {"source": "random", "teacher": "resnet18.random"}}
    profile = dataclasses.replace(PROFILES["lite"], settings={"teacher": "resnet18.random", "epochs": 30})
    lines = header([dataclasses.replace(untrained, evidence=evidence)], profile)
    assert "RANDOM weights" in lines["Teacher"]
    assert "random weights" in lines["WARNING"]


def test_no_record_at_all_still_shows_the_paper() -> None:
    assert header([])["Measured"].startswith("nothing yet")
    assert {cell.reason for cell in rd_cells([]).values()} == {"not run"}


def test_a_run_at_half_the_batch_stands_in_and_says_so() -> None:
    halved = made_record("bottle", batch_size=8)
    halved = dataclasses.replace(halved, provenance=halved.provenance | {STANDS_IN: [16]})
    cell = rd_cells([halved])["Bottle"]
    assert cell.measured == pytest.approx(50.0)
    assert cell.difference is None
    assert cell.caveat == "at HALF THE BATCH for want of memory (bottle), so no difference is given"
    assert "batch size 8 (protocol: 16)" in header([halved])["Training"]


def test_a_run_at_the_whole_batch_is_shown_before_its_stand_in_and_another_batch_is_no_stand_in() -> None:
    halved = made_record("bottle", batch_size=8)
    noted = dataclasses.replace(halved, provenance=halved.provenance | {STANDS_IN: [16]})
    assert rd_cells([noted, BOTTLE])["Bottle"].caveat == ""
    assert rd_cells([halved])["Bottle"].reason == "not run"
