"""What tables and papers are called on the page, and where a link finds them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from itertools import groupby

from anomaly_bench.bench.catalog import load_method
from anomaly_bench.bench.profiles import Profile
from anomaly_bench.errors import UserError
from anomaly_bench.tables.build import BuiltTable
from anomaly_bench.tables.report.markup import Html, element

KINDS = {"table": "Table", "fig": "Figure"}


def paper_of(built: BuiltTable) -> str:
    return built.spec.name.partition("/")[0]


def by_paper(tables: Sequence[BuiltTable]) -> dict[str, list[BuiltTable]]:
    """Tables in the order given, but those of one paper together, and in them those of one table."""
    papers = list(dict.fromkeys(map(paper_of, tables)))
    names = list(dict.fromkeys(built.spec.name for built in tables))
    ordered = sorted(tables, key=lambda built: (papers.index(paper_of(built)), names.index(built.spec.name)))
    return {paper: list(group) for paper, group in groupby(ordered, key=paper_of)}


def profiles_of(tables: Sequence[BuiltTable]) -> list[Profile]:
    return list({built.profile.name: built.profile for built in tables}.values())


def follows_paper(profile: Profile) -> bool:
    """Whether a profile replaces nothing of the paper's protocol, so that a difference says something about it."""
    return not profile.settings and profile.dataset is None


def paper_title(paper: str) -> tuple[str, str]:
    """What the paper's method is called, and where the paper was published: as the method's own file says."""
    try:
        module = inspect.getmodule(load_method(paper))
    except UserError:
        return paper, ""
    text = inspect.getdoc(module) or ""
    found = re.search(r"^Paper\s+(.*?)(?=^\S|\Z)", text, re.DOTALL | re.MULTILINE)
    return text.partition(":")[0], " ".join(found[1].split()) if found else ""


def table_label(name: str) -> str:
    """`dlkd/table3` is `Table 3`."""
    stem = name.rpartition("/")[2]
    found = re.fullmatch(r"(table|fig)(\d+)", stem)
    return f"{KINDS[found[1]]} {found[2]}" if found else stem


def table_id(built: BuiltTable) -> str:
    return slug(f"{built.profile.name}-{built.spec.name}")


def row_id(built: BuiltTable, row: int) -> str:
    return f"{table_id(built)}-row{row + 1}"


def slug(text: str) -> str:
    """Text that can stand in an id and in a link to it."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", text)


def link(target: str, text: str) -> Html:
    """A link inside the page."""
    return element("a", text, href=f"#{target}")
