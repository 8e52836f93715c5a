"""The report as text: what it shows, where it links, that nothing escapes into its markup."""

from __future__ import annotations

import dataclasses
import html
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from anomaly_bench.bench.profiles import PROFILES
from anomaly_bench.errors import UserError
from anomaly_bench.tables.build import BuiltTable
from anomaly_bench.tables.header import header_lines
from anomaly_bench.tables.paired import Interval
from anomaly_bench.tables.printed import PrintedCell
from anomaly_bench.tables.report.markup import Html, element, prose
from anomaly_bench.tables.report.names import follows_paper, paper_title, table_label
from anomaly_bench.tables.report.page import Report, render_report
from anomaly_bench.tables.report.write import write_report
from anomaly_bench.tables.spec import Line
from tests.tables.report.made_page import made_tables, with_cell

VOID = {"img", "input", "link", "meta"}
HOSTILE = "<script>alert('x')&\""


class Page(HTMLParser):
    """Every element with its attributes, those that are not closed in order, and the text outside script and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += "" if self.open[-1:] in (["script"], ["style"]) else data

    def values(self, attribute: str) -> list[str]:
        return [value for _, attributes in self.elements if (value := attributes.get(attribute)) is not None]


@pytest.fixture(scope="module")
def tables() -> list[BuiltTable]:
    return made_tables(("fmm_scsatt/table1", "ast_mfr/table5", "variance_rd/table2"))


def table(tables: list[BuiltTable], name: str, profile: str) -> BuiltTable:
    return next(built for built in tables if (built.spec.name, built.profile.name) == (name, profile))


def place(built: BuiltTable, row: str, column: str) -> tuple[int, int]:
    return [x.name for x in built.spec.rows].index(row), [x.name for x in built.spec.columns].index(column)


def shown_rows(text: str, name: str) -> list[list[str]]:
    """The text of every cell in a table's rows, the boxes that open over them left out."""
    body = re.sub(r'<div id="[^"]*" popover.*?</dl></div>', "", text.split(f'<article id="{name}"')[1], flags=re.DOTALL)
    rows = re.findall(r"<tr.*?</tr>", body.split("<tbody>")[1].split("</tbody>")[0])
    return [[Page(cell).text for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in rows]


def section(text: str, start: str, end: str) -> str:
    """The text between two headings, by their ids."""
    between = text.split(f'<h2 id="{start}">')[1].split(f'<h2 id="{end}"')[0]
    return html.unescape(re.sub(r"<[^>]*>", "", between))


def test_the_page_is_well_formed_and_every_id_is_one_and_every_link_inside_it_leads_somewhere(
    tables: list[BuiltTable],
) -> None:
    page = Page(render_report(Report(tables)))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    targets = {href[1:] for href in page.values("href") if href.startswith("#")} | set(page.values("popovertarget"))
    assert targets - set(ids) == set()


def test_the_same_report_is_the_same_text_and_another_number_another(tables: list[BuiltTable]) -> None:
    text = render_report(Report(tables))
    assert render_report(Report(made_tables(("fmm_scsatt/table1", "ast_mfr/table5", "variance_rd/table2")))) == text
    changed = with_cell(tables[0], *place(tables[0], "Screw", "RD"), measured=12.345)
    assert render_report(Report([changed, *tables[1:]])) != text


def test_nothing_is_fetched_from_anywhere(tables: list[BuiltTable]) -> None:
    page = Page(render_report(Report(tables)))
    addresses = page.values("src") + page.values("href")
    assert [address for address in addresses if re.match(r"(\w+:)?//|(?!data:)\w+:", address)] == []
    assert {tag for tag, _ in page.elements} & {"iframe", "object", "embed", "base", "form"} == set()
    (policy,) = [attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes]
    assert str(policy).startswith("default-src 'none'; ")
    assert "http" not in str(policy)


@pytest.mark.parametrize("field", ["table", "title", "note", "row", "column", "printed note", "reason", "caveat"])
def test_markup_in_any_text_is_shown_as_text(tables: list[BuiltTable], field: str) -> None:
    built = table(tables, "fmm_scsatt/table1", "lite")
    row, column = place(built, "Screw", "RD")
    line = Line(HOSTILE, "")
    spec = {
        "table": dataclasses.replace(built.spec, name=f"{HOSTILE}/{HOSTILE}"),
        "title": dataclasses.replace(built.spec, title=HOSTILE),
        "note": dataclasses.replace(built.spec, notes=(HOSTILE,)),
        "row": dataclasses.replace(built.spec, rows=(line, *built.spec.rows[1:])),
        "column": dataclasses.replace(built.spec, columns=(line, *built.spec.columns[1:])),
    }.get(field, built.spec)
    changes: dict[str, Any] = {
        "printed note": {"printed": PrintedCell("1", "%", HOSTILE)},
        "reason": {"measured": None, "reason": HOSTILE},
        "caveat": {"caveat": HOSTILE},
    }.get(field, {})
    page = Page(render_report(Report([with_cell(dataclasses.replace(built, spec=spec), row, column, **changes)])))
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert HOSTILE in page.text


def test_only_what_is_html_goes_into_an_element_as_it_is() -> None:
    inner = element("b", "1 < 2", title='"')
    assert element("p", inner, "<") == '<p><b title="&quot;">1 &lt; 2</b>&lt;</p>'
    assert element("p", f"{inner}") == "<p>&lt;b title=&quot;&amp;quot;&quot;&gt;1 &amp;lt; 2&lt;/b&gt;</p>"
    assert isinstance(inner, Html)
    assert not isinstance(f"{inner}", Html)


def test_backticks_are_code_only_in_pairs() -> None:
    assert prose("see `a < b` there") == "see <code>a &lt; b</code> there"
    assert prose("a lone ` stays") == "a lone ` stays"


def test_a_row_shows_printed_measured_and_difference_with_a_word(tables: list[BuiltTable]) -> None:
    built = table(tables, "fmm_scsatt/table1", "paper")
    row, column = place(built, "Screw", "RD")
    built = with_cell(built, row, column, measured=96.4321, difference=96.4321 - 97.0, std=0.1, seeds=(0, 1, 2))
    cells = shown_rows(render_report(Report([built])), "paper-fmm_scsatt-table1")[row]
    assert cells[0] == "Screw"
    assert cells[1 + column : 4 + column] == ["97", "96.43 ± 0.10", "\N{MINUS SIGN}0.57 below"]


def test_an_empty_cell_shows_its_reason_and_a_partial_one_what_it_lacks(tables: list[BuiltTable]) -> None:
    built = table(tables, "fmm_scsatt/table1", "lite")
    rows = {cells[0]: cells for cells in shown_rows(render_report(Report([built])), "lite-fmm_scsatt-table1")}
    assert rows["Cable"][-2:] == ["failed: the loss is nan in epoch 3", ""]
    mean = built.cells[[line.name for line in built.spec.rows].index("Mean")][-1]
    assert f"{len(mean.categories)} of 15 categories" in rows["Mean"][-2]
    assert f"against {mean.printed_over_same:.2f} for the same" in rows["Mean"][-1]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "numbers of two kinds"),
        ({"printed": PrintedCell("", "%", "")}, "nothing printed"),
        ({"categories_planned": 15}, "printed over other categories"),
        ({"caveat": "on INCOMPLETE data (screw), so no difference is given"}, ""),
    ],
    ids=["other kind", "nothing printed", "partial mean", "caveat"],
)
def test_a_cell_that_is_not_compared_says_why(tables: list[BuiltTable], changes: dict[str, Any], reason: str) -> None:
    built = table(tables, "fmm_scsatt/table1", "paper")
    row, column = place(built, "Screw", "RD")
    built = with_cell(built, row, column, difference=None, **changes)
    shown = shown_rows(render_report(Report([built])), "paper-fmm_scsatt-table1")[row]
    assert shown[3 + column] == f"not compared{reason}"
    assert changes.get("caveat", "") in shown[2 + column]


