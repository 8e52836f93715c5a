"""A table that no paper prints: its YAML says so, and what is measured stands alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from anomaly_bench.bench.profiles import PROFILES
from anomaly_bench.errors import UserError
from anomaly_bench.tables import printed, spec
from anomaly_bench.tables.build import build_table
from anomaly_bench.tables.index import Index
from anomaly_bench.tables.render import to_markdown
from anomaly_bench.tables.report.page import Report, render_report
from tests.tables.made_store import made_record

YAML = """
title: Two categories
{switch}
runs: {{dataset: mvtec, method: rd}}
rows: [{{name: bottle, categories: [bottle]}}]
columns: [{{name: Image AUROC, metric: image_auroc}}]
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of experiments with a table whose printed numbers are nowhere."""
    monkeypatch.setattr(spec, "EXPERIMENTS", tmp_path)
    monkeypatch.setattr(printed, "PRINTED", tmp_path / "printed")
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine" / "table1.yaml"


def test_it_needs_no_printed_numbers_and_shows_the_measured_ones_alone(own: Path) -> None:
    own.write_text(YAML.format(switch="printed: false"))
    assert printed.load_printed("mine/table1") == {}
    records = Index.of([made_record("bottle")])
    text = to_markdown(build_table(spec.load_table("mine/table1"), PROFILES["lite"], records, {}, Path()))
    assert "|  | Image AUROC, measured |\n| --- | ---: |\n| bottle | 50.00 |" in text
    empty = to_markdown(build_table(spec.load_table("mine/table1"), PROFILES["lite"], Index(), {}, Path()))
    assert "- **Measured**: nothing yet\n" in empty


def test_the_report_shows_the_measured_ones_alone_and_counts_none_as_not_compared(own: Path) -> None:
    own.write_text(YAML.format(switch="printed: false"))
    table, lite, records = spec.load_table("mine/table1"), PROFILES["lite"], Index.of([made_record("bottle")])
    text = render_report(Report([build_table(table, lite, records, {}, Path())]))
    overview, article = re.findall(r"<table.*?</table>", text, re.DOTALL)[:2]
    assert re.findall("<th [^>]*>(.*?)</th>", article) == ["Row", "Image AUROC", "bottle"]
    assert [cell.startswith("50.00") for cell in re.findall(r"<td[^>]*><button[^>]*>(.*?)<", article)] == [True]
    assert "not compared" not in article
    assert re.findall(r"<td[^>]*>([^<]*)</td>", overview)[2:] == ["1 of 1", *"·····"]


def test_without_the_word_a_lost_file_is_an_error_that_names_the_remedy(own: Path) -> None:
    own.write_text(YAML.format(switch=""))
    with pytest.raises(UserError, match=r"table1.csv cannot be read .*or say `printed: false` in the table's YAML"):
        printed.load_printed("mine/table1")


def test_the_word_is_true_or_false(own: Path) -> None:
    own.write_text(YAML.format(switch="printed: 'no'"))
    with pytest.raises(UserError, match=r"table1.yaml:2: printed must be true or false; correct it\."):
        spec.load_table("mine/table1")
