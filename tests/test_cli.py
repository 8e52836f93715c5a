"""The command line as a user meets it: every mistake is one sentence, exit 2, and nothing on disk."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from anomaly_bench import parsers
from anomaly_bench.bench.claims import ClaimedElsewhereError
from anomaly_bench.bench.launch import LAUNCHERS
from anomaly_bench.bench.store import Store
from anomaly_bench.cli import main
from anomaly_bench.errors import UserError
from tests.conftest import TINY, tiny_spec

SETTINGS = [word for name, value in TINY.items() for word in ("--set", f"{name}={value}")]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A data root with one small, sound category of MVTec AD, and with weights and results beside it."""
    root = tmp_path / "data"
    bottle = root / "mvtec" / "bottle"
    rng = np.random.default_rng(0)
    for name in ("train/good/000", "train/good/001", "test/good/000", "test/hole/000"):
        path = bottle / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)
    mask = np.zeros((40, 40), dtype=np.uint8)
    mask[10:20, 10:20] = 255
    (bottle / "ground_truth" / "hole").mkdir(parents=True)
    Image.fromarray(mask).save(bottle / "ground_truth" / "hole" / "000_mask.png")
    return root


def arguments(tree: Path, **changes: str) -> list[str]:
    given = {"method": "rd", "dataset": "mvtec", "category": "bottle", "profile": "smoke", "data-root": str(tree)}
    given |= {"results": str(tree.parent / "results"), "set": "epochs=1"} | changes
    return ["run", *(word for name, value in given.items() for word in (f"--{name}", value))]


def everything_below(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in sorted(folder.rglob("*"))}


