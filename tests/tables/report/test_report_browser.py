"""The report in a real Chromium: sorting, fold-outs and provenance by mouse, keyboard and touch, and how it fits."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anomaly_bench.tables.report.write import write_report
from tests.tables.report.made_page import made_tables

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.browser

ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
WIDTHS = {1440: 900, 390: 844}
TABLE = "#paper-fmm_scsatt-table1"
PAPER_ORDER = ["Carpet", "Grid", "Leather"]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report of both profiles, with an SVG that is a table's figure and one that must be dead: it has a script."""
    results = tmp_path_factory.mktemp("results")
    for name in ("variance_rd/fig4", "histograms/screw"):
        path = results / "figures" / "paper" / f"{name}.svg"
        path.parent.mkdir(parents=True)
        script = "<script>console.error('alive')</script>"
        path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" width="600" height="300">{script}</svg>')
    names = ("fmm_scsatt/table1", "fmm_scsatt/table5", "ast_mfr/table5", "variance_rd/fig4")
    return write_report(made_tables(names), results).as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, address: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The report, opened; afterwards nothing was said to the console, no error, and nothing fetched but files."""
    width, scheme, options = getattr(request, "param", (1440, "light", {}))
    size = {"width": width, "height": WIDTHS[width]}
    page = browser.new_page(viewport=size, color_scheme=scheme, has_touch=width < 500, **options)
    said: list[str] = []
    fetched: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda asked: fetched.append(asked.url))
    page.goto(address)
    yield page
    page.close()
    assert said == []
    assert [url for url in fetched if not url.startswith(("file://", "data:"))] == []
    assert address in fetched


def rows(page: Page) -> list[str]:
    return page.locator(f"{TABLE} tbody tr > th").all_inner_texts()


def header(page: Page, name: str, nth: int = 0) -> Locator:
    return page.locator(f"{TABLE} thead th.{name}").nth(nth)


def values(page: Page, column: int) -> list[float | None]:
    """What the cells of a column sort by."""
    cells = page.locator(f"{TABLE} tbody tr > :nth-child({column + 1})").all()
    found = [cell.get_attribute("data-value") for cell in cells]
    return [None if value is None else float(value) for value in found]


def test_a_header_sorts_up_and_down_with_empty_cells_last_and_then_gives_the_papers_order_back(page: Page) -> None:
    before, measured = rows(page), header(page, "measured")
    column = int(measured.get_attribute("data-column") or "")
    assert before[:3] == PAPER_ORDER
    numbers = sorted(value for value in values(page, column) if value is not None)
    empty = [None] * (len(before) - len(numbers))
    assert empty
    measured.get_by_role("button").click()
    assert (values(page, column), measured.get_attribute("aria-sort")) == ([*numbers, *empty], "ascending")
    measured.get_by_role("button").click()
    assert (values(page, column), measured.get_attribute("aria-sort")) == ([*numbers[::-1], *empty], "descending")
    measured.get_by_role("button").click()
    assert (rows(page), measured.get_attribute("aria-sort")) == (before, None)


def test_the_keyboard_sorts_and_one_column_at_a_time(page: Page) -> None:
    header(page, "measured").get_by_role("button").click()
    header(page, "printed").get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert page.locator(f"{TABLE} th[aria-sort]").count() == 1
    assert values(page, int(header(page, "printed").get_attribute("data-column") or ""))[0] == 95.0
    page.locator(f"{TABLE} thead th").first.get_by_role("button").press("Space")
    assert rows(page) == sorted(rows(page))


def test_quoted_columns_are_shown_on_demand_and_sort_too(page: Page) -> None:
    quoted = header(page, "quoted")
    assert not quoted.is_visible()
    page.locator(TABLE).get_by_text("show the columns that are only quoted (12)").click()
    assert quoted.is_visible()
    quoted.get_by_role("button").click()
    assert rows(page)[0] == "Leather"  # SSIM-AE's lowest, 46


def test_a_fold_out_opens_and_a_link_of_the_summary_leads_to_its_row(page: Page) -> None:
    fold = page.locator(f"{TABLE} details.provenance")
    assert not fold.get_by_text("wide_resnet50_2").is_visible()
    fold.locator("summary").click()
    assert fold.get_by_text("wide_resnet50_2").is_visible()
    page.locator("#summary details[open] tbody a", has_text="Screw").first.click()
    assert page.url.endswith("#paper-fmm_scsatt-table1-row12")
    assert page.locator("#paper-fmm_scsatt-table1-row12").bounding_box()["y"] < WIDTHS[1440]  # type: ignore[index]


def test_provenance_opens_by_keyboard_and_closes_by_escape(page: Page) -> None:
    cell = page.locator(f"{TABLE} td.measured", has=page.locator("button.value")).first
    box = cell.locator("[popover]")
    assert not box.is_visible()
    cell.locator("button.value").focus()
    page.keyboard.press("Enter")
    assert box.is_visible()
    assert "NVIDIA H200" in box.inner_text()
    page.keyboard.press("Escape")
    assert not box.is_visible()


def test_provenance_opens_while_the_mouse_points_at_it_and_stays_after_a_click(page: Page) -> None:
    numbers = page.locator(f"{TABLE} button.value")
    boxes = page.locator(f"{TABLE} [popover]")
    numbers.nth(0).hover()
    boxes.nth(0).wait_for(state="visible")
    boxes.nth(0).get_by_text("Evaluation").hover()
    page.wait_for_timeout(500)
    assert boxes.nth(0).is_visible()
    page.locator("h1").hover()
    boxes.nth(0).wait_for(state="hidden")
    numbers.nth(0).hover()
    boxes.nth(0).wait_for(state="visible")
    numbers.nth(0).click()
    page.locator("h1").hover()
    page.wait_for_timeout(500)
    assert boxes.nth(0).is_visible()
    numbers.nth(0).click()
    assert not boxes.nth(0).is_visible()


@pytest.mark.parametrize("page", [(390, "light", {})], indirect=True)
def test_provenance_opens_and_closes_by_touch(page: Page) -> None:
    box = page.locator(f"{TABLE} [popover]").first
    page.locator(f"{TABLE} button.value").first.tap()
    assert box.is_visible()
    box.get_by_role("button", name="Close").tap()
    assert not box.is_visible()


@pytest.mark.parametrize("page", [(1440, "light", {"java_script_enabled": False})], indirect=True)
def test_without_scripts_only_sorting_is_missing(page: Page) -> None:
    assert page.locator("button.sort").count() == 0
    page.locator(f"{TABLE} button.value").first.click()
    assert page.locator(f"{TABLE} [popover]").first.is_visible()
    assert rows(page)[:3] == PAPER_ORDER


@pytest.mark.parametrize("page", [(*case, {}) for case in itertools.product(WIDTHS, ("light", "dark"))], indirect=True)
def test_the_page_itself_never_scrolls_sideways(page: Page, tmp_path: Path) -> None:
    page.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
    page.evaluate("document.querySelectorAll('.show-quoted').forEach((box) => { box.checked = true; })")
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    page.screenshot(path=tmp_path / "top.png")
    page.locator(TABLE).scroll_into_view_if_needed()
    page.screenshot(path=tmp_path / "table.png")
    page.locator(f"{TABLE} button.value").first.click()
    box = page.locator(f"{TABLE} [popover]").first.bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= page.evaluate("innerWidth")
    page.screenshot(path=tmp_path / "provenance.png")
