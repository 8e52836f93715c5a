"""A built table as Markdown, CSV, LaTeX and HTML: four writings of one grid of text."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from anomaly_bench.tables.build import BuiltTable, Cell
from anomaly_bench.tables.header import header_lines
from anomaly_bench.tables.measures import RELATIVE
from anomaly_bench.tables.parts import column_parts


@dataclass(frozen=True)
class Grid:
    """A table as text: what all writings but the CSV show."""

    title: str
    header: list[tuple[str, str]]
    columns: list[str]
    parts: list[int]  # how many of the columns each of the table's own became, behind the one of the rows' names
    rows: list[list[str]]
    footnotes: list[str]


@lru_cache(maxsize=1)  # a table's writings follow one another
def lay_out(built: BuiltTable) -> Grid:
    """A quoted column stays one; a measured one becomes printed, measured, difference.

    Cells give their numbers in the title's unit, or each with its own where a table mixes several.
    """
    spec, footnotes = built.spec, list[str]()
    parts = [_parts(built, index) for index in range(len(spec.columns))]
    percent = {cell.unit for row in built.cells for cell in row} <= {"%", ""}
    rows = [
        [line.name, *(write(cell, footnotes) for cell, part in zip(cells, parts, strict=True) for _, write in part)]
        for line, cells in zip(spec.rows, built.cells, strict=True)
    ]
    return Grid(
        title=f"{spec.name}: {spec.title}" + (", in percent" if percent else ""),
        header=header_lines(built),
        columns=["", *(title for part in parts for title, _ in part)],
        parts=[len(part) for part in parts],
        rows=rows,
        footnotes=[*footnotes, *_legend(built), *spec.notes],
    )


def _parts(built: BuiltTable, index: int) -> list[tuple[str, Callable[[Cell, list[str]], str]]]:
    """The columns of text that one column of the table becomes: each a title, and what writes a cell of it."""
    name, parts = built.spec.columns[index].name, column_parts(built, index)
    if parts == ("printed",):
        return [(name, _printed)]
    titles = {"printed": f"{name}, printed", "measured": f"{name}, measured", "difference": "difference"}
    writers = {"printed": _printed, "measured": _measured, "difference": _difference}
    return [(titles[part], writers[part]) for part in parts]


def _printed(cell: Cell, footnotes: list[str]) -> str:
    return (cell.printed.text + _mark(cell.printed.note, footnotes)).strip()


def _measured(cell: Cell, footnotes: list[str]) -> str:
    if cell.measure is None:
        return ""
    if cell.measured is None:
        return f"({cell.reason})" if len(cell.reason) < 12 else "—" + _mark(cell.reason, footnotes)
    decimals = cell.measure.decimals
    text = f"{cell.measured:.{decimals}f}" + (f" ± {cell.std:.{decimals}f}" if cell.std is not None else "")
    sign = f" {cell.interval.sign}" if cell.interval is not None else ""
    return text + sign + _mark("; ".join(_remarks(cell)), footnotes)


def _legend(built: BuiltTable) -> list[str]:
    """What the signs beside the numbers mean."""
    cells = [cell for row in built.cells for cell in row]
    tested = [cell for cell in cells if cell.interval is not None]
    spread = any(cell.std is not None and cell.measure is not RELATIVE for cell in cells)
    legend = ["± is the standard deviation over seeds; a measured number without it is of one seed."] if spread else []
    if not tested:
        return legend
    references = ", ".join(sorted({cell.reference for cell in tested}))
    return [
        *legend,
        f"▲ above, ▼ below the reference ({references}), ○ no difference that holds: 95 % interval of the paired "
        "difference in image AUROC, from a bootstrap over test images and seeds.",
    ]


def _remarks(cell: Cell) -> list[str]:
    remarks = [cell.caveat] if cell.caveat else []
    if cell.measure is RELATIVE and cell.std is not None:
        remarks.append("± is that of the pairs of runs")
    if len(cell.seeds) < cell.seeds_planned:
        remarks.append(f"{len(cell.seeds)} of {cell.seeds_planned} seeds")
    if cell.seeds_left_out:
        remarks.append(_left_out(cell, cell.seeds_left_out, "not every category has"))
    if cell.seeds_unshared:
        remarks.append(_left_out(cell, cell.seeds_unshared, "others to be compared lack"))
    if cell.seeds_differ:
        remarks.append(f"of {_seeds(cell.seeds)}, unlike others to be compared")
    if len(cell.categories) < cell.categories_planned:
        count = f"{len(cell.categories)} of {cell.categories_planned} categories"
        remarks.append(f"mean over {count} ({', '.join(cell.categories)})")
        if cell.printed_over_same is not None:
            remarks.append(f"the paper's own mean over these is {cell.printed_over_same:.2f}")
        if cell.categories_left_out:
            remarks.append(f"without {', '.join(cell.categories_left_out)}, which others to be compared lack")
    return remarks


def _left_out(cell: Cell, left_out: tuple[int, ...], why: str) -> str:
    """`seed 0 only, for not every category has 1, 2`: the mean is of fewer runs than there are."""
    return f"{_seeds(cell.seeds)} only, for {why} {', '.join(map(str, left_out))}"


def _seeds(seeds: tuple[int, ...]) -> str:
    if not seeds:
        return "seeds that differ by category"
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _difference(cell: Cell, footnotes: list[str]) -> str:
    if cell.difference is None:
        return ""
    assert cell.measure is not None
    return f"{cell.difference:+.{cell.measure.decimals}f} {cell.status}"


def _mark(note: str, footnotes: list[str]) -> str:
    """` [3]`, the number of a footnote; equal notes share one."""
    if not note:
        return ""
    if note not in footnotes:
        footnotes.append(note)
    return f" [{footnotes.index(note) + 1}]"


def to_markdown(built: BuiltTable) -> str:
    """GitHub's tables."""
    grid = lay_out(built)
    lines = [f"# {grid.title}", "", *(f"- **{label}**: {text}" for label, text in grid.header), ""]
    lines += [
        "| " + " | ".join(row) + " |"
        for row in (grid.columns, ["---", *["---:"] * (len(grid.columns) - 1)], *grid.rows)
    ]
    lines += ["", *(f"{number}. {note}" for number, note in enumerate(grid.footnotes, start=1))]
    return "\n".join(lines).rstrip() + "\n"


