"""CONTRIBUTING.md, followed to the letter in a copy of the project: a file each, and nothing else changes."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from anomaly_bench.data.synthetic import Synthetic
from tests.docs.pages import ROOT, sections, typed_lines

pytestmark = pytest.mark.slow
COPIED = ("anomaly_bench", "examples", "experiments", "results/printed", "Makefile", "pyproject.toml", "setup.cfg")
ADDED = {
    "anomaly_bench/methods/pyramid_matching.py",
    "experiments/pyramid_matching/table1.yaml",
    "anomaly_bench/data/listed.py",
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as a clone has it, with an environment that runs the clone's own code."""
    root = tmp_path_factory.mktemp("clone")
    for name in COPIED:
        source, place = ROOT / name, root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, place)
    program = root / ".venv" / "bin" / "anomaly-bench"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{root}" exec "{sys.executable}" -m anomaly_bench "$@"\n')
    program.chmod(0o755)
    (root / ".venv" / "installed").touch()  # or make would install
    return root


def python_files(root: Path) -> dict[str, bytes]:
    """Everything that a method, a table or a data set could have to touch."""
    files = [path for name in COPIED for path in [root / name, *(root / name).rglob("*")] if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in files if "__pycache__" not in path.parts}


def follow(heading: str, clone: Path, data_root: Path) -> list[str]:
    """What the section's commands print, each of which must succeed."""
    environment = os.environ | {"ANOMALY_BENCH_DATA": str(data_root), "PYTHONDONTWRITEBYTECODE": "1"}
    printed = []
    for line in typed_lines(sections(ROOT / "CONTRIBUTING.md")[heading]):
        done = subprocess.run(["sh", "-c", line], cwd=clone, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}: {done.stderr}"
        printed.append(done.stdout)
    return printed


def write_listed(folder: Path, data_root: Path) -> None:
    """Some of the generated images in another layout, with a list; one defective image is named to train on."""
    generated = Synthetic.category_folder(data_root, "coins")
    lines = []
    for index in range(4):
        for split, defect in (("train", "good"), ("test", "good"), ("test", "blob")):
            name = f"raw/{split}-{defect}-{index}.png"
            mask = f"labels/{index}.png" if defect != "good" else ""
            pairs = [(f"{split}/{defect}/{index:03}.png", name), (f"ground_truth/{defect}/{index:03}_mask.png", mask)]
            for source, target in pairs[: 2 if mask else 1]:
                (folder / target).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(generated / source, folder / target)
            lines.append([name, split, defect, mask])
    lines.append(["raw/test-blob-0.png", "train", "blob", "labels/0.png"])
    with (folder / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "split", "defect", "mask"], *lines])


def test_a_method_a_table_and_a_data_set_take_one_file_each(clone: Path, data_root: Path) -> None:
    before = python_files(clone)
    Synthetic.category_folder(data_root, "brick")

    _, listed, run = follow("Add a method", clone, data_root)
    assert "pyramid_matching: An untrained copy of the teacher" in listed
    assert "  momentum=0.9  (a number; the authors' code)" in listed.splitlines()
    assert "pyramid_matching synthetic/brick seed 0): trained" in run
    assert "image_auroc" in run

    *_, table = follow("Add a table", clone, data_root)
    header, _, *rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| ")]
    assert [cell.strip(" |") for cell in header[1:]] == [
        f"{name} {level}, measured" for level in ("image", "pixel") for name in ("RD", "Matching")
    ]
    assert [row[0] for row in rows] == ["| brick", "| coins", "| mean"]
    assert all(0 <= float(cell.strip(" |")) <= 100 for row in rows for cell in row[1:])

    write_listed(clone / "folder" / "listed" / "parts", data_root)
    _, checked, run = follow("Add a data set", clone, data_root)
    assert checked.splitlines()[1].split() == ["parts", "4", "4", "4", "4", "readable", "256x256"]
    assert "rd listed/parts seed 0): trained" in run

    after = python_files(clone)
    assert after.keys() - before.keys() == ADDED
    assert {name: after[name] for name in before} == before
