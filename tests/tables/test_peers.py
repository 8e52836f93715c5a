"""`table --peers`: what is only quoted is measured where anomalib has it, in writings of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from anomaly_bench.bench.catalog import peer_names
from anomaly_bench.bench.profiles import PROFILES
from anomaly_bench.bench.spec import PlannedRun
from anomaly_bench.bench.store import Record, Store
from anomaly_bench.cli import main
from anomaly_bench.errors import UserError
from anomaly_bench.tables.build import BuiltTable, build_table
from anomaly_bench.tables.index import Index
from anomaly_bench.tables.peers import with_peers
from anomaly_bench.tables.plan import table_runs
from anomaly_bench.tables.printed import load_printed
from anomaly_bench.tables.publish import build_by_name, stale_tables, write_table, written_tables
from anomaly_bench.tables.render import lay_out, to_csv, to_markdown
from anomaly_bench.tables.spec import load_table, read_table, table_names
from tests.tables.made_store import made_record

LITE, NO_DATA = PROFILES["lite"], Path("nowhere")
TABLE = "fmm_scsatt/table1"


def planned(method: str) -> PlannedRun:
    """A peer's run on bottle."""
    runs = table_runs(with_peers(load_table(TABLE)), LITE, NO_DATA, categories=["bottle"])
    [run] = [run for run in runs if run.spec.method == method]
    return run


def peer_record(method: str, version: str = "2.7.0") -> Record:
    """With the values that `made_record` gives fmm_scsatt, other ones than RD's."""
    made, run = made_record("bottle", method="fmm_scsatt"), planned(method)
    [entry] = made.evaluations.values()
    evaluations = {run.evaluation.eval_id: entry | {"spec": run.evaluation.as_json()}}
    provenance = made.provenance | {"versions": made.provenance["versions"] | {"anomalib": version}}
    return replace(
        made, spec=run.spec, evaluation=run.evaluation.eval_id, evaluations=evaluations, provenance=provenance
    )


def built_with(*records: Record) -> BuiltTable:
    return build_table(with_peers(load_table(TABLE)), LITE, Index.of(records), load_printed(TABLE), NO_DATA)


def test_a_peer_stands_printed_and_measured_beside_the_others() -> None:
    built = built_with(made_record("bottle"), peer_record("padim"))
    grid = lay_out(built)
    bottle = dict(zip(grid.columns, next(row for row in grid.rows if row[0] == "Bottle"), strict=True))
    assert (bottle["PaDiM, printed"], bottle["PaDiM, measured"]) == ("99.9", "70.00")
    assert bottle["STPM, measured"] == "(not run)"
    assert bottle["RD, measured"] == "50.00"
    assert bottle["AnoGAN"] == "69"
    assert grid.columns.count("difference") == 2  # of RD and Ours: a peer has none
    assert "quoted only" not in [line.split(",")[7] for line in to_csv(built).splitlines() if ",PaDiM," in line]


def test_the_header_names_the_peers_their_versions_and_what_stays_quoted() -> None:
    text = to_markdown(built_with(peer_record("padim"), peer_record("stfpm")))
    assert "- **Peers**: padim, stfpm measured with anomalib 2.7.0\n" in text
    assert "padim: batch size 32, image size 256, precision 32-true" in text
    assert "Only quoted, for anomalib has no such method: SSIM-AE, AnoGAN, MKD, SPADE" in text
    assert "Only quoted, although anomalib has it: DRAEM (it learns from photographs" in text
    assert "several versions of anomalib" not in text
    mixed = to_markdown(built_with(peer_record("padim"), peer_record("stfpm", "2.8.0")))
    assert "padim measured with anomalib 2.7.0; stfpm measured with anomalib 2.8.0" in mixed
    assert "**WARNING**: peers were measured with several versions of anomalib, see above" in mixed


def test_without_peers_a_table_asks_for_none_and_shows_none() -> None:
    for name in table_names():
        assert not {run.spec.method for run in table_runs(load_table(name), LITE, NO_DATA)} & set(peer_names())
    plain = build_table(load_table(TABLE), LITE, Index.of([peer_record("padim")]), load_printed(TABLE), NO_DATA)
    assert "measured with anomalib" not in to_markdown(plain)
    assert {cell.status for row in plain.cells for cell in row} == {"quoted only", "not measured"}


def test_every_peer_is_in_a_table_and_every_table_with_one_takes_it() -> None:
    asked = set()
    for name in table_names():
        table = load_table(name)
        if any(line.peer for line in (*table.rows, *table.columns)):
            asked |= {run.spec.method for run in table_runs(with_peers(table), LITE, NO_DATA)} & set(peer_names())
        else:
            with pytest.raises(UserError, match=f"{name} compares with no method that anomalib has; leave --peers out"):
                with_peers(table)
    assert asked == set(peer_names())


def test_writings_with_peers_lie_apart_and_are_checked_and_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for peers in (False, True):
        write_table(build_by_name(TABLE, LITE, Index.of_store(store), NO_DATA, peers=peers), tmp_path)
    assert (tmp_path / f"tables/lite/{TABLE}.md").read_text() != (
        tmp_path / f"tables/lite/{TABLE}-peers.md"
    ).read_text()
    assert stale_tables(store, NO_DATA) == []
    assert [name for name, peers in written_tables(LITE, tmp_path) if peers] == [TABLE]
    (tmp_path / f"tables/lite/{TABLE}-peers.csv").write_text("something else")
    assert stale_tables(store, NO_DATA) == [tmp_path / f"tables/lite/{TABLE}-peers.csv"]
    assert main(["tables", "--profile", "lite", "--results", str(tmp_path), "--data-root", str(NO_DATA)]) == 0
    assert stale_tables(store, NO_DATA) == []


@pytest.mark.parametrize(
    ("peer", "sentence"),
    [
        ("{method: padm}", "table9.yaml:7: unknown method 'padm'; did you mean 'padim'?"),
        ("{method: rd}", "table9.yaml:7: unknown method 'rd'"),
        ("padim", "table9.yaml:7: peer is a mapping such as {method: padim}; correct it."),
        ("{metric: aupro}", "table9.yaml:7: key 'method' is missing; add it."),
    ],
)
def test_a_mistaken_peer_is_one_sentence_with_file_and_line(tmp_path: Path, peer: str, sentence: str) -> None:
    path = tmp_path / "table9.yaml"
    path.write_text(
        "title: A table\nruns: {dataset: mvtec, metric: image_auroc}\nrows:\n  - {name: Mean, categories: all}\n"
        f"columns:\n  - {{name: RD, method: rd}}\n  - {{name: PaDiM, peer: {peer}}}\n"
    )
    with pytest.raises(UserError) as error:
        read_table(path)
    assert sentence in str(error.value)
