"""Who trains what: a run is claimed by a lock on a file in the store, which ends with its owner, however that dies."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

ATTEMPTS = 10
LOOK_AGAIN = 0.5  # seconds between two looks at a claim that somebody else holds
WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class ClaimedElsewhereError(Exception):
    """Another process is at this run."""


class NoLocksError(Exception):
    """The file system has no locks, so no run can be claimed; a sentence for the user."""


@contextmanager
def claim(runs: Path, run_id: str, *, wait: bool) -> Iterator[None]:
    """Hold a run for as long as the block takes.

    The operating system keeps the lock, so that it needs no clock and no heartbeat: it ends when its process does.
    Where several machines share the folder, their file system has to share locks (NFS from version 4 on, Lustre, GPFS).

    Args:
        runs: the store's folder of runs.
        run_id: the run's id.
        wait: until whoever holds it is done or dead.

    Raises:
        ClaimedElsewhereError: somebody else holds it, and `wait` is false.
        NoLocksError: the file system has none.
        OSError: the folder cannot be written to.
    """
    made = [folder for folder in (runs, runs.parent) if not folder.exists()]
    path = runs / f".{run_id}.lock"
    lock = _locked(path, wait=wait)
    try:
        yield
    finally:
        # Before the lock is given back: who opened the file in the meantime sees that it has no name any more.
        path.unlink(missing_ok=True)
        lock.release()
        for folder in made:  # a run that could not start leaves nothing behind
            with suppress(OSError):
                folder.rmdir()


def _locked(path: Path, *, wait: bool) -> FileLock:
    for attempt in itertools.count():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path, timeout=-1 if wait else 0, poll_interval=LOOK_AGAIN, fallback_to_soft=False)
            lock.acquire()
            return lock
        except FileNotFoundError:
            if attempt == ATTEMPTS:  # not because an owner cleared the folder away just now
                raise
        except Timeout as error:
            raise ClaimedElsewhereError from error
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
            raise NoLocksError(
                f"the file system of {path.parent} has no locks, so two processes could train one run; "
                "choose another --results."
            ) from error
    raise AssertionError("never reached")