def expect_refusal(words: list[str], folder: Path, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = everything_below(folder)
    assert main(words) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1, "one sentence, no traceback"
    assert printed.out == ""
    assert everything_below(folder) == before, "nothing half-written"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"method": "rdd"}, "unknown method 'rdd'; did you mean 'rd'?"),
        ({"dataset": "mvtech"}, "unknown data set 'mvtech'; did you mean 'mvtec'?"),
        ({"category": "botle"}, "unknown category 'botle'; did you mean 'bottle'?"),
        ({"profile": "light"}, "unknown profile 'light'; did you mean 'lite'?"),
        ({"set": "epoch=3"}, "rd has no option 'epoch'; did you mean 'epochs'?"),
        ({"set": "epochs=abc"}, "epochs must be a whole number, not 'abc'."),
        ({"set": "epochs"}, "--set takes key=value, not 'epochs'."),
        ({"set": "teacher=resnet19.tv_in1k"}, "unknown teacher 'resnet19.tv_in1k'; did you mean"),
        ({"category": "cable"}, "MVTec AD's cable is not in"),
        ({"data-root": "nowhere"}, "no MVTec AD in nowhere: expected nowhere/mvtec/bottle; correct --data-root"),
        ({"weights-dir": "nowhere", "set": "teacher=resnet18.tv_in1k"}, "weights folder nowhere does not exist"),
    ],
    ids=str,
)
def test_wrong_words(tree: Path, change: dict[str, str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    expect_refusal(arguments(tree, **change), tree.parent, sentence, capsys)


def empty_the_category(bottle: Path) -> None:
    for path in (bottle / "train" / "good").iterdir():
        path.unlink()


def write_text_for_an_image(bottle: Path) -> None:
    (bottle / "train" / "good" / "000.png").write_text("I am not an image.")


def truncate_an_image(bottle: Path) -> None:
    path = bottle / "test" / "hole" / "000.png"
    path.write_bytes(path.read_bytes()[:-500])


def shrink_the_mask(bottle: Path) -> None:
    path = bottle / "ground_truth" / "hole" / "000_mask.png"
    Image.open(path).resize((39, 40)).save(path)


def remove_the_mask(bottle: Path) -> None:
    (bottle / "ground_truth" / "hole" / "000_mask.png").unlink()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (empty_the_category, "has no training images; complete it, or choose another category."),
        (write_text_for_an_image, "train/good/000.png is not an image; replace or remove it."),
        (truncate_an_image, "test/hole/000.png cannot be read"),
        (shrink_the_mask, "000_mask.png has 39x40 pixels, its image 40x40; give it the size of its image."),
        (remove_the_mask, "000_mask.png); add it, or remove the image."),
    ],
)
def test_damaged_data(
    tree: Path, damage: Callable[[Path], None], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(tree / "mvtec" / "bottle")
    expect_refusal(arguments(tree), tree.parent, sentence, capsys)
    assert main(["data", "check", "mvtec", "--data-root", str(tree)]) == 1
    assert "bottle" in capsys.readouterr().out


def test_weights_of_another_architecture(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = tree.parent / "weights"
    weights.mkdir()
    save_file({"conv1.weight": torch.zeros(8, 3, 3, 3)}, weights / "resnet18.safetensors")
    words = arguments(tree, **{"weights-dir": str(weights), "set": "teacher=resnet18.tv_in1k"})
    expect_refusal(words, tree.parent, "it is a file of another architecture", capsys)


def test_no_weights_name_the_three_remedies(
    tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anomaly_bench.weights._hub_file", lambda *args, **kwargs: None)
    words = arguments(tree, set="teacher=resnet18.tv_in1k")
    expect_refusal(words, tree.parent, "no weights for teacher 'resnet18.tv_in1k': connect to the", capsys)


def test_a_results_folder_that_cannot_be_written(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = arguments(tree, results="/proc/anomaly_bench")
    expect_refusal(words, tree.parent, "cannot write to the results folder /proc/anomaly_bench", capsys)


def test_a_results_folder_that_is_a_file(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tree.parent / "file"
    file.write_text("in the way")
    sentence = f"results folder {file} is a file; name a folder by --results."
    expect_refusal(arguments(tree, results=str(file)), tree.parent, sentence, capsys)
    assert main(["list", "runs", "--results", str(file)]) == 2
    assert capsys.readouterr().err == f"error: {sentence}\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "no command; choose one of: run, table, tables, report, dashboard, list, data, score, predict, export."),
        (["rnu"], "unknown command 'rnu'; did you mean 'run'?"),
        (["table", "fmm_scsatt/table1", "--categories", ","], "--categories names none; name some such as bottle,pill"),
        (["table", "fmm_scsatt/table11"], "unknown table 'fmm_scsatt/table11'; did you mean 'fmm_scsatt/table1'?"),
        (
            ["table", "dlkd"],
            "unknown table 'dlkd'; choose one of: dlkd/table1, dlkd/table2, dlkd/table3, dlkd/table4, dlkd/table5.",
        ),
        (["table", "fig4"], "unknown table 'fig4'; choose one of: variance_rd/fig4."),
        (["table", "fmm_scsatt/table1", "--profile", "smok"], "unknown profile 'smok'; did you mean 'smoke'?"),
        (["table", "fmm_scsatt/table1", "--seeds", "a"], "--seeds takes whole numbers such as 0,1,2, not 'a'."),
        (["table", "fmm_scsatt/table1", "--categories", "botle"], "has no category 'botle'; did you mean 'bottle'?"),
        (["table", "fmm_scsatt/table1", "--data-root", "nowhere"], "no MVTec AD in nowhere"),
        (["table", "fmm_scsatt/table1", "--data-root", "TREE", "--categories", "bottle,cable"], "cable is not in"),
        (["list", "method"], "unknown list 'method'; did you mean 'methods'?"),
        (["data"], "no action of data; choose one of: check, fetch."),
        (["data", "chek", "mvtec"], "unknown action of data 'chek'; did you mean 'check'?"),
        (["data", "check", "mvtek"], "unknown data set 'mvtek'; did you mean 'mvtec'?"),
        (["data", "check", "mvtec", "--data-root", "nowhere"], "no MVTec AD in nowhere"),
        (["data", "check", "folder", "--data-root", "nowhere"], "data root nowhere does not exist"),
        (["score", "--maps", "nowhere", "--masks", "nowhere"], "folder nowhere does not exist"),
    ],
    ids=str,
)
def test_wrong_words_of_the_other_commands(
    tree: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree.parent)
    words = [str(tree) if word == "TREE" else word for word in words]
    expect_refusal(words, tree.parent, sentence, capsys)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("run --keep foo", "--keep takes all, maps or scores, not 'foo'; see anomaly-bench run --help."),
        ("run --devices x", "--devices takes a whole number of at least 1, not 'x'; see anomaly-bench run --help."),
        ("run --devices 0", "--devices takes a whole number of at least 1, not '0'; see anomaly-bench run --help."),
        ("run --seed 1.5", "--seed takes a whole number, not '1.5'; see anomaly-bench run --help."),
        ("run --seed", "--seed takes one argument; see anomaly-bench run --help."),
        ("run --sed 1", "unrecognized arguments: --sed 1; see anomaly-bench run --help."),
        ("run --method rd", "run needs --dataset and --category; see anomaly-bench run --help."),
        ("run", "run needs --method, --dataset and --category; see anomaly-bench run --help."),
        ("table", "table needs TABLE; see anomaly-bench table --help."),
        ("table dlkd/table1 --dry-run --workers 0",
         "--workers takes a whole number of at least 1, not '0'; see anomaly-bench table --help."),
        ("tables --launcher foo", "--launcher takes local, ray or slurm, not 'foo'; see anomaly-bench tables --help."),
        ("tables --checkpoint-seconds nan",
         "--checkpoint-seconds takes a number of at least 0, not 'nan'; see anomaly-bench tables --help."),
        ("data check", "data check needs DATASET; see anomaly-bench data check --help."),
        ("predict --fpr x", "--fpr takes a number, not 'x'; see anomaly-bench predict --help."),
        ("predict --run x", "predict needs IMAGES and --out; see anomaly-bench predict --help."),
    ],
)  # fmt: skip
def test_words_that_do_not_parse(words: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    assert stop.value.code == 2
    assert capsys.readouterr() == ("", f"error: {sentence}\n")


def test_every_launcher_that_there_is_may_be_named() -> None:
    assert parsers.LAUNCHERS == LAUNCHERS


def test_debug_shows_the_traceback(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments(tree, method="rdd"), "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def run_words(data_root: Path, results: Path) -> list[str]:
    words = ["run", "--method", "rd", "--dataset", "synthetic", "--category", "brick", "--profile", "smoke"]
    return [*words, "--data-root", str(data_root), "--results", str(results), *SETTINGS]


def test_a_run_prints_its_metrics_and_its_id_and_a_half_record_is_reported_and_redone(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, spec = run_words(data_root, tmp_path), tiny_spec()
    assert main(words) == 0
    first = capsys.readouterr().out
    assert first.startswith(f"run {spec.run_id} (rd synthetic/brick seed 0): trained\n")
    record = Store(tmp_path).folder(spec.run_id) / "record.json"
    plain = json.loads(record.read_text())
    assert f"image_auroc   {plain['metrics']['image_auroc']:.4f}" in first
    assert main(words) == 0
    assert capsys.readouterr().out == first.replace("trained", "found")
    record.write_text(record.read_text()[: record.stat().st_size // 2])
    assert main(words) == 0
    again = capsys.readouterr()
    assert f"{record} is broken" in again.err
    assert again.out == first
    assert json.loads(record.read_text())["metrics"] == plain["metrics"]


def test_a_smoke_table_trains_once_and_the_other_view_of_it_nothing(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--profile", "smoke", "--data-root", str(data_root), "--results", str(tmp_path)]
    assert main(["table", "fmm_scsatt/table1", *words, "--dry-run"]) == 0
    assert "0 runs are done, 4 are to do." in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert main(["table", "fmm_scsatt/table1", *words]) == 0
    printed = capsys.readouterr()
    assert "[4 of 4]" in printed.err
    assert "left" in printed.err
    assert "| coins |" in printed.out
    monkeypatch.setattr("anomaly_bench.bench.execute.execute", None)
    assert main(["table", "fmm_scsatt/table3", *words]) == 0
    assert "4 runs are done, 0 are to do." in capsys.readouterr().err
    names = sorted(str(path.relative_to(tmp_path / "tables")) for path in (tmp_path / "tables").rglob("*.*"))
    assert names == [
        f"smoke/fmm_scsatt/table{number}.{end}" for number in (1, 3) for end in ("csv", "html", "md", "tex")
    ]
    assert main(["list", "runs", "--results", str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_runs_that_are_to_do_can_be_told_apart(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--profile", "smoke", "--seeds", "0", "--data-root", str(data_root), "--results", str(tmp_path)]
    for table in ("variance_rd/table4", "ast_mfr/table6"):  # the batch size; teacher and student
        assert main(["table", table, *words, "--dry-run"]) == 0
        lines = [line.partition(" [")[0] for line in capsys.readouterr().err.splitlines() if "to do: " in line]
        assert len(lines) == len(set(lines)) > 1


def test_a_table_without_data_or_records_shows_the_paper(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data-root", str(tmp_path / "none"), "--results", str(tmp_path)]
    assert main(["table", "fmm_scsatt/table1", "--no-train", *words]) == 0
    assert "| Bottle | 88 | 69 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["tables", "--seeds", "x"], "--seeds has no effect with tables alone; add --train."),
        (["tables", "--categories", "botle"], "--categories has no effect with tables alone; add --train."),
        (["tables", "--retry-failed"], "--retry-failed has no effect with tables alone; add --train."),
        (["tables", "--check", "--train"], "--train has no effect with --check; leave it out."),
        (["tables", "--check", "--profile", "lite"], "--profile has no effect with --check; leave it out."),
        (["tables", "--check"], "{results} has neither runs nor tables; choose another --results."),
        (["table", "dlkd/table1", "--no-train", "--again"], "--again has no effect with --no-train; leave it out."),
        (["table", "dlkd/table1", "--dry-run", "--slurm", "x"], "--slurm takes key=value, not 'x'."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_would_change_nothing_is_refused(
    words: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--results", str(tmp_path / "res"), "--data-root", str(tmp_path)]) == 2
    assert capsys.readouterr() == ("", f"error: {sentence.format(results=tmp_path / 'res')}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_waits_for_another_process_says_so(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = list[bool]()

    def busy(*_: Any, wait: bool = True, **__: Any) -> None:
        asked.append(wait)
        if not wait:
            raise ClaimedElsewhereError
        raise UserError("and then it goes on.")

    monkeypatch.setattr("anomaly_bench.bench.obtain.obtain", busy)
    assert main(arguments(tree)) == 2
    first, then = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"another process is at run [0-9a-f]{16}; waiting for it\.", first)
    assert (asked, then) == ([False, True], "error: and then it goes on.")


def test_an_empty_name_of_a_folder_is_not_the_working_directory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", "dlkd/table1", "--no-train", "--results", ""]) == 2
    assert capsys.readouterr().err == "error: --results is empty; name a folder, or leave it out.\n"
    assert main(["list", "runs", "--data-root", ""]) == 0  # which has no use for it
    assert main(["table", "dlkd/table1", "--no-train", "--data-root", ""]) == 2
    assert capsys.readouterr().err == "error: --data-root is empty; name a folder, or leave it out.\n"


def test_a_folder_without_runs_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "runs", "--results", str(tmp_path)]) == 0
    assert capsys.readouterr() == ("", f"{tmp_path} has no runs.\n")


def test_with_nothing_that_failed_there_is_nothing_to_retry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--dry-run", "--retry-failed", "--data-root", str(tmp_path), "--results", str(tmp_path)]
    assert main(["table", "fmm_scsatt/table1", *words]) == 0
    assert "0 runs are done, 0 are to do." in capsys.readouterr().err


def test_check_finds_a_table_that_the_records_do_not_give(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables", "--results", str(tmp_path)]) == 0
    assert main(["tables", "--check", "--results", str(tmp_path)]) == 0
    table = tmp_path / "tables" / "paper" / "fmm_scsatt" / "table1.csv"
    table.write_text(table.read_text().replace("Bottle,SSIM-AE,%,88", "Bottle,SSIM-AE,%,89"))
    capsys.readouterr()
    assert main(["tables", "--check", "--results", str(tmp_path)]) == 1
    assert "table1.csv is not what the records give" in capsys.readouterr().err
    table.write_bytes(b"\xff\xfe")
    table.with_suffix(".md").unlink()
    table.with_suffix(".md").mkdir()
    assert main(["tables", "--check", "--results", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("is not what the records give") == 2


def test_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for what, text in (
        ("methods", "loss_form=global  (one of global, pixel; the authors' code)"),
        ("datasets", "mvtec"),
        ("tables", "table3"),
    ):
        assert main(["list", what]) == 0
        assert text in capsys.readouterr().out


def test_data_check_as_json(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "mvtec", "--data-root", str(tree), "--json"]) == 1
    reports = json.loads(capsys.readouterr().out)
    bottle = next(report for report in reports if report["category"] == "bottle")
    assert bottle["counts"] == {"train": 2, "test_good": 1, "test_defective": 1, "masks": 1}
    assert bottle["official"]["counts"]["train"] == 209
    assert bottle["status"].startswith("INCOMPLETE: train 2 of 209")
