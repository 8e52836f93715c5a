"""Tables are built without PyTorch where the same code answered the same questions before, and only then."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from anomaly_bench.bench import recall
from anomaly_bench.bench.recall import FILE, recalled, recalling

BUILD = """
import sys
from anomaly_bench.cli import main
assert main(sys.argv[1:]) == 0
print("torch" in sys.modules, file=sys.stderr)
"""


def build(results: Path, *options: str) -> tuple[bool, dict[str, bytes]]:
    """Whether a process of its own needed PyTorch to build all tables, and what it wrote."""
    arguments = [sys.executable, "-c", BUILD, "tables", "--results", str(results), *options]
    needed = subprocess.run(arguments, check=True, capture_output=True, text=True).stderr.splitlines()[-1]
    written = {str(path.relative_to(results)): path.read_bytes() for path in results.rglob("*.*") if path.is_file()}
    return needed == "True", written


def test_all_tables_are_built_again_without_pytorch_and_are_the_same(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    asked, first = build(tmp_path / "a", "--cache-dir", str(cache))
    assert asked
    assert len(first) == 4 * 28
    assert [path.name for path in cache.iterdir()] == [FILE]
    assert build(tmp_path / "b", "--cache-dir", str(cache)) == (False, first)
    assert build(tmp_path / "c", "--cache-dir", "off") == (True, first)


class Calls:
    """Calls of the command, each of which asks questions; `asked` are those that were not recalled."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, list[list[Any]]()

    def __call__(self, *questions: list[Any]) -> list[Any]:
        with recalling(self.folder):
            return [recalled(question, partial(self.ask, question)) for question in questions]

    def ask(self, question: list[Any]) -> list[Any]:
        self.asked.append(question)
        return ["answer", *question, (1, 2.5), None]


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    monkeypatch.setattr(recall, "sys", SimpleNamespace(modules={}, version=sys.version))
    return Calls(tmp_path)


def test_a_question_is_asked_once(calls: Calls, tmp_path: Path) -> None:
    first = [["a", {"x": 1}], ["a", {"x": 1.0}], ["b"]]
    answers = calls(*first)
    assert answers == [["answer", *question, [1, 2.5], None] for question in first]
    assert calls(*first, ["c"]) == [*answers, ["answer", "c", [1, 2.5], None]]
    assert calls.asked == [*first, ["c"]]
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@contextmanager
def other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    package = tmp_path / "package"
    package.mkdir()
    (package / "method.py").write_text("lr = 2", encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(recall, "PACKAGE", package)
        yield


def test_other_code_and_other_versions_are_asked_anew(
    calls: Calls, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls(["a"])
    with other_code(tmp_path_factory.mktemp("code"), monkeypatch):
        calls(["a"])
        calls(["a"])
    assert len(calls.asked) == 2
    calls(["a"])
    monkeypatch.setattr(recall.importlib.metadata, "version", lambda package: f"another {package}")
    calls(["a"])
    assert len(calls.asked) == 4


@pytest.mark.parametrize("damage", [lambda text: text[:-9], lambda text: text.replace("2.5", "2.6"), lambda text: ""])
def test_a_damaged_file_is_not_believed(calls: Calls, tmp_path: Path, damage: Callable[[str], str]) -> None:
    answers, file = calls(["a"]), tmp_path / FILE
    file.write_text(damage(file.read_text(encoding="utf-8")), encoding="utf-8")
    assert calls(["a"]) == answers
    assert len(calls.asked) == 2
    assert json.loads(file.read_text(encoding="utf-8").partition("\n")[2]) == {'["a"]': answers[0]}


def test_a_folder_that_cannot_be_written_to_costs_time_only(
    calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "write_text", refuse)
    assert calls(["a"]) == calls(["a"])
    assert list(tmp_path.iterdir()) == []


def test_where_pytorch_is_there_already_nothing_is_recalled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller may have altered a class."""
    monkeypatch.setattr(recall, "sys", SimpleNamespace(modules={"torch": None}))
    with recalling(tmp_path):
        assert recalled(["a"], lambda: 1) == 1
        assert recalled(["a"], lambda: 2) == 2
    assert list(tmp_path.iterdir()) == []
