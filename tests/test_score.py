"""`anomaly-bench score`: maps of any program, matched with masks by their relative path."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from anomaly_bench.cli import main
from anomaly_bench.errors import UserError
from anomaly_bench.metrics import METRIC_KEYS, anomaly_panel
from anomaly_bench.score import score_folders

SIZE = (12, 17)


def write_mask(path: Path, *, empty: bool = False) -> NDArray[np.bool_]:
    mask = np.zeros(SIZE, dtype=bool)
    if not empty:
        mask[2:5, 3:9] = True
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).convert("L").save(path)
    return mask


def write_map(path: Path, image: NDArray[np.generic]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, image)
    else:
        path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three defective and two good images of another program, in folders as MVTec AD names them."""
    maps, masks, rng = tmp_path / "maps", tmp_path / "masks", np.random.default_rng(0)
    for name in ("good/000", "good/001", "hole/000", "hole/001", "cut/000"):
        image = rng.random(SIZE, dtype=np.float32)
        if not name.startswith("good"):
            image[write_mask(masks / f"{name}_mask.png")] += 0.5
        write_map(maps / f"{name}.npy", image)
    return maps, masks


def test_the_numbers_are_those_of_the_metrics(folders: tuple[Path, Path]) -> None:
    maps, masks = folders
    names = ["cut/000", "good/000", "good/001", "hole/000", "hole/001"]
    images = [np.load(maps / f"{name}.npy") for name in names]
    labels = [not name.startswith("good") for name in names]
    truth = np.zeros((5, *SIZE), dtype=bool)
    truth[labels, 2:5, 3:9] = True
    expected = anomaly_panel(images, [image.max() for image in images], labels, truth)
    scored = score_folders(maps, masks)
    assert {key: scored[key] for key in METRIC_KEYS} == expected.values
    assert (scored["images"], scored["anomalous_images"], scored["empty_masks"]) == (5, 3, 0)


def test_an_empty_mask_makes_a_normal_image_and_is_said(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    maps, masks = folders
    write_mask(masks / "cut" / "000_mask.png", empty=True)
    assert main(["score", "--maps", str(maps), "--masks", str(masks)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("5 images, 2 of them anomalous")
    assert said.err == "note: empty masks, whose images count as normal: 1\n"


@pytest.mark.parametrize("suffix", [".tiff", ".png"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_format_gives_the_same_numbers(folders: tuple[Path, Path], suffix: str, dtype: type[np.generic]) -> None:
    maps, masks = folders
    for path in list(maps.rglob("*.npy")):
        image = (np.load(path) * 150).astype(dtype)
        path.unlink()
        write_map(path, image)
    expected = score_folders(maps, masks)
    for path in list(maps.rglob("*.npy")):
        write_map(path.with_suffix(suffix), np.load(path))
        path.unlink()
    assert score_folders(maps, masks) == expected


def test_float_tiffs_keep_their_values(folders: tuple[Path, Path]) -> None:
    maps, masks = folders
    expected = score_folders(maps, masks)
    for path in list(maps.rglob("*.npy")):
        write_map(path.with_suffix(".tiff"), np.load(path))
        path.unlink()
    assert score_folders(maps, masks) == expected


def test_an_empty_mask_and_none_mean_the_same(folders: tuple[Path, Path]) -> None:
    maps, masks = folders
    expected = score_folders(maps, masks)
    write_mask(masks / "good" / "000.png", empty=True)
    assert score_folders(maps, masks) == expected | {"empty_masks": 1}


def test_the_command_prints_and_writes(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    maps, masks = folders
    out = maps.parent / "scores.json"
    assert main(["score", "--maps", str(maps), "--masks", str(masks), "--out", str(out)]) == 0
    printed, written = capsys.readouterr().out, json.loads(out.read_text())
    assert "5 images, 3 of them anomalous" in printed
    for key in METRIC_KEYS:
        assert f"{key:<14}{written[key]:.4f}" in printed


def test_what_is_undefined_is_null_with_a_reason(folders: tuple[Path, Path]) -> None:
    maps, masks = folders
    for path in (maps / "good").iterdir():
        path.unlink()
    scored = score_folders(maps, masks)
    assert scored["image_auroc"] is None
    assert "normal" in scored["undefined"]["image_auroc"]
    assert scored["pixel_auroc"] is not None


def smaller_map(maps: Path, masks: Path) -> None:
    np.save(maps / "hole" / "000.npy", np.zeros((6, 8)))


def not_finite(maps: Path, masks: Path) -> None:
    np.save(maps / "hole" / "000.npy", np.full(SIZE, np.nan))


def colour_map(maps: Path, masks: Path) -> None:
    np.save(maps / "hole" / "000.npy", np.zeros((*SIZE, 3)))


def text_map(maps: Path, masks: Path) -> None:
    (maps / "hole" / "000.npy").write_text("no array")


def pickled_map(maps: Path, masks: Path) -> None:
    np.save(maps / "hole" / "000.npy", np.array([{}, {}]), allow_pickle=True)


def text_mask(maps: Path, masks: Path) -> None:
    (masks / "hole" / "000_mask.png").write_text("no image")


def lonely_mask(maps: Path, masks: Path) -> None:
    (maps / "hole" / "000.npy").unlink()


def two_maps(maps: Path, masks: Path) -> None:
    write_map(maps / "hole" / "000.png", np.zeros(SIZE, dtype=np.uint8))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (smaller_map, r"000.npy has 8x6 pixels, its mask 17x12; resize the one or the other\.$"),
        (not_finite, r"000.npy.*; make the map again\.$"),
        (colour_map, r"000.npy has shape \(12, 17, 3\) and type float64; a map is one number a pixel\.$"),
        (text_map, r"000.npy is not a NumPy array"),
        (pickled_map, r"000.npy is not a NumPy array"),
        (text_mask, r"000_mask.png is not an image that can be read; replace it\.$"),
        (lonely_mask, r"000_mask.png has no map .*000\.\*; add it, or remove the mask\.$"),
        (two_maps, r"000.npy and .*000.png both stand for 'hole/000'; keep one of them\.$"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(folders: tuple[Path, Path], damage: object, sentence: str) -> None:
    maps, masks = folders
    damage(maps, masks)  # type: ignore[operator]
    with pytest.raises(UserError, match=sentence):
        score_folders(maps, masks)
