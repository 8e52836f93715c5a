"""The fidelity pages: every setting of every method, with the default and the source that the code has."""

from __future__ import annotations

from pathlib import Path

import pytest

from anomaly_bench.bench.catalog import method_names
from anomaly_bench.tables.spec import table_names
from tests.docs.pages import ROOT, in_code, sections, table_rows
from tests.test_listing import sections as listed_sections

FIDELITY = ROOT / "docs" / "fidelity"
HEADINGS = ["What the paper states", "What we chose", "What does not add up", "What reproduces"]


def test_every_paper_and_every_method_has_a_page() -> None:
    pages = {page.stem for page in FIDELITY.glob("*.md")}
    assert pages == set(method_names()) == {name.split("/")[0] for name in table_names()} | {"rd"}


@pytest.mark.parametrize("method", method_names())
def test_a_page_has_its_four_parts(method: str) -> None:
    page = FIDELITY / f"{method}.md"
    assert list(sections(page))[1:] == HEADINGS
    assert all(text.strip() for text in sections(page).values())


def settings_of(page: Path) -> dict[str, tuple[str, str]]:
    """Default and source by name, as the page has them; the last column is never empty."""
    rows = table_rows(sections(page)["What we chose"])
    assert all(len(row) == 4 and row[3] for row in rows)
    return {in_code(name)[0]: (in_code(default)[0], source) for name, default, source, _ in rows}


@pytest.mark.parametrize("method", method_names())
def test_every_setting_is_there_with_the_codes_default_and_source(method: str) -> None:
    expected = {}
    for name, listed in listed_sections()[method].items():
        source = listed.source.removeprefix("protocol, ").removeprefix("evaluation, never retrains, ")
        expected[name] = (listed.setting.partition("=")[2], source)
    assert settings_of(FIDELITY / f"{method}.md") == expected