def test_a_cell_names_its_runs_seeds_device_and_evaluation(tables: list[BuiltTable]) -> None:
    built = table(tables, "fmm_scsatt/table1", "paper")
    row, column = place(built, "Screw", "RD")
    text = render_report(Report([built]))
    box = text.split(f'<div id="paper-fmm_scsatt-table1-row{row + 1}-{column + 1}"')[1].split("</dl></div>")[0]
    cell = built.cells[row][column]
    assert len(cell.records) == 3
    for record in cell.records:
        assert f'href="../runs/{record.spec.run_id}/record.json"' in box
    assert cell.evaluation is not None
    for words in ("NVIDIA H200", "0, 1, 2 (3 of 3)", "1 of 1: screw", cell.evaluation.eval_id, "sigma 4.0"):
        assert words in box


def test_only_the_papers_protocol_makes_a_difference_evidence(tables: list[BuiltTable]) -> None:
    heading = "Differences under another protocol: no evidence against the papers"
    lite, paper = (table(tables, "fmm_scsatt/table1", name) for name in ("lite", "paper"))
    text = render_report(Report([lite]))
    assert "Nothing can be said yet" in section(text, "differences", "other-protocol")
    assert heading in text
    text = render_report(Report([paper]))
    assert "Nothing can be said yet" not in text
    assert heading not in text


@pytest.mark.parametrize("name", PROFILES)
def test_what_counts_as_the_papers_protocol_is_what_the_header_does_not_warn_of(
    tables: list[BuiltTable], name: str
) -> None:
    built = dataclasses.replace(table(tables, "fmm_scsatt/table1", "paper"), profile=PROFILES[name])
    warned = any("no evidence against the paper" in text for label, text in header_lines(built) if label == "WARNING")
    assert follows_paper(PROFILES[name]) == (not warned and PROFILES[name].dataset is None)