CSV_COLUMNS = (
    "row", "column", "unit", "printed", "measured", "std", "difference", "status", "printed_over_same_categories",
    "reference", "difference_to_reference", "low", "high",
    "seeds", "seeds_planned", "categories", "categories_planned", "runs", "reason", "note",
)  # fmt: skip


def to_csv(built: BuiltTable) -> str:
    """One line a cell, numbers at full precision in the cell's unit; lists are separated by spaces."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row, cells in zip(built.spec.rows, built.cells, strict=True):
        for column, cell in zip(built.spec.columns, cells, strict=True):
            writer.writerow([row.name, column.name, *_csv_cell(cell)])
    return text.getvalue()


def _csv_cell(cell: Cell) -> list[str | int]:
    interval = cell.interval
    bounds = [100 * bound for bound in (interval.difference, interval.low, interval.high)] if interval else []
    return [
        cell.unit,
        cell.printed.text,
        *map(_number, (cell.measured, cell.std, cell.difference)),
        cell.status,
        _number(cell.printed_over_same),
        cell.reference,
        *(map(_number, bounds) if bounds else [""] * 3),
        " ".join(map(str, cell.seeds)),
        cell.seeds_planned,
        " ".join(cell.categories),
        cell.categories_planned,
        " ".join(sorted(record.spec.run_id for record in cell.records)),
        cell.reason or cell.caveat,
        cell.printed.note,
    ]


def _number(value: float | None) -> str:
    return "" if value is None else repr(round(value, 10))


LATEX_COLUMNS = 12  # of numbers, side by side: about what a page's width holds
LATEX_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "—": "--", "<": r"$<$", ">": r"$>$",
    "▲": r"$\blacktriangle$", "▼": r"$\blacktriangledown$", "○": r"$\circ$", "→": r"$\rightarrow$",
}  # fmt: skip


def _latex(text: str) -> str:
    """Plain text, with `code` in a typewriter's letters, in which two hyphens stay two."""
    parts = re.split(r"`([^`]*)`", text)
    plain = ["".join(LATEX_SPECIAL.get(character, character) for character in part) for part in parts]
    return "".join(
        rf"\texttt{{{part.replace('--', '-{}-')}}}" if position % 2 else part for position, part in enumerate(plain)
    )


