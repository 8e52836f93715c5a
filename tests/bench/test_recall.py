"""Tables are built without PyTorch where the same code answered the same questions before, and only then."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from anomaly_bench.bench import recall
from anomaly_bench.bench.profiles import PROFILES
from anomaly_bench.bench.recall import FILE, recalled, recalling
from anomaly_bench.bench.store import Store
from anomaly_bench.tables.publish import profile_table
from tests.tables.made_store import made_table_store, write_run

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


def test_a_second_list_of_methods_is_the_first_and_needs_no_pytorch(tmp_path: Path) -> None:
    words = [sys.executable, "-c", BUILD, "list", "methods", "--cache-dir", str(tmp_path), "--results", str(tmp_path)]
    calls = [subprocess.run(words, check=True, capture_output=True, text=True) for _ in range(2)]
    assert [call.stderr.splitlines()[-1] for call in calls] == ["True", "False"]
    assert calls[0].stdout == calls[1].stdout
    assert "fmm_scsatt: " in calls[0].stdout


def fill(results: Path) -> Path:
    """Runs of both profiles that differ in their options, one method with an evaluation of its own among them."""
    for profile, name in itertools.product(("paper", "lite"), ("variance_rd/fig4", "ast_mfr/fig6")):
        table = profile_table(name, PROFILES[profile], Path())
        for record in made_table_store(table, PROFILES[profile], seeds=[0]).records:
            if record.spec.category in ("bottle", "01"):
                write_run(Store(results).folder(record.spec.run_id), record)
    return results


def test_all_tables_are_built_again_without_pytorch_and_are_the_same(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    results = [fill(tmp_path / name) for name in "abc"]
    asked, first = build(results[0], "--cache-dir", str(cache))
    assert asked
    for profile in ("paper", "lite"):
        sweep = [line.split(",") for line in first[f"tables/{profile}/variance_rd/fig4.csv"].decode().splitlines()]
        measured = [row[sweep[0].index("measured")] for row in sweep[1:]]
        assert len(set(measured)) == len(measured) > 3, "every weight of the loss has a number of its own"
    assert [path.name for path in cache.iterdir()] == [FILE]
    assert build(results[1], "--cache-dir", str(cache)) == (False, first)
    assert build(results[2], "--cache-dir", "off") == (True, first)


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


def test_answers_of_code_that_was_edited_meanwhile_are_not_kept(
    calls: Calls, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with other_code(tmp_path_factory.mktemp("code"), monkeypatch):
        with recalling(tmp_path):
            recalled(["a"], lambda: 1)
            (recall.PACKAGE / "method.py").write_text("lr = 3", encoding="utf-8")
        assert list(tmp_path.iterdir()) == []
        (recall.PACKAGE / ".#method.py").symlink_to("nowhere")  # an editor's
        assert calls(["a"]) == calls(["a"])
    assert len(calls.asked) == 2


def test_a_folder_that_cannot_be_written_to_costs_time_only(
    calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    assert calls(["a"]) == calls(["a"])
    assert list(tmp_path.iterdir()) == []


def test_where_pytorch_is_there_already_nothing_is_recalled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller may have altered a class."""
    monkeypatch.setattr(recall, "sys", SimpleNamespace(modules={"torch": None}))
    with recalling(tmp_path):
        assert recalled(["a"], lambda: 1) == 1
        assert recalled(["a"], lambda: 2) == 2
    assert list(tmp_path.iterdir()) == []
