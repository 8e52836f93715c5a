"""Slurm's workers, by submitit's own stand-in for a cluster on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.launch.suite import RUNS, records, start

pytest.importorskip("submitit", reason="needs the extra `slurm`")


@pytest.mark.slow
def test_a_table_is_trained_by_jobs(data_root: Path, tmp_path: Path) -> None:
    process = start(tmp_path, data_root, "--launcher", "slurm", "--workers", "2", "--slurm", "cluster=local")
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    assert f"[{RUNS} of {RUNS}]" in output
    assert len(records(tmp_path)) == RUNS


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "error: Slurm cannot be used"),
        (("cluster=local", "partitoin=gpu"), "error: Slurm cannot be used"),
    ],
)
def test_what_slurm_cannot_do_is_one_sentence(
    options: tuple[str, ...], sentence: str, data_root: Path, tmp_path: Path
) -> None:
    words = ["--slurm", *options] if options else []
    process = start(tmp_path, data_root, "--launcher", "slurm", *words)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2, output
    assert sentence in output
    assert "Traceback" not in output
