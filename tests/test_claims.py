"""The evidence for the claims: what is paired, and that the committed files say what the committed records give."""

from __future__ import annotations

import csv
import dataclasses
import re
import statistics
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest

from anomaly_bench.bench.profiles import PROFILES, load_profile
from anomaly_bench.bench.resolve import parse_settings, resolve
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


def stale(record: Record) -> Record:
    spec = dataclasses.replace(record.spec, method_revision=record.spec.method_revision - 1)
    return dataclasses.replace(record, spec=spec)


def test_a_row_is_the_paired_difference_over_what_both_sides_have(tmp_path: Path) -> None:
    ours = [made_record(category, method="fmm_scsatt", seed=seed) for category in ("bottle", "pill") for seed in (0, 1)]
    theirs = [made_record("bottle"), made_record("pill"), made_record("pill", seed=1), made_record("cable")]
    bottle, pill, both = compared(tmp_path, *ours, *theirs)
    assert [(row["categories"], row["seeds"]) for row in (bottle, pill, both)] == [
        ("bottle", "0"),
        ("pill", "0 1"),
        ("bottle,pill", "0"),
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
    import claims

    expected = paired_interval([[(text[ours[0].spec], text[theirs[0].spec])]], resamples=claims.RESAMPLES)
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


def test_a_variant_of_two_settings_is_held_against_each_of_them_alone(tmp_path: Path) -> None:
    settings: list[dict[str, str]] = [{}, {"fmm": "false"}, {"loss_form": "global"}]
    fewer = [made_record("pill", method="fmm_scsatt", **one) for one in settings]
    rows = compared(tmp_path, *fewer, made_record("pill", method="fmm_scsatt", fmm="false", loss_form="global"))
    assert [row["against"] for row in rows if row["settings"] == "fmm=false loss_form=global"] == [
        "fmm_scsatt",
        "fmm_scsatt loss_form=global",
        "fmm_scsatt fmm=false",
    ]


def test_a_long_training_is_held_against_rd_s_short_one_and_not_the_other_way_round(tmp_path: Path) -> None:
    long, short = ({"epochs": str(epochs)} for epochs in (40, 30))
    rd = [made_record("pill", **epochs) for epochs in (long, short)]
    rows = compared(tmp_path, *rd, *(made_record("pill", method="fmm_scsatt", **epochs) for epochs in (long, short)))
    assert [(row["method"], row["epochs"], row["against"]) for row in rows] == [
        ("fmm_scsatt", 30, "rd"),
        ("fmm_scsatt", 40, "rd"),
        ("fmm_scsatt", 40, "rd epochs=30"),
        ("rd", 40, "rd epochs=30"),
    ]


def test_data_with_next_to_no_good_images_have_pixel_metrics_alone_and_are_in_no_mean(tmp_path: Path) -> None:
    """As toothbrush with 1 of its 12 good test images."""
    records = [made_record(name, method=method) for name in ("bottle", "pill") for method in ("rd", "fmm_scsatt")]
    counts = {"train": 60, "test_good": 12, "test_defective": 30, "masks": 30}
    cut = {"complete": False, "counts": counts | {"test_good": 1}, "official_counts": counts}
    few = [with_data(made_record("toothbrush", method=method), **cut) for method in ("rd", "fmm_scsatt")]
    rows = {row["categories"]: row for row in compared(tmp_path, *records, *few)}
    assert list(rows) == ["bottle", "pill", "toothbrush", "bottle,pill"]
    toothbrush = rows["toothbrush"]
    assert [row["complete"] for row in rows.values()] == [True, True, False, True]
    assert [toothbrush[name] for name in ("image_auroc_by_seed", "image_auroc_points", "low")] == ["", "", ""]
    assert (toothbrush["pixel_auroc_points"], toothbrush["pixel_auroc_points_by_seed"]) == ("+20.00", "+20.00")


def test_the_page_has_a_line_for_each_pair_and_columns_for_what_each_category_has(tmp_path: Path) -> None:
    import claims

    records = [made_record(name, method=method) for name in ("bottle", "pill") for method in ("rd", "fmm_scsatt")]
    records += [made_record("pill", method=method, seed=1) for method in ("rd", "fmm_scsatt")]
    small = [without_masks(made_record("pill", method=method, image_size="32")) for method in ("rd", "fmm_scsatt")]
    rows = compared(tmp_path, *records, *small, made_record("pill", method="fmm_scsatt", fmm="false"))
    tiny, large = (page.splitlines() for page in claims.markdown(rows).split("\n## ")[1:])
    assert [line.count("|") for line in tiny[4:]] == [4, 4, 4]
    head, _, *lines = (line.strip("| ").split(" | ") for line in large[4:] if line)
    assert head[2:] == [
        f"{name}: {what}" for name in ("bottle", "pill") for what in ("image AUROC", "pixel AUROC", "AUPRO")
    ]
    assert [line[:2] for line in lines] == [
        ["its defaults", "rd"],
        ["fmm=false", "rd"],
        ["fmm=false", "fmm_scsatt"],
    ]
    row = next(row for row in rows if (row["categories"], row["image_size"]) == ("pill", 256))
    assert lines[0][5:7] == [
        f"{row['image_auroc_points']} [{row['low']}, {row['high']}]",
        f"+20.00 ({row['pixel_auroc_points_by_seed']})",
    ]
    assert [cell.strip() for cell in lines[1][2:5]] == ["", "", ""]


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


def test_pairs_of_other_devices_are_marked(tmp_path: Path) -> None:
    import claims

    ours, theirs = made_record("pill", method="fmm_scsatt"), made_record("pill")
    (same,) = compared(tmp_path / "same", ours, theirs)
    (other,) = compared(tmp_path / "other", dataclasses.replace(ours, cost={"device": "another"}), theirs)
    assert (same["device"], other["device"]) == ("same", "other")
    assert "†" not in claims.markdown([same]).partition("## ")[2]
    assert f"| {other['image_auroc_points']}† [{other['low']}, {other['high']}] | +20.00† | " in claims.markdown(
        [other]
    )


def test_a_run_whose_scores_are_broken_is_named_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import claims

    record = made_record("pill")
    compared(tmp_path, made_record("pill", method="fmm_scsatt"), record)
    (tmp_path / "runs" / record.spec.run_id / f"scores-{record.evaluation}.csv").write_text("")
    monkeypatch.setattr("sys.argv", ["claims.py", "--results", str(tmp_path)])
    assert claims.main() == 2
    assert f"the scores of run {record.spec.run_id} are broken" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@pytest.mark.parametrize(
    "other",
    [
        made_record("bottle", PROFILES["lite"], epochs="31"),
        made_record("bottle", PROFILES["paper"]),
        made_record("bottle", precision="32-true"),
        made_record("bottle", train_images="32"),
        stale(made_record("bottle")),
        with_data(made_record("bottle"), manifest_sha256="01"),
        made_record("bottle", seed=1),
        made_record("cable"),
    ],
    ids=["epochs", "teacher", "precision", "subset", "revision", "files", "seed", "category"],
)
def test_what_differs_in_more_than_the_method_is_no_pair(other: Record, tmp_path: Path) -> None:
    assert compared(tmp_path, made_record("bottle", method="fmm_scsatt"), other) == []


def test_the_committed_claims_are_what_the_committed_records_give() -> None:
    import claims

    with (RESULTS / "claims.csv").open(newline="") as file:
        committed = list(csv.DictReader(file))
    rows = list(claims.compare_all(Store(RESULTS)))
    assert (RESULTS / "claims.md").read_text() == claims.markdown(rows)
    assert committed == [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]


def test_every_gain_in_the_readme_is_one_of_the_claims() -> None:
    """With its interval, and with the pixels' gains where they stand behind it."""
    with (RESULTS / "claims.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    image, pixel = ("image_auroc_points", "low", "high"), ("pixel_auroc_points", "aupro_points")
    known = {tuple(row[name] for name in image + more) for row in rows for more in (pixel, ())}
    number = r"([+-]\d+\.\d\d)"
    found = rf"{number} \[{number}, {number}\](?: / {number} / {number})?"
    said = re.findall(found, (RESULTS / "README.md").read_text())
    assert len(said) > 10
    assert {tuple(filter(None, gain)) for gain in said} <= known


def test_the_commands_that_fill_the_claims_are_understood() -> None:
    """By the shell, which is asked what it would run, and by the methods."""
    text = (RESULTS / "README.md").read_text()
    block = text[text.index("    seed=0 category=") : text.index("And these the tables at 30 epochs")]
    script = textwrap.dedent(block).replace(".venv/bin/anomaly-bench", "echo")
    said = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=True).stdout
    asked = [line.split() for line in said.splitlines()]
    specs = {
        resolve(
            words[words.index("--method") + 1],
            "mvtec",
            "pill",
            load_profile("paper"),
            settings=parse_settings(words[words.index("--set") + 1 :]),
        )[0]
        for words in asked
    }
    assert len(specs) == len(asked) > 30
    assert {spec.method for spec in specs} == {"rd", "fmm_scsatt", "ast_mfr", "variance_rd", "dlkd"}
    assert {(spec.protocol.teacher, spec.protocol.epochs) for spec in specs} == {("resnet18.tv_in1k", 200)}


def test_the_readme_counts_the_records_that_stand_in_no_table() -> None:
    """Means are over what rows share, so that a new record can push another out of its table."""
    shown = set[str]()
    for path in (RESULTS / "tables").rglob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            shown |= {run_id for row in csv.DictReader(file) for run_id in row["runs"].split()}
    runs = {path.parent.name for path in (RESULTS / "runs").glob("*/record.json")}
    counts = f"Of the records {len(runs - shown)} of {len(runs)} stand in no table"
    assert shown <= runs
    assert counts in (RESULTS / "README.md").read_text(encoding="utf-8")