def _latex_head(title: str) -> str:
    """`AUROC image, measured` on two lines."""
    name, comma, kind = title.rpartition(", ")
    return rf"\shortstack[r]{{{_latex(name)}\\{_latex(kind)}}}" if comma else _latex(title)


def _blocks(parts: list[int]) -> list[list[int]]:
    """Columns to be set side by side, at most `LATEX_COLUMNS`; the parts of one column of the table stay together."""
    blocks, start = [list[int]()], 1
    for size in parts:
        if len(blocks[-1]) + size > LATEX_COLUMNS:
            blocks.append([])
        blocks[-1] += range(start, start + size)
        start += size
    return blocks


def _tabular(grid: Grid, columns: list[int]) -> list[str]:
    """Some of the columns, behind the rows' names."""
    return [
        r"\begin{adjustbox}{max width=\textwidth}",
        rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
        r"\toprule",
        " & ".join(["", *(_latex_head(grid.columns[column]) for column in columns)]) + r" \\",
        r"\midrule",
        *(" & ".join(_latex(row[column]) for column in (0, *columns)) + r" \\" for row in grid.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{adjustbox}",
    ]


def to_latex(built: BuiltTable) -> str:
    r"""A booktabs `table*`, to be \input; needs \usepackage{adjustbox,amssymb,booktabs}.

    A wide table is set in blocks below one another, so that its letters stay large enough to be read.
    """
    grid = lay_out(built)
    notes = [f"[{number}] {_latex(note)}" for number, note in enumerate(grid.footnotes, start=1)]
    header = [rf"\textbf{{{_latex(label)}}}: {_latex(text)}." for label, text in grid.header]
    lines = [
        r"% needs \usepackage{adjustbox,amssymb,booktabs}",
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{_latex(grid.title)}}}",
        rf"\label{{tab:{built.spec.file_name.replace('/', ':')}:{built.profile.name}}}",
    ]
    for columns in _blocks(grid.parts):
        lines += [*_tabular(grid, columns), r"\par\smallskip"]
    lines += [r"\footnotesize\raggedright", "\n\\par ".join([*header, *notes]), r"\end{table*}"]
    return "\n".join(lines) + "\n"


STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem; padding: 0 1rem; }
div { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #8886; padding: .25rem .6rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
"""


def to_html(built: BuiltTable) -> str:
    """One page without scripts, readable from `file://`."""
    grid = lay_out(built)
    escape = html.escape

    def row(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    lines = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>{escape(grid.title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(grid.title)}</h1>",
        "<ul>",
        *(f"<li><b>{escape(label)}</b>: {escape(text)}</li>" for label, text in grid.header),
        "</ul>",
        f"<div><table><thead>{row(grid.columns, 'th')}</thead><tbody>",
        *(row(cells, "td") for cells in grid.rows),
        "</tbody></table></div>",
        "<ol>",
        *(f"<li>{escape(note)}</li>" for note in grid.footnotes),
        "</ol></body></html>",
    ]
    return "\n".join(lines) + "\n"


RENDERERS: dict[str, Callable[[BuiltTable], str]] = {
    "md": to_markdown,
    "csv": to_csv,
    "tex": to_latex,
    "html": to_html,
}
