"""What has become of Slurm's jobs: which have answered, and what Slurm says of those that never will.

submitit itself asks `sacct`, which not every cluster has, and with pauses of up to ten minutes; `squeue` is on all.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

LOOK = 1.0  # seconds between two looks into the folder of answers, for all jobs at once
ASK = 15.0  # seconds between two questions to Slurm
FORGOTTEN = "UNKNOWN"  # of a job that Slurm does not list any more
ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
         "TIMEOUT", FORGOTTEN)  # fmt: skip


class Queue:
    """The jobs of one suite; their answers appear as files in one folder.

    Args:
        folder: where submitit puts `<job>_0_result.pkl`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.open = set[str]()  # jobs by id, such as `12_3`, that have not ended
        self._lost = dict[str, str]()
        self._doubtful = set[str]()
        self._looked = self._asked = time.monotonic()

    def add(self, jobs: Iterable[str]) -> None:
        """More jobs, just submitted."""
        self.open |= set(jobs)

    def ended(self, job: str) -> bool:
        """Whether a job has answered, or never will."""
        now = time.monotonic()
        if self.open and now - self._looked >= LOOK:
            self._looked = now
            self._look()
        if self.open and now - self._asked >= ASK:
            self._asked = now
            self._ask()
        return job not in self.open

    def arrays(self) -> set[str]:
        """The arrays of all jobs that have not ended, by id."""
        return {job.partition("_")[0] for job in self.open}

    def lost(self, job: str) -> str | None:
        """Slurm's word for how a job ended without an answer, such as `CANCELLED`."""
        return self._lost.get(job)

    def _look(self) -> None:
        with suppress(FileNotFoundError):
            files = {path.name for path in self.folder.iterdir()}
            self.open = {job for job in self.open if f"{job}_0_result.pkl" not in files}

    def _ask(self) -> None:
        """A job that is found ended twice has no answer on its way through a slow file system any more."""
        states = states_of(self.arrays())
        if states is None:
            return
        ended = {job for job in self.open if states.get(job, FORGOTTEN) in ENDED}
        for job in ended & self._doubtful:
            self._lost[job] = states.get(job, FORGOTTEN)
            self.open.remove(job)
        self._doubtful = ended


def states_of(arrays: Iterable[str]) -> dict[str, str] | None:
    """Slurm's state of every job of these arrays that it still knows; None where it does not answer."""
    words = ["squeue", "--array", "--noheader", "--states=all", "--format=%i %T", f"--jobs={','.join(sorted(arrays))}"]
    said = subprocess.run(words, capture_output=True, text=True, check=False)
    if said.returncode and "Invalid job id" not in said.stderr:
        return None
    return dict(line.split() for line in said.stdout.splitlines())
