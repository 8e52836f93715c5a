"""Processes that we start: each ends when the one that started it ends, however that dies; and how one ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading


def end_with_parent() -> None:
    """To be called in a process that `multiprocessing` started."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def how_it_ended(exitcode: int | None) -> str:
    """`was killed by SIGKILL, ...` or `ended with status 1`, of a process that gave no answer."""
    if exitcode is None or exitcode >= 0:
        return f"ended with status {exitcode}"
    by_system = ", perhaps for want of memory" if exitcode == -signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-exitcode).name}{by_system}"
