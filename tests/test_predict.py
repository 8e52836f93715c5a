"""`anomaly-bench predict` as a user meets it: a row and a picture an image, and no file stops another."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_bench.bench.execute import execute
from anomaly_bench.bench.places import Places
from anomaly_bench.bench.store import Record, Store
from anomaly_bench.cli import main
from anomaly_bench.overlays import overlay
from anomaly_bench.predict import find_images
from tests.conftest import tiny_spec


@pytest.fixture(scope="module")
def trained(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, Places]:
    places = Places(data_root, tmp_path_factory.mktemp("trained"))
    return execute(tiny_spec(), places, Store(places.results)), places


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with a colour image, a grey one of the same stem in another format, and one below."""
    folder = tmp_path / "photos"
    (folder / "line 2").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.jpg")
    Image.fromarray(pixels[:, :, 0]).save(folder / "a.png")
    Image.fromarray(pixels[::-1]).save(folder / "line 2" / "ü.bmp")
    (folder / "notes.txt").write_text("no image")
    return folder


def words(trained: tuple[Record, Places], photos: Path, *more: str) -> list[str]:
    record, places = trained
    out = str(photos.parent / "out")
    where = ["--data-root", str(places.data_root), "--results", str(places.results)]
    return ["predict", "--run", record.spec.run_id[:6], str(photos), "--out", out, *where, *more]


def rows(photos: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((photos.parent / "out" / "scores.csv").read_text().splitlines()))


