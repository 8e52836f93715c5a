"""HTML from Python in which escaping is what happens by itself: only what is `Html` already goes in as it is."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

VOID = frozenset({"img", "input", "link", "meta"})

Attribute = str | int | float | bool | None


class Html(str):
    """Text that is HTML; any other string is text still to be escaped, an f-string of `Html` too."""

    __slots__ = ()


def fragment(parts: Iterable[str]) -> Html:
    """The parts one after the other."""
    return Html("".join(part if isinstance(part, Html) else html.escape(part) for part in parts))


def element(name: str, /, *content: str, **attributes: Attribute) -> Html:
    """An element; attributes that are None or False are left out, `class_` is class and `data_value` data-value."""
    start = f"<{name}{''.join(_attribute(key, value) for key, value in attributes.items())}>"
    return Html(start) if name in VOID else Html(f"{start}{fragment(content)}</{name}>")


def _attribute(key: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'


def prose(text: str) -> Html:
    """Plain text in which backticks mark code, as in a table's notes."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backtick without its partner is just a backtick
        return fragment([text])
    return fragment(element("code", part) if index % 2 else part for index, part in enumerate(parts))


def items(contents: Iterable[str], *, kind: str = "ul", class_: str | None = None) -> Html:
    """A list, or nothing where it would be empty."""
    entries = [element("li", content) for content in contents]
    return element(kind, *entries, class_=class_) if entries else Html()


def definitions(pairs: Iterable[tuple[str, str]]) -> Html:
    """Terms with what they are."""
    return element("dl", *(element("div", element("dt", term), element("dd", text)) for term, text in pairs))


def fold(summary: str, *content: str, class_: str | None = None, open_: bool = False) -> Html:
    """What is shown on demand, without a script."""
    return element("details", element("summary", summary), *content, class_=class_, open=open_)


def scroller(label: str, table: Html) -> Html:
    """A table in a box of its own: what is too wide scrolls there, by keyboard too, and the page does not."""
    return element("div", table, class_="scroll", tabindex=0, role="region", aria_label=label)


def plain_table(columns: Sequence[str], rows: Iterable[Iterable[Html]], label: str, *, numbers: int) -> Html:
    """A table with one line of headers, sortable by each.

    Args:
        columns: their names.
        rows: the cells of each, as elements.
        label: what the table is, for those who do not see it.
        numbers: the first column of numbers; those behind it are numbers too.
    """
    headers = [
        element("th", name, scope="col", class_="number" if index >= numbers else None, data_column=index)
        for index, name in enumerate(columns)
    ]
    body = element("tbody", *(element("tr", *row) for row in rows))
    return scroller(label, element("table", element("thead", element("tr", *headers)), body, class_="sortable"))


def number_cell(content: str, value: float | None) -> Html:
    """A cell that sorts by a number; without one it comes last."""
    return element("td", content, class_="number", data_value=None if value is None else repr(round(value, 10)))
