"""The evidence for the claims: what is paired, and that the committed files say what the committed records give."""

from __future__ import annotations

import csv
import dataclasses
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from anomaly_bench.bench.profiles import PROFILES
from anomaly_bench.bench.store import Record, Store
from anomaly_bench.tables.paired import paired_interval
from anomaly_bench.tables.scores import read_scores
from tests.tables.made_store import made_record, with_data, write_run

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))


def compared(folder: Path, *records: Record) -> list[dict[str, Any]]:
    """The rows of a store with these records."""
    import claims

    for record in records:
        write_run(folder / "runs" / record.spec.run_id, record)
    return list(claims.compare_all(Store(folder)))


def without_masks(record: Record) -> Record:
    entry = record.evaluations[record.evaluation]
    metrics = entry["metrics"] | {"pixel_auroc": None, "aupro": None}
    return dataclasses.replace(record, evaluations={record.evaluation: entry | {"metrics": metrics}})


def test_a_row_is_the_paired_difference_over_what_both_sides_have(tmp_path: Path) -> None:
    ours = [made_record(category, method="fmm_scsatt", seed=seed) for category in ("bottle", "pill") for seed in (0, 1)]
    theirs = [made_record("bottle"), made_record("pill"), made_record("pill", seed=1), made_record("cable")]
    bottle, pill, both = compared(tmp_path, *ours, *theirs)
    assert [(row["categories"], row["seeds"]) for row in (bottle, pill, both)] == [
        ("bottle", "0"),
        ("pill", "0 1"),
        ("bottle pill", "0"),
    ]
    assert {(row["method"], row["settings"], row["against"]) for row in (bottle, pill, both)} == {
        ("fmm_scsatt", "", "rd")
    }
    mean = 100 * statistics.fmean(record.metrics["image_auroc"] or 0 for record in (ours[0], ours[2]))
    assert both["image_auroc_by_seed"] == f"{mean:.2f}"
    assert len(pill["against_by_seed"].split()) == 2
    assert both["pixel_auroc_points"] == "+20.00"  # the made store puts the method 20 points above RD
    text = {
        record.spec: read_scores(
            (tmp_path / "runs" / record.spec.run_id / f"scores-{record.evaluation}.csv").read_text()
        )
        for record in (ours[0], theirs[0])
    }
    expected = paired_interval([[(text[ours[0].spec], text[theirs[0].spec])]])
    assert bottle["image_auroc_points"] == f"{100 * expected.difference:+.2f}"
    assert (bottle["low"], bottle["high"]) == (f"{100 * expected.low:+.2f}", f"{100 * expected.high:+.2f}")


def test_an_ablation_is_held_against_rd_and_against_its_own_method(tmp_path: Path) -> None:
    without = made_record("pill", method="fmm_scsatt", fmm="false")
    rows = compared(tmp_path, made_record("pill"), made_record("pill", method="fmm_scsatt"), without)
    assert [(row["settings"], row["against"]) for row in rows] == [
        ("", "rd"),
        ("fmm=false", "rd"),
        ("fmm=false", "fmm_scsatt"),
    ]


def test_what_a_profile_or_a_data_set_gives_is_no_setting_of_the_method(tmp_path: Path) -> None:
    """AST-MFR's student in `lite`; CIFAR-10's images of 32x32, which have no masks either."""
    ablation = made_record("pill", method="ast_mfr", mask_rate="0.3")
    rows = compared(tmp_path / "lite", made_record("pill"), made_record("pill", method="ast_mfr"), ablation)
    assert [(row["settings"], row["against"]) for row in rows] == [
        ("", "rd"),
        ("mask_rate=0.3", "rd"),
        ("mask_rate=0.3", "ast_mfr"),
    ]
    small = [without_masks(made_record("pill", method=method, image_size="32")) for method in ("rd", "fmm_scsatt")]
    (row,) = compared(tmp_path / "small", *small)
    assert (row["image_size"], row["settings"], row["pixel_auroc_points"]) == (32, "", "")


@pytest.mark.parametrize(
    "other",
    [
        made_record("bottle", PROFILES["lite"], epochs="31"),
        made_record("bottle", PROFILES["paper"]),
        with_data(made_record("bottle"), manifest_sha256="01"),
        with_data(made_record("bottle"), complete=False),
        made_record("bottle", seed=1),
        made_record("cable"),
    ],
    ids=["epochs", "teacher", "files", "incomplete", "seed", "category"],
)
def test_what_differs_in_more_than_the_method_is_no_pair(other: Record, tmp_path: Path) -> None:
    assert compared(tmp_path, made_record("bottle", method="fmm_scsatt"), other) == []


def test_the_committed_claims_are_what_the_committed_records_give() -> None:
    import claims

    with (RESULTS / "claims.csv").open(newline="") as file:
        committed = list(csv.DictReader(file))
    assert committed == [{key: str(value) for key, value in row.items()} for row in claims.compare_all(Store(RESULTS))]


def test_every_interval_in_the_readme_is_one_of_the_claims() -> None:
    with (RESULTS / "claims.csv").open(newline="") as file:
        known = {(row["image_auroc_points"], row["low"], row["high"]) for row in csv.DictReader(file)}
    number = r"[+-]\d+\.\d\d"
    said = re.findall(rf"({number}) \[({number}), ({number})\]", (RESULTS / "README.md").read_text())
    assert said
    assert set(said) <= known
