"""Damaged data: `setup` stops with a sentence that names the file, `data check` lists every one of them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_bench.data import mvtec
from anomaly_bench.data.check import CategoryReport, check_data_set, report_lines
from anomaly_bench.data.folder import Folder
from anomaly_bench.data.mvtec import MVTecAD
from anomaly_bench.errors import UserError
from tests.data.trees import IMAGE, MASK, SIDE, save, write_category, write_mask

# A flaw is made in a sound category; the path that it returns must be in the message.


def text_for_image(folder: Path) -> Path:
    (folder / IMAGE).write_text("no image")
    return folder / IMAGE


def truncated_training_image(folder: Path) -> Path:
    path = folder / "train/good/003.png"
    path.write_bytes(path.read_bytes()[:-300])
    return path


def image_of_zero_bytes(folder: Path) -> Path:
    (folder / "test/good/000.png").write_bytes(b"")
    return folder / "test/good/000.png"


def truncated_mask(folder: Path) -> Path:
    (folder / MASK).write_bytes((folder / MASK).read_bytes()[:60])
    return folder / MASK


def mask_of_another_size(folder: Path) -> Path:
    write_mask(folder / MASK, side=SIDE + 1)
    return folder / MASK


def missing_mask(folder: Path) -> Path:
    (folder / MASK).unlink()
    return folder / MASK


def empty_training_folder(folder: Path) -> Path:
    for path in (folder / "train/good").iterdir():
        path.unlink()
    return folder


def empty_test_folder(folder: Path) -> Path:
    for path in [*(folder / "test").rglob("*.png"), *(folder / "ground_truth").rglob("*.png")]:
        path.unlink()
    return folder


FATAL = [
    text_for_image,
    truncated_training_image,
    image_of_zero_bytes,
    truncated_mask,
    mask_of_another_size,
    missing_mask,
    empty_training_folder,
    empty_test_folder,
]


def orphan_mask(folder: Path) -> Path:
    write_mask(folder / "ground_truth/crack/007_mask.png")
    return folder / "ground_truth/crack/007_mask.png"


def grey_mask(folder: Path) -> Path:
    mask = np.array(Image.open(folder / MASK))
    mask[5, 6] = 90
    Image.fromarray(mask).save(folder / MASK)
    return folder / MASK


def empty_mask(folder: Path) -> Path:
    write_mask(folder / MASK, value=0)
    return folder / MASK


FLAWS = [*FATAL, orphan_mask]
REMARKABLE = [grey_mask, empty_mask]
WORDS = {
    "text_for_image": "is not an image",
    "truncated_training_image": "cannot be read",
    "image_of_zero_bytes": "is not an image",
    "truncated_mask": "cannot be read",
    "mask_of_another_size": "another size than its image (25x25, its image 24x24)",
    "missing_mask": "its mask",
    "empty_training_folder": "train: no images",
    "empty_test_folder": "test: no images",
    "orphan_mask": "belongs to no test image",
    "grey_mask": "not binary",
    "empty_mask": "empty, though its image lies in a defect folder",
}


@pytest.mark.parametrize("flaw", FATAL)
def test_setup_stops_at_a_flaw_with_a_sentence_that_names_the_file(
    flaw: Callable[[Path], Path], tmp_path: Path
) -> None:
    named = flaw(write_category(tmp_path / "thing"))
    with pytest.raises(UserError) as caught:
        Folder(tmp_path, "thing", image_size=16).setup()
    assert str(named) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("flaw", [orphan_mask, grey_mask, empty_mask])
def test_setup_lives_with_flaws_that_training_would_not_stumble_over(
    flaw: Callable[[Path], Path], tmp_path: Path
) -> None:
    flaw(write_category(tmp_path / "thing"))
    Folder(tmp_path, "thing", image_size=16).setup()


def test_the_sizes_of_a_misfit_are_width_by_height(tmp_path: Path) -> None:
    folder = write_category(tmp_path / "thing")
    save(folder / IMAGE, 10, 30, 3)
    with pytest.raises(UserError, match=r"001_mask\.png has 24x24 pixels, its image 30x10; give it the size"):
        Folder(tmp_path, "thing", image_size=16).setup()


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, Path]]:
    """A data root with one category a flaw, a sound one, an incomplete and an overfull one; and the files at fault."""
    root, named = tmp_path / "mvtec", {}
    for flaw in [*FLAWS, *REMARKABLE]:
        named[flaw.__name__] = flaw(write_category(root / flaw.__name__))
    write_category(root / "sound")
    for path in (
        *sorted((write_category(root / "incomplete") / "train/good").iterdir())[:3],
        root / "incomplete" / IMAGE,
    ):
        path.unlink()
    (root / "incomplete" / MASK).unlink()
    save(write_category(root / "overfull") / "test/good/002.png", SIDE, SIDE, 3)
    save(write_category(root / "resized") / "train/good/000.png", 10, 12, 3)
    categories = [*named, "sound", "incomplete", "overfull", "resized", "absent"]
    monkeypatch.setattr(mvtec, "OFFICIAL", dict.fromkeys(categories, (5, 2, 4, SIDE)))
    monkeypatch.setattr(mvtec.MVTecAD, "categories", tuple(categories))
    return tmp_path, named


def test_check_names_the_one_flaw_of_every_category(zoo: tuple[Path, dict[str, Path]]) -> None:
    root, named = zoo
    reports = {report.category: report for report in check_data_set(MVTecAD, root)}
    assert WORDS.keys() == named.keys()
    for flaw in FLAWS:
        report = reports[flaw.__name__]
        [problem] = report.problems
        assert str(named[flaw.__name__]) in problem
        assert WORDS[flaw.__name__] in problem
        assert report.status.endswith("; 1 PROBLEM")
        assert not report.sound


def test_check_notes_what_a_run_can_live_with_and_calls_it_sound(zoo: tuple[Path, dict[str, Path]]) -> None:
    root, named = zoo
    reports = {report.category: report for report in check_data_set(MVTecAD, root)}
    for flaw in REMARKABLE:
        report = reports[flaw.__name__]
        [note] = report.notes
        assert str(named[flaw.__name__]) in note
        assert WORDS[flaw.__name__] in note
        assert (report.status, report.sound, report.problems) == ("complete", True, [])
        assert report.manifest_sha256 == MVTecAD(root, flaw.__name__).manifest_sha256()


def test_check_compares_counts_and_sizes_with_the_official_ones(zoo: tuple[Path, dict[str, Path]]) -> None:
    reports = {report.category: report for report in check_data_set(MVTecAD, zoo[0])}
    assert list(reports) == list(mvtec.OFFICIAL)
    statuses = {
        "sound": "complete",
        "incomplete": "INCOMPLETE: train 2 of 5, test defective 3 of 4, masks 3 of 4",
        "overfull": "DIFFERENT: test good 3 of 2",
        "resized": "complete",
        "absent": "not here",
    }
    assert {name: reports[name].status for name in statuses} == statuses
    assert [name for name in statuses if not reports[name].sound] == ["incomplete", "overfull"]
    assert reports["sound"].size_note == "24x24"
    assert reports["resized"].size_note == "12x10, 24x24 (official 24x24)"
    assert reports["absent"].counts is None
    assert reports["sound"].manifest_sha256 == MVTecAD(zoo[0], "sound").manifest_sha256()


def test_check_finds_every_flaw_of_one_category_at_once(tmp_path: Path) -> None:
    folder = write_category(tmp_path / "thing")
    flaws = (truncated_training_image, image_of_zero_bytes, missing_mask, orphan_mask)
    named = [str(flaw(folder)) for flaw in flaws]
    [report] = check_data_set(Folder, tmp_path)
    assert len(report.problems) == len(named)
    assert all(any(name in problem for problem in report.problems) for name in named)
    assert report.status == "4 PROBLEMS"


def test_the_printed_table_has_a_line_a_category_and_then_every_problem(zoo: tuple[Path, dict[str, Path]]) -> None:
    reports = check_data_set(MVTecAD, zoo[0])
    lines = report_lines(reports)
    blank = [index for index, line in enumerate(lines) if not line]
    table, problems, notes = lines[: blank[0]], lines[blank[0] + 1 : blank[1]], lines[blank[1] + 1 :]
    assert [line.split()[0] for line in table] == ["category", *mvtec.OFFICIAL]
    cells = {line.split()[0]: line.split()[1:] for line in table}
    assert cells["sound"] == ["5/5", "2/2", "4/4", "4/4", "complete", "24x24"]
    assert cells["absent"] == ["-/5", "-/2", "-/4", "-/4", "not", "here"]
    assert problems == [f"{report.category}: {problem}" for report in reports for problem in report.problems]
    assert notes == [f"{report.category}: note: {note}" for report in reports for note in report.notes]


def test_a_sentence_that_holds_of_several_categories_is_printed_once() -> None:
    reports = [CategoryReport(name, None, None, problems=["shared", f"of {name}"], notes=["shared"]) for name in "ab"]
    assert report_lines(reports)[3:] == ["", "a, b: shared", "a: of a", "b: of b", "", "a, b: note: shared"]


def test_the_table_of_sound_data_ends_with_its_last_category() -> None:
    assert report_lines([CategoryReport("thing", None, None)])[-1].split() == [
        "thing",
        "-",
        "-",
        "-",
        "-",
        "not",
        "here",
    ]


def test_where_not_one_category_is_there_check_says_where_they_belong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected .*mvtec/bottle; correct --data-root"):
        check_data_set(MVTecAD, tmp_path)
    with pytest.raises(UserError, match=r"there is no category in .*; correct --data-root"):
        check_data_set(Folder, tmp_path)


def test_check_of_folders_names_those_that_are_no_category(tmp_path: Path) -> None:
    write_category(tmp_path / "thing")
    (tmp_path / "other" / "train" / "ok").mkdir(parents=True)
    reports = check_data_set(Folder, tmp_path)
    assert [(report.category, report.status, report.sound) for report in reports] == [
        ("thing", "readable", True),
        ("other", "no category", True),
    ]
    why = f"{tmp_path / 'other'} has no folder train/good, it has train/ok; put its normal training images there."
    assert reports[1].no_category == why
    assert report_lines(reports)[-1] == f"note: {why}"
    (tmp_path / "thing" / "train" / "good" / "000.png").write_text("no image")
    assert check_data_set(Folder, tmp_path)[0].status == "1 PROBLEM"
    with pytest.raises(UserError, match=r"thing is itself a category; pass --data-root"):
        check_data_set(Folder, tmp_path / "thing")
    shutil.rmtree(tmp_path / "thing")
    with pytest.raises(UserError, match=re.escape(why)):
        check_data_set(Folder, tmp_path)


def test_check_reports_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    link = write_category(tmp_path / "thing") / "train/good/009.png"
    link.symlink_to(tmp_path / "nowhere.png")
    [report] = check_data_set(Folder, tmp_path)
    assert str(link) in report.problems[0]


@pytest.mark.parametrize("place", ["train/good", "test/crack", "ground_truth/crack"])
def test_a_name_that_is_not_utf_8_is_a_sentence_for_check_and_for_training(place: str, tmp_path: Path) -> None:
    folder = write_category(tmp_path / "thing") / place
    Path(os.fsdecode(os.fsencode(folder) + b"/b\xfcrste.png")).touch()
    expected = re.escape(f"the name b'b\\xfcrste.png' in folder {folder} is not UTF-8; rename it.")
    with pytest.raises(UserError, match=expected):
        Folder(tmp_path, "thing").setup()
    reports = check_data_set(Folder, tmp_path)
    assert any(re.search(expected, problem) for report in reports for problem in report.problems)
