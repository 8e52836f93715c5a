"""Where the report is written: `<results>/report/index.html`, beside the tables and figures that it links to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from anomaly_bench.bench.texts import replace_text
from anomaly_bench.errors import UserError
from anomaly_bench.tables.build import BuiltTable
from anomaly_bench.tables.report.page import Report, render_report
from anomaly_bench.tables.report.pictures import find_pictures

WRITINGS = {"CSV": "csv", "Markdown": "md", "LaTeX": "tex"}


def write_report(tables: Sequence[BuiltTable], results: Path) -> Path:
    """Write the page; the file is replaced whole.

    Args:
        tables: those to show, of any profiles, in the order of the page.
        results: the results folder. Figures are taken from its `figures/<profile>/`, and tables already written to
            its `tables/<profile>/` are linked.

    Returns:
        The page's path.

    Raises:
        UserError: the folder cannot be written to, or a figure cannot be read.
    """
    writings = {(built.profile.name, built.spec.name): _writings(built, results) for built in tables}
    text = render_report(Report(tables, find_pictures(results), writings))
    path = results / "report" / "index.html"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); choose another --results.") from error
    return path


def _writings(built: BuiltTable, results: Path) -> list[tuple[str, str]]:
    """The table's other files that are there."""
    stem = f"tables/{built.profile.name}/{built.spec.name}"
    files = {name: f"{stem}.{suffix}" for name, suffix in WRITINGS.items()}
    return [(name, quote(f"../{file}")) for name, file in files.items() if (results / file).is_file()]
