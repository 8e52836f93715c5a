"""The shape of the package: arrows one way, and lists that come from folders."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import anomaly_bench
from anomaly_bench.bench.catalog import dataset_names, load_dataset, load_method, method_names, peer_names

PACKAGE = Path(anomaly_bench.__file__).parent
# What a package may import of ours; `errors` is a leaf that all may.
ALLOWED = {
    "data": {"data"},
    "metrics": {"metrics"},
    "layers": {"layers"},
    "methods": {"methods", "layers"},
    "bench": {"bench", "methods", "data", "metrics", "weights"},
    "tables": {"tables", "bench", "methods", "data", "metrics"},
}


def imported(package: str) -> set[str]:
    """Every module that the files of a package import, inside functions too; of `from x import y` also `x.y`."""
    found = set()
    for file in (PACKAGE / package).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}: a relative import"
                found |= {str(node.module), *(f"{node.module}.{name.name}" for name in node.names)}
            elif isinstance(node, ast.Import):
                found.update(name.name for name in node.names)
    return found


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_arrows_run_one_way(package: str) -> None:
    ours = {name.split(".")[1] for name in imported(package) if name.startswith("anomaly_bench.")} - {"__version__"}
    assert ours - ALLOWED[package] - {"errors"} == set()


def test_every_package_is_held_to_the_rule() -> None:
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages == set(ALLOWED)


def test_layers_know_no_lightning_and_no_files() -> None:
    assert {name.split(".")[0] for name in imported("layers")} & {"lightning", "pathlib", "os", "json"} == set()


def test_lists_come_from_the_folders() -> None:
    assert {"ast_mfr", "dlkd", "fmm_scsatt", "rd", "variance_rd"} <= set(method_names())
    assert {"btad", "cifar10", "folder", "mvtec", "synthetic"} <= set(dataset_names())
    assert not {"base", "options", "protocol", "layout", "images"} & {*method_names(), *dataset_names()}
    assert peer_names() == ["padim", "patchcore", "stfpm"]
    for name in (*method_names(), *peer_names()):
        assert load_method(name).revision >= 1
    for name in dataset_names():
        assert load_dataset(name).revision >= 1


# What takes long to import: `--help` must answer within a second, wherever the package was read from.
HEAVY = {"torch", "lightning", "timm", "numpy", "cv2", "scipy", "pandas", "matplotlib", "wandb", "ray", "anomalib"}


@pytest.mark.parametrize(
    "code", ["import anomaly_bench", "import anomaly_bench.cli as cli; cli.build_parser().format_help()"]
)
def test_import_and_help_load_nothing_heavy(code: str) -> None:
    program = f"import sys; {code}; print(sorted({HEAVY} & sys.modules.keys()))"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_files_stay_readable() -> None:
    long = {str(path): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {path: lines for path, lines in long.items() if lines > 350} == {}
