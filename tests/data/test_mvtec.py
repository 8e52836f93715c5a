"""MVTec AD: where its folders may be, what its publishers count, which files are samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from anomaly_bench.data.base import Counts, Official
from anomaly_bench.data.layout import mvtec_samples
from anomaly_bench.data.mvtec import OFFICIAL, MVTecAD
from anomaly_bench.errors import UserError


def touch(folder: Path, *names: str) -> None:
    """Empty files: to list a folder, nobody opens them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_official_counts_add_up_to_the_published_sums() -> None:
    train, good, defective = (sum(row[column] for row in OFFICIAL.values()) for column in range(3))
    assert (len(OFFICIAL), train, good, defective) == (15, 3629, 467, 1258)
    assert good + defective == 1725


def test_every_defective_image_has_a_mask_and_images_are_square() -> None:
    assert MVTecAD.official("bottle") == Official(Counts(209, 20, 63, masks=63), (900, 900))
    for category in MVTecAD.category_names(Path("anywhere")):
        official = MVTecAD.official(category)
        assert official.counts.masks == official.counts.test_defective
        assert official.image_size[0] == official.image_size[1]


@pytest.mark.parametrize("name", ["mvtec", "mvtec_anomaly_detection", "MVTecAD"])
def test_three_names_of_the_root_folder_are_known(name: str, tmp_path: Path) -> None:
    (tmp_path / name / "cable").mkdir(parents=True)
    assert MVTecAD.category_folder(tmp_path, "cable") == tmp_path / name / "cable"


def test_categories_may_be_spread_over_two_of_them(tmp_path: Path) -> None:
    (tmp_path / "mvtec" / "cable").mkdir(parents=True)
    (tmp_path / "MVTecAD" / "screw").mkdir(parents=True)
    assert MVTecAD.category_folder(tmp_path, "screw") == tmp_path / "MVTecAD" / "screw"


def test_a_data_root_that_points_inside_gets_a_hint(tmp_path: Path) -> None:
    touch(tmp_path / "mvtec", "cable/train/good/000.png")
    with pytest.raises(UserError) as caught:
        MVTecAD(tmp_path / "mvtec", "cable")
    assert str(caught.value).endswith(f"; pass --data-root {tmp_path}.")


def test_a_data_root_without_mvtec_says_where_it_was_expected(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        MVTecAD(tmp_path, "cable")
    assert f"expected {tmp_path / 'mvtec' / 'cable'}; correct --data-root" in str(caught.value)


def test_a_category_that_is_not_here_is_told_from_one_that_does_not_exist(tmp_path: Path) -> None:
    (tmp_path / "mvtec" / "cable").mkdir(parents=True)
    with pytest.raises(UserError, match=r"screw is not in .*mvtec; put it there"):
        MVTecAD(tmp_path, "screw")
    with pytest.raises(UserError, match=r"unknown category 'screws'; did you mean 'screw'\?"):
        MVTecAD.check_category(tmp_path, "screws")


def test_samples_are_the_images_of_the_layout_sorted_by_name(tmp_path: Path) -> None:
    touch(tmp_path / "train", "good/010.png", "good/002.png", "good/.hidden.png", "good/notes.txt", "crack/000.png")
    touch(tmp_path / "test", "good/000.png", "hole/001.JPG", "crack/b.bmp", "crack/a.jpeg", "stray.png")
    touch(tmp_path / "ground_truth", "crack/a_mask.png", "crack/b_mask.png", "hole/001_mask.png")
    assert [sample.name for sample in mvtec_samples(tmp_path, "train")] == ["train/good/002.png", "train/good/010.png"]
    test = mvtec_samples(tmp_path, "test")
    assert [(sample.name, sample.defect, sample.anomalous) for sample in test] == [
        ("test/crack/a.jpeg", "crack", True),
        ("test/crack/b.bmp", "crack", True),
        ("test/good/000.png", "good", False),
        ("test/hole/001.JPG", "hole", True),
    ]
    masks = [sample.mask.name if sample.mask else None for sample in test]
    assert masks == ["a_mask.png", "b_mask.png", None, "001_mask.png"]


@pytest.mark.parametrize(
    ("there", "found"),
    [
        (["7_mask.png"], "7_mask.png"),
        (["7_mask.bmp"], "7_mask.bmp"),
        (["7.png"], "7.png"),
        (["7.png", "7_mask.png"], "7_mask.png"),
        (["77_mask.png"], "7_mask.png"),  # named so that a message can say what is missing
    ],
)
def test_the_mask_of_an_image_goes_by_its_name(there: list[str], found: str, tmp_path: Path) -> None:
    touch(tmp_path, "test/crack/7.png", *(f"ground_truth/crack/{name}" for name in there))
    assert mvtec_samples(tmp_path, "test")[0].mask == tmp_path / "ground_truth/crack" / found
