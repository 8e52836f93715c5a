"""The one exception that speaks to the user; every package may raise it, and it imports nothing of ours."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_NAMES = 40  # in one sentence; a library of networks has a thousand


class UserError(Exception):
    """Wrong input. The message is one plain sentence that ends with the remedy; the command line exits with 2."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` where a known name is close, else the whole list: the end of an error message."""
    names = sorted(known)
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    shown = ", ".join(names[:MOST_NAMES]) + (f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else "")
    return f"; choose one of: {shown}." if names else "."
