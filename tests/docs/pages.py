"""What the documentation says, by its parts: commands to type, tables, links."""

from __future__ import annotations

import re
from pathlib import Path

from anomaly_bench.bench.catalog import PACKAGE

ROOT = PACKAGE.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
STARTS = ("make", ".venv/bin/", "anomaly-bench", "cp ", "mkdir ")


def sections(page: Path) -> dict[str, str]:
    """The text below each heading, by the heading."""
    parts = re.split(r"^#+ (.+)\n", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def typed_lines(text: str) -> list[str]:
    """The commands among the indented lines, without their comments."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines() if line.startswith("    "))
    return [line for line in lines if line.startswith(STARTS)]


def table_rows(text: str) -> list[list[str]]:
    """The cells of every table's rows, headers left out."""
    lines = text.splitlines()
    ruler = re.compile(r"\| ?---")
    rows = [line for line, after in zip(lines, [*lines[1:], ""], strict=True) if line.startswith("|")
            and not ruler.match(line) and not ruler.match(after)]  # fmt: skip
    return [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def in_code(text: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`\n]+)`", text)
