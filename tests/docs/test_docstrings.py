"""Docstrings become web pages: arguments are those of the signature, and Markdown swallows nothing."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from anomaly_bench.bench.catalog import PACKAGE

Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
FILES = sorted(PACKAGE.rglob("*.py"))


def documented(source: str) -> Iterator[tuple[Documented, str]]:
    """Functions and classes with their docstrings; a module's is shown as it stands, see docs/pdoc."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Documented) and (text := ast.get_docstring(node)):
            yield node, text


def arguments_of(node: Documented) -> list[str]:
    """Names in the signature; a class has its constructor's, or a dataclass its fields'."""
    if isinstance(node, ast.ClassDef):
        constructors = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
        if not constructors:
            return [part.target.id for part in node.body
                    if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)]  # fmt: skip
        node = constructors[0]
    named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return [argument.arg for argument in named if argument.arg not in ("self", "cls")]


def described(text: str, heading: str) -> list[str]:
    """Names described below `Args:` or another heading."""
    block = re.search(rf"^{heading}:\n((?:    .*\n?|\n)+)", text, re.MULTILINE)
    return re.findall(r"^    (\w+):", block[1], re.MULTILINE) if block else []


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_described_arguments_are_all_there_are_in_their_order(file: object) -> None:
    for node, text in documented(file.read_text(encoding="utf-8")):  # type: ignore[attr-defined]
        names = described(text, "Args")
        assert not names or names == arguments_of(node), node.name


def test_angle_brackets_and_products_stand_in_code_or_a_browser_takes_them_for_markup() -> None:
    bare = [
        f"{file.relative_to(PACKAGE)}: {node.name}"
        for file in FILES
        for node, text in documented(file.read_text(encoding="utf-8"))
        if node.name[0] != "_" and re.search(r"<[A-Za-z/]|\*[^\s*][^*]*\*", re.sub(r"`[^`]*`", "", text))
    ]
    assert bare == []
