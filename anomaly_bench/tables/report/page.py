"""The page: head, contents, summary, every table by paper, figures. A pure function of what it is given."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from anomaly_bench.bench.profiles import Profile
from anomaly_bench.tables.build import BuiltTable
from anomaly_bench.tables.measures import POINTS, SHARE
from anomaly_bench.tables.report.article import article
from anomaly_bench.tables.report.contradictions import contradictions
from anomaly_bench.tables.report.markup import Html, element, fold, fragment, items
from anomaly_bench.tables.report.names import by_paper, link, paper_title, profiles_of, slug, table_id, table_label
from anomaly_bench.tables.report.pictures import Pictures, gallery, of_table, table_figures
from anomaly_bench.tables.report.summary import differences, measured_of, overview, variants

HERE = Path(__file__).parent
TITLE = "Measured beside printed"
LEAD = (
    "Papers on knowledge-distillation anomaly detection print tables; here their methods were trained, and the number "
    "that was measured stands beside the number that is printed. An empty cell says why it is empty."
)
SECTIONS = {
    "overview": "Overview",
    "differences": "What does not reproduce",
    "variants": "Differences between variants",
    "contradictions": "Contradictions in the papers",
}
READING = (
    "A measured number opens its provenance: point at it, tap it, or press Enter on it.",
    "A column's header sorts: upwards, downwards, and at the third press in the paper's order again.",
    f"“matches”: at most {POINTS} points of percent from what is printed, about what seeds alone do; of a cost, at "
    f"most {SHARE:.0%}. “below” and “above” are measured against printed, and neither means better.",
    "“±” is the standard deviation over seeds; without it there is one seed.",
    "A mean over some of the categories is held against the printed mean of just these.",
    "“only quoted”: the paper prints it, and this suite has no such method.",
    "▲ above, ▼ below the reference, ○ no difference that holds: 95 % interval of the paired difference in image "
    "AUROC, from a bootstrap over test images and seeds.",
)


@dataclass(frozen=True)
class Report:
    """What the page is made of.

    Attributes:
        tables: in the order of the page.
        pictures: figures by their path below `<results>/figures/`.
        writings: by a table's profile and name, its other files: what each is called, and its address.
    """

    tables: Sequence[BuiltTable]
    pictures: Pictures = field(default_factory=dict)
    writings: Mapping[tuple[str, str], Sequence[tuple[str, str]]] = field(default_factory=dict)


def render_report(report: Report) -> str:
    """The page as text; the same for the same report."""
    script, style = (_asset(HERE / name) for name in ("report.js", "report.css"))
    contents = _contents(report)
    body = element(
        "body",
        element("a", "Skip to the summary", href="#summary", class_="skip"),
        _header(report),
        fold("Contents", contents, class_="contents-fold"),
        element("div", element("nav", contents, class_="contents"), _main(report), class_="page"),
        element("script", script),
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy(script)),
        element("title", TITLE),
        element("link", rel="icon", href="data:,"),
        element("style", style),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _asset(path: Path) -> Html:
    return Html(path.read_text(encoding="utf-8"))


def _policy(script: str) -> str:
    """Nothing is fetched but figures beside the page, and no script runs but the page's own."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; img-src 'self' file: data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def _header(report: Report) -> Html:
    cards = [_card(report.tables, profile) for profile in profiles_of(report.tables)]
    name, text = element("p", "anomaly_bench", class_="project"), element("p", LEAD, class_="lead")
    reading = fold("How to read this page", items(READING), class_="reading")
    return element("header", name, element("h1", TITLE), text, element("div", *cards, class_="cards"), reading)


def _card(tables: Sequence[BuiltTable], profile: Profile) -> Html:
    """How much of what a profile can measure is there."""
    full, part, measurable = measured_of(tables, profile)
    share = element("meter", f"{full + part} of {measurable}", min=0, max=max(measurable, 1), value=full + part)
    in_part = f", {part} of them over some of the seeds or categories only" if part else ""
    said = element("b", f"{full + part} of {measurable}")
    return element(
        "section",
        element("p", profile.label),
        share,
        element("p", said, f" measurable cells measured{in_part}"),
        class_="card",
    )


def _contents(report: Report) -> Html:
    many = len(profiles_of(report.tables)) > 1
    parts = [element("p", link("summary", "Summary")), items(link(target, text) for target, text in SECTIONS.items())]
    for paper, group in by_paper(report.tables).items():
        parts.append(element("p", link(_paper_id(paper), paper_title(paper)[0])))
        tables = [list(same) for _, same in groupby(group, key=lambda built: built.spec.name)]
        parts.append(items(_contents_line(same, many=many) for same in tables))
    if _of_no_table(report):
        parts.append(element("p", link("figures", "Figures")))
    return fragment(parts)


def _contents_line(same: Sequence[BuiltTable], *, many: bool) -> Html:
    """One table under all its profiles."""
    title = link(table_id(same[0]), f"{table_label(same[0].spec.name)}: {same[0].spec.title}")
    others = [link(table_id(built), built.profile.name) for built in same] if many else []
    return fragment([title, element("span", *others, class_="by-profile") if others else ""])


def _paper_id(paper: str) -> str:
    return f"paper-{slug(paper)}"


def _main(report: Report) -> Html:
    summary = element("section", *_summary(report.tables), id="summary")
    papers = [_paper(report, paper, group) for paper, group in by_paper(report.tables).items()]
    others = _of_no_table(report)
    figures = element("section", element("h2", "Figures"), gallery(others), id="figures") if others else Html()
    return element("main", summary, *papers, figures)


def _summary(tables: Sequence[BuiltTable]) -> Iterator[Html]:
    yield element("h2", "Overview", id="overview")
    yield overview(tables)
    yield from differences(tables)
    yield from variants(tables)
    yield from contradictions(tables)


def _paper(report: Report, paper: str, tables: Sequence[BuiltTable]) -> Html:
    name, citation = paper_title(paper)
    articles = [
        article(
            built,
            report.writings.get((built.profile.name, built.spec.name), ()),
            table_figures(of_table(report.pictures, built.profile.name, built.spec.name)),
        )
        for built in tables
    ]
    cited = element("p", citation, class_="citation") if citation else Html()
    return element("section", element("h2", name), cited, *articles, id=_paper_id(paper))


def _of_no_table(report: Report) -> Pictures:
    """Figures of the profiles shown that stand beside no table."""
    profiles = {profile.name for profile in profiles_of(report.tables)}
    of_tables = {
        name for built in report.tables for name in of_table(report.pictures, built.profile.name, built.spec.name)
    }
    return {
        name: address
        for name, address in report.pictures.items()
        if name not in of_tables and name.partition("/")[0] in profiles
    }