def test_the_list_of_differences_has_each_cell_that_is_below_or_above_and_no_other(tables: list[BuiltTable]) -> None:
    built = table(tables, "fmm_scsatt/table1", "paper")
    counted = [cell.status for cells in built.cells for cell in cells]
    text = render_report(Report([built]))
    listed = text.split('id="differences"')[1].split('<h2 id="variants"')[0]
    assert len(re.findall(r'class="status (?:below|above)"', listed)) == counted.count("below") + counted.count("above")
    assert 'class="status matches"' not in listed
    assert f"{counted.count('below')} below, {counted.count('above')} above" in listed


def test_tests_between_variants_are_listed_in_points_with_their_verdict(tables: list[BuiltTable]) -> None:
    built = table(tables, "ast_mfr/table5", "paper")
    row, column = place(built, "ResNet50", "Image-level")
    built = with_cell(built, row, column, interval=Interval(0.0123, 0.001, 0.02), reference="WideResNet50")
    shown = section(render_report(Report([built])), "variants", "contradictions")
    assert "ResNet50WideResNet50Image-levelAST-MFR, Table 5paper▲ above, and it holds+1.23+0.10 to +2.00" in shown


def test_a_papers_remarks_stand_once_with_their_tables(tables: list[BuiltTable]) -> None:
    shown = section(render_report(Report(tables)), "contradictions", "no such heading")
    summary = shown.split("Qi, Chai and Ye")[0]
    assert summary.count("The text says 'top or second-best in every category'") == 1
    assert "the mean of the column's 15 printed values is 55.60 Table 1 (Mean / AnoGAN)" in summary


def test_the_header_counts_what_is_measured_of_what_could_be(tables: list[BuiltTable]) -> None:
    built = table(tables, "fmm_scsatt/table1", "lite")
    cells = [cell for row in built.cells for cell in row if cell.measurable]
    assert (
        f"{sum(cell.measured is not None for cell in cells)} of {len(cells)} measurable"
        in Page(render_report(Report([built]))).text
    )


def test_a_table_without_any_record_still_shows_the_paper(tables: list[BuiltTable]) -> None:
    built = table(tables, "ast_mfr/table5", "lite")
    rows = shown_rows(render_report(Report([built])), "lite-ast_mfr-table5")
    assert rows[0][:3] == ["WideResNet50", "49.6", "left out of profile lite: needs wide_resnet50_2.tv_in1k"]


def test_no_table_at_all_is_a_page_too() -> None:
    assert "Overview" in Page(render_report(Report([]))).text


def test_papers_and_tables_have_their_names() -> None:
    assert paper_title("dlkd")[0] == "DLKD"
    assert paper_title("ast_mfr")[1].startswith("Gu, Li and Liu, ")
    assert paper_title("ast_mfr")[1].endswith(", 2024.")
    assert paper_title("no_such") == ("no_such", "")
    assert [table_label(name) for name in ("a/table12", "a/fig4", "a/other")] == ["Table 12", "Figure 4", "other"]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for name in ("lite/fmm_scsatt/table1.svg", "lite/fmm_scsatt/table10.svg", "lite/sheets/a b.png", "smoke/x.svg"):
        path = tmp_path / "figures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"<svg><title>{name} 100%</title></svg>")
    written = tmp_path / "tables" / "lite" / "fmm_scsatt" / "table1.csv"
    written.parent.mkdir(parents=True)
    written.touch()
    return tmp_path


def test_figures_stand_with_their_table_or_with_the_others_of_their_profile(
    tables: list[BuiltTable], results: Path
) -> None:
    path = write_report([table(tables, "fmm_scsatt/table1", "lite")], results)
    assert path == results / "report" / "index.html"
    text = path.read_text(encoding="utf-8")
    article, others = text.split('<article id="lite-fmm_scsatt-table1"')[1].split("</article>")
    images = re.compile(r'<img src="([^"]*)" alt="figure ([^"]*)" loading="lazy"')
    ((address, name),) = images.findall(article)
    assert name == "lite/fmm_scsatt/table1"
    assert address.startswith("data:image/svg+xml,%3Csvg%3E%3Ctitle%3Elite/fmm_scsatt/table1.svg 100%25")
    assert [name for _, name in images.findall(others)] == ["lite/fmm_scsatt/table10", "lite/sheets/a b"]
    assert images.findall(others)[1][0] == "../figures/lite/sheets/a%20b.png"


def test_only_files_that_are_there_are_linked(tables: list[BuiltTable], results: Path) -> None:
    text = write_report([table(tables, "fmm_scsatt/table1", "lite")], results).read_text(encoding="utf-8")
    assert re.findall(r'href="(\.\./tables/[^"]*)"', text) == ["../tables/lite/fmm_scsatt/table1.csv"]


def test_a_folder_that_cannot_be_written_to_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "report").touch()
    with pytest.raises(UserError, match=r"cannot write .*index\.html \(.*\); choose another --results\."):
        write_report([], tmp_path)