def test_a_test_image_gets_the_score_of_the_records_csv(
    trained: tuple[Record, Places], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record, places = trained
    stored = Store(places.results).read_scores(record.spec.run_id, record.evaluation) or ""
    first = next(csv.DictReader(stored.splitlines()))
    image = places.data_root / "synthetic-v1" / "brick" / first["path"]
    assert main([*words(trained, image)[:3], str(image), *words(trained, photos)[4:]]) == 0
    (row,) = rows(photos)
    assert row["path"] == str(image)
    assert float(row["score"]) == pytest.approx(float(first["score"]), rel=1e-5)
    assert "1 images scored" in capsys.readouterr().out


def test_every_image_has_its_row_and_its_own_overlay(trained: tuple[Record, Places], photos: Path) -> None:
    assert main(words(trained, photos)) == 0
    found = rows(photos)
    assert [row["path"] for row in found] == [str(photos / name) for name in ("a.jpg", "a.png", "line 2/ü.bmp")]
    assert [row["overlay"] for row in found] == ["overlays/a.png", "overlays/a-2.png", "overlays/line 2/ü.png"]
    for row in found:
        with Image.open(photos.parent / "out" / row["overlay"]) as picture:
            assert picture.size == (128, 64)
    assert list(found[0]) == ["path", "score", "overlay", "run", "evaluation"]
    assert {(row["run"], row["evaluation"]) for row in found} == {(trained[0].spec.run_id, trained[0].evaluation)}
    assert main(words(trained, photos)) == 0, "and once more, into the same folder"
    assert rows(photos) == found


def test_a_broken_file_is_named_at_the_end_and_the_others_are_done(
    trained: tuple[Record, Places], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "b.png").write_text("I am not an image.")
    assert main(words(trained, photos, "--no-overlays")) == 2
    printed = capsys.readouterr()
    assert printed.err == f"error: {photos / 'b.png'} is not an image; replace or remove it.\n"
    assert "3 images scored" in printed.out
    assert [Path(row["path"]).name for row in rows(photos)] == ["a.jpg", "a.png", "ü.bmp"]
    assert not (photos.parent / "out" / "overlays").exists()


def test_a_threshold_is_in_the_csv_and_decides(
    trained: tuple[Record, Places], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(trained, photos, "--fpr", "0.25")) == 0
    assert "2 of 8 training images are above it" in capsys.readouterr().out
    for row in rows(photos):
        assert row["anomalous"] == str(int(float(row["score"]) > float(row["threshold"])))
    assert len({row["threshold"] for row in rows(photos)}) == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (["--fpr", "1.5"], "a false-positive rate is at least 0 and below 1, not 1.5."),
        (["--run", "zz"], "begins with 'zz'; `anomaly-bench list runs` shows all."),
        (["nowhere.png"], "nowhere.png does not exist; correct the path."),
        (["EMPTY"], "there is no image (.png, .jpg,"),
        (["--results", "nowhere"], "no run in nowhere/runs begins with"),
    ],
    ids=str,
)
def test_wrong_words_are_one_sentence_and_leave_nothing(
    trained: tuple[Record, Places],
    photos: Path,
    change: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    empty = photos.parent / "empty"
    empty.mkdir()
    change = [str(empty) if word == "EMPTY" else word for word in change]
    given = words(trained, photos)
    if not change[0].startswith("-"):
        given[3:4] = change
        change = []
    assert main([*given, *change]) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert printed.err.count("\n") == 1
    assert not (photos.parent / "out").exists()


def test_only_broken_files_leave_nothing(
    trained: tuple[Record, Places], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(photos)
    photos.mkdir()
    (photos / "b.png").write_text("I am not an image.")
    assert main(words(trained, photos)) == 2
    assert "b.png is not an image" in capsys.readouterr().err
    assert not (photos.parent / "out").exists()


def test_gone_maps_leave_the_scores(
    trained: tuple[Record, Places], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record, places = trained
    results = photos.parent / "results"
    shutil.copytree(places.results, results)
    (Store(results).folder(record.spec.run_id) / "maps.npz").unlink()
    given = words((record, Places(places.data_root, results)), photos)
    assert main(given) == 2
    assert "the overlays' colours come from it; use --no-overlays" in capsys.readouterr().err
    assert main([*given, "--no-overlays"]) == 0
    assert {row["overlay"] for row in rows(photos)} == {""}


def test_a_second_call_leaves_no_overlays_of_the_first(trained: tuple[Record, Places], photos: Path) -> None:
    assert main(words(trained, photos)) == 0
    overlays = photos.parent / "out" / "overlays"
    (overlays / "mine.png").write_text("not from here")
    (photos / "a.jpg").unlink()
    assert main(words(trained, photos)) == 0
    drawn = {str(path.relative_to(overlays)) for path in overlays.rglob("*.png")}
    assert drawn == {"a.png", "line 2/ü.png", "mine.png"}
    assert main(words(trained, photos, "--no-overlays")) == 0
    assert [path.name for path in overlays.rglob("*.png")] == ["mine.png"]
    (photos.parent / "out" / "scores.csv").write_bytes(b"\xff not from here")
    assert main(words(trained, photos, "--no-overlays")) == 0
    assert len(rows(photos)) == 2


def test_the_masks_of_a_data_set_are_no_images(photos: Path) -> None:
    masks = photos / "ground_truth" / "hole"
    masks.mkdir(parents=True)
    shutil.copy(photos / "a.png", masks / "000_mask.png")
    assert [image.path.name for image in find_images([photos], photos)] == ["a.jpg", "a.png", "ü.bmp"]
    assert len(find_images([masks], photos)) == 1, "named itself, it is meant"


def test_overlays_of_an_earlier_call_are_no_images(photos: Path) -> None:
    (photos / "overlays").mkdir()
    shutil.copy(photos / "a.png", photos / "overlays" / "a.png")
    assert [image.path.name for image in find_images([photos], photos)] == ["a.jpg", "a.png", "ü.bmp"]
    assert len(find_images([photos], photos.parent / "out")) == 4
    linked = photos.parent / "linked"
    linked.symlink_to(photos)
    assert len(find_images([linked], photos)) == len(find_images([photos], linked)) == 3, "however it is spelled"


def test_an_overlay_is_the_image_and_beside_it_the_same_where_nothing_is_anomalous() -> None:
    image = np.random.default_rng(0).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    anomaly_map = np.zeros((4, 5), np.float32)
    anomaly_map[1, 2], anomaly_map[3, 0] = 7.0, -3.0
    drawn = overlay(image, anomaly_map, (1.0, 2.0))
    same = np.ones((4, 5), bool)
    same[1, 2] = False
    assert np.array_equal(drawn[:, :5], image)
    assert np.array_equal(drawn[:, 5:][same], image[same])
    top = np.array([252.99, 255.0, 164.4])  # the end of matplotlib's inferno: beyond the scale is its end
    assert np.abs(drawn[1, 7] - (0.25 * image[1, 2] + 0.75 * top)).max() <= 1
