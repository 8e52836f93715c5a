"""The words of the command line: what an option takes, and one sentence for what it does not take."""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from typing import Generic, NoReturn, TypeVar

from jsonargparse import ArgumentParser

from anomaly_bench.errors import UserError, nearest

Value = TypeVar("Value")
REQUIRED = "the following arguments are required: "


class Parser(ArgumentParser):
    """Says what is wrong in one sentence and exits with 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Called by argparse and jsonargparse, whose keys and types a user of the command line does not know."""
        sentence = " ".join(message.split()).rstrip(".")
        if sentence.startswith(REQUIRED):
            self._refuse_lacking(sentence.removeprefix(REQUIRED).split(", "))
        if sentence.startswith("argument "):  # argument --keep: takes all, ...; argument --keep: expected one argument
            option, _, fault = sentence.removeprefix("argument ").partition(": ")
            sentence = f"{option} {fault.replace('expected', 'takes', 1)}"
        self._refuse(sentence)

    def _refuse_lacking(self, keys: Sequence[str]) -> NoReturn:
        """Say which words a command lacks, by jsonargparse's keys for them, such as `data.check.dataset`."""
        *commands, _ = keys[0].split(".")
        parser = self
        for command in commands:
            assert parser._subcommands_action is not None
            parser = parser._subcommands_action.choices[command]
        typed = {action.dest: str(action.option_strings[-1] if action.option_strings else action.metavar)
                 for action in parser._actions}  # fmt: skip
        lacking = [typed[key.rpartition(".")[2]] for key in keys]
        parser._refuse(f"{' '.join(commands)} needs {series(lacking, 'and')}")

    def _refuse(self, sentence: str) -> NoReturn:
        program = self.prog.replace(" [options]", "")  # with which jsonargparse writes the way to a subcommand
        print(f"error: {sentence}; see {program} --help.", file=sys.stderr)
        sys.exit(2)


def refuse_unknown(words: Sequence[str], known: Sequence[str], what: str) -> None:
    """Raise UserError unless the first of the words is known, or an option."""
    if not words:
        raise UserError(f"no {what}; choose one of: {', '.join(known)}.")
    if not words[0].startswith("-") and words[0] not in known:
        raise UserError(f"unknown {what} '{words[0]}'{nearest(words[0], known)}")


class Takes(Generic[Value]):
    """Turns a word into what an option takes; `wanted` says in its help and in an error what that is."""

    def __init__(self, wanted: str, convert: Callable[[str], Value], allowed: Callable[[Value], bool]) -> None:
        self.wanted, self.convert, self.allowed = wanted, convert, allowed

    def __call__(self, word: str) -> Value:
        try:
            if self.allowed(value := self.convert(word)):
                return value
        except ValueError:
            pass
        raise ArgumentTypeError(f"takes {self.wanted}, not '{word}'")

    def __repr__(self) -> str:
        return self.wanted  # which jsonargparse shows in --help


def any_whole_number() -> Takes[int]:
    return Takes("a whole number", int, lambda _: True)


def whole_number_from(least: int) -> Takes[int]:
    return Takes(f"a whole number of at least {least}", int, lambda value: value >= least)


def any_number() -> Takes[float]:
    return Takes("a number", float, lambda _: True)


def number_from(least: float) -> Takes[float]:
    return Takes(f"a number of at least {least:g}", float, lambda value: value >= least)  # nan is not


def one_of(known: Sequence[str]) -> Takes[str]:
    return Takes(series(known, "or"), str, lambda word: word in known)


def series(words: Sequence[str], last: str) -> str:
    """`a, b and c`."""
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), words[-1])))
