"""What tables and lists ask about methods and data sets, kept between calls of the command.

A method's options and a data set's revision are declared in their classes, and a class needs PyTorch and Lightning,
whose import takes longer than to build every table. The answers depend on the question and on the code alone, so they
are read back where the same code gave them before.

File      `answers.txt` in the cache folder: a checksum, and the answers as JSON. The checksum covers the code that gave
          them and the versions of what it stands on, so answers of other code, or damaged ones, are never used.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from anomaly_bench.bench.catalog import PACKAGE
from anomaly_bench.bench.texts import replace_text

FILE = "answers.txt"
STANDS_ON = ("torch", "lightning", "timm", "jsonargparse")  # a method's checks may ask any of them
_answers: ContextVar[dict[str, Any] | None] = ContextVar("answers", default=None)


@contextmanager
def recalling(folder: Path | None) -> Iterator[None]:
    """Within, `recalled` uses the answers kept in `folder`; nothing is kept where it is None.

    Nor where PyTorch is imported already: then there is nothing to gain, and a caller may have altered a class.
    """
    code = None if folder is None or "torch" in sys.modules else _code()
    if folder is None or code is None:
        yield
        return
    answers = _read(folder / FILE, code)
    before = len(answers)
    token = _answers.set(answers)
    try:
        yield
    finally:
        _answers.reset(token)
        # A training may have lasted for hours, in which somebody edits the code that gives the last answers.
        if len(answers) > before and _code() == code:
            with suppress(OSError):  # the next call asks again
                _write(folder / FILE, code, answers)


def recalled(question: list[Any], ask: Callable[[], Any]) -> Any:
    """`ask()`, as plain data, or what the same code answered to `question` before."""
    answers = _answers.get()
    if answers is None:
        return ask()
    key = json.dumps(question, sort_keys=True, default=str)
    if key not in answers:
        answers[key] = json.loads(json.dumps(ask(), allow_nan=False))
    return answers[key]


def _code() -> str | None:
    """Hash of the package's source and of the versions of what it stands on; None where one of them cannot be read."""
    try:
        digest = hashlib.sha256(repr([sys.version, *map(importlib.metadata.version, STANDS_ON)]).encode())
        for path in sorted(PACKAGE.rglob("*.py")):
            digest.update(f"\0{path.relative_to(PACKAGE)}\0".encode())
            digest.update(path.read_bytes())
    except (OSError, importlib.metadata.PackageNotFoundError):  # such as an editor's lock file
        return None
    return digest.hexdigest()


def _checksum(code: str, text: str) -> str:
    return hashlib.sha256(f"{code}\n{text}".encode()).hexdigest()


def _read(path: Path, code: str) -> dict[str, Any]:
    with suppress(OSError, UnicodeDecodeError):
        checksum, _, text = path.read_text(encoding="utf-8").partition("\n")
        if checksum == _checksum(code, text):
            answers: dict[str, Any] = json.loads(text)
            return answers
    return {}


def _write(path: Path, code: str, answers: dict[str, Any]) -> None:
    text = json.dumps(answers)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, f"{_checksum(code, text)}\n{text}")
