"""Data that are wrong, or odd, in the ways real data are: each works as a user expects, or ends in one sentence.

Turned images, very large ones and masks have files of their own.
"""

from __future__ import annotations

import errno
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from anomaly_bench.data.check import CategoryReport, check_data_set
from anomaly_bench.data.folder import Folder
from anomaly_bench.errors import UserError
from anomaly_bench.metrics import anomaly_panel
from tests.data.trees import IMAGE, MASK, SIDE, noise, replace_image, write_category


def slope() -> Image.Image:
    """24x24 RGB without edges, which a JPEG keeps to within a few grey levels."""
    rows, columns = np.mgrid[:SIDE, :SIDE] * 10
    return Image.fromarray(np.stack([rows, columns, 255 - rows], axis=-1).astype(np.uint8))


# Members that end in one sentence. Each is made in a sound category; the path it returns must be named.


def truncated_png(folder: Path) -> Path:
    (folder / IMAGE).write_bytes((folder / IMAGE).read_bytes()[:-300])
    return folder / IMAGE


def truncated_jpeg(folder: Path) -> Path:
    path = replace_image(folder, ".jpg")
    Image.fromarray(noise(SIDE, SIDE, 3)).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    return path


def zero_bytes(folder: Path) -> Path:
    (folder / IMAGE).write_bytes(b"")
    return folder / IMAGE


def text_with_image_suffix(folder: Path) -> Path:
    (folder / IMAGE).write_text("no image")
    return folder / IMAGE


def image_linked_in_a_circle(folder: Path) -> Path:
    link = folder / "train/good/009.png"
    link.symlink_to(link.name)
    return link


def mask_linked_in_a_circle(folder: Path) -> Path:
    (folder / MASK).unlink()
    (folder / MASK).symlink_to((folder / MASK).name)
    return folder / MASK


def defect_linked_in_a_circle(folder: Path) -> Path:
    link = folder / "test/scratch"
    link.symlink_to(link.name)
    return link


def image_without_mask(folder: Path) -> Path:
    (folder / MASK).unlink()
    return folder / MASK


def floating_point_image(folder: Path) -> Path:
    path = replace_image(folder, ".tif")
    Image.fromarray(np.zeros((SIDE, SIDE), dtype=np.float32)).save(path)
    return path


def png_with_header_of(path: Path, width: int, height: int) -> Path:
    """A PNG that says how large it is, and has a few bytes only."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")))
    return path


def bomb(folder: Path) -> Path:
    return png_with_header_of(folder / IMAGE, 40_000, 40_000)


REFUSED: dict[Callable[[Path], Path], str] = {
    truncated_png: "cannot be read (Failed to decode the png image. unexpected end of file",
    truncated_jpeg: "cannot be read (image file is truncated",
    zero_bytes: "is not an image; replace or remove it",
    text_with_image_suffix: "is not an image; replace or remove it",
    image_linked_in_a_circle: "cannot be read (Too many levels of symbolic links); replace or remove it",
    mask_linked_in_a_circle: "missing",
    defect_linked_in_a_circle: "leads nowhere or in a circle; mend or remove it",
    image_without_mask: "missing",
    floating_point_image: "cannot be read (32 bits a pixel; 8 or 16 can be used); replace or remove it",
    bomb: "has more than 178 million pixels; replace it by a smaller copy",
}


@pytest.mark.parametrize("member", REFUSED)
def test_setup_ends_in_one_sentence_and_check_finds_it_first(member: Callable[[Path], Path], tmp_path: Path) -> None:
    named = member(write_category(tmp_path / "thing"))
    [report] = check_data_set(Folder, tmp_path)
    [problem] = report.problems
    with pytest.raises(UserError) as caught:
        Folder(tmp_path, "thing", image_size=16).setup()
    for sentence in (problem, str(caught.value)):
        assert str(named) in sentence
        assert REFUSED[member] in sentence
        assert "\n" not in sentence
    assert str(caught.value).endswith(".")
    assert not report.sound
    assert report.status == ("1 PROBLEM" if report.counts else "unreadable; 1 PROBLEM")


@pytest.mark.parametrize("name", ["train/good/003.png", MASK, "test/hole"])
def test_what_may_not_be_read_is_named_with_the_reason(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbidden = write_category(tmp_path / "thing") / name
    for method in ("open", "iterdir"):
        permitted: Callable[..., Any] = getattr(Path, method)

        def guarded(path: Path, *rest: Any, permitted: Callable[..., Any] = permitted, **named: Any) -> Any:
            if path == forbidden:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return permitted(path, *rest, **named)

        monkeypatch.setattr(Path, method, guarded)
    [report] = check_data_set(Folder, tmp_path)
    with pytest.raises(UserError) as caught:
        Folder(tmp_path, "thing", image_size=16).setup()
    for sentence in (*report.problems, str(caught.value)):
        assert f"{forbidden} cannot be read (Permission denied); " in sentence
    assert report.problems


# Members that work. Each returns what must then arrive of the image, (24, 24, 3), and how far off it may be.


@dataclass(frozen=True)
class Expected:
    path: Path
    pixels: NDArray[np.uint8]
    tolerance: int = 0


def rgba(folder: Path) -> Expected:
    pixels = noise(SIDE, SIDE, 4)
    Image.fromarray(pixels).save(folder / IMAGE)
    return Expected(folder / IMAGE, pixels[..., :3])


def grey_of_16_bits(folder: Path) -> Expected:
    grey = np.random.default_rng(0).integers(0, 65536, (SIDE, SIDE), dtype=np.uint16)
    Image.fromarray(grey).save(folder / IMAGE)
    return Expected(folder / IMAGE, np.stack([grey // 257] * 3, axis=-1).astype(np.uint8))  # 65535 = 257 * 255


def palette(folder: Path) -> Expected:
    indices, colours = noise(SIDE, SIDE), np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(colours.tobytes())
    image.save(folder / IMAGE, transparency=bytes([0, 100, *[255] * 254]))
    return Expected(folder / IMAGE, colours[indices])


def cmyk_jpeg(folder: Path) -> Expected:
    path = replace_image(folder, ".jpg")
    slope().convert("CMYK").save(path, quality=95)
    return Expected(path, np.asarray(slope()), tolerance=8)


def upper_case_suffix(folder: Path) -> Expected:
    pixels = np.array(Image.open(folder / IMAGE))
    (folder / IMAGE).rename((folder / IMAGE).with_suffix(".PNG"))
    (folder / MASK).rename((folder / MASK).with_suffix(".PNG"))
    return Expected((folder / IMAGE).with_suffix(".PNG"), pixels)


def spaces_and_other_scripts(folder: Path) -> Expected:
    pixels = np.array(Image.open(folder / IMAGE))
    image, mask = folder / "test/Kratzer groß/画像 1.png", folder / "ground_truth/Kratzer groß/画像 1_mask.png"
    for old, new in ((IMAGE, image), (MASK, mask)):
        new.parent.mkdir()
        (folder / old).rename(new)
    return Expected(image, pixels)


def one_pixel(folder: Path) -> Expected:
    Image.fromarray(np.full((1, 1, 3), (9, 80, 200), dtype=np.uint8)).save(folder / IMAGE)
    Image.fromarray(np.full((1, 1), 255, dtype=np.uint8)).save(folder / MASK)
    return Expected(folder / IMAGE, np.full((SIDE, SIDE, 3), (9, 80, 200), dtype=np.uint8))


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize(
    "member",
    [rgba, grey_of_16_bits, palette, cmyk_jpeg, upper_case_suffix, spaces_and_other_scripts, one_pixel],
)
def test_an_odd_image_works_and_looks_as_it_should(member: Callable[[Path], Expected], tmp_path: Path) -> None:
    folder = write_category(tmp_path / "ein Ding 物")
    expected = member(folder)
    [report] = check_data_set(Folder, tmp_path)
    assert (report.category, report.problems, report.sound) == ("ein Ding 物", [], True)
    data = Folder(tmp_path, "ein Ding 物", image_size=SIDE)
    data.setup()
    assert data.ground_truth is not None
    assert data.test_pixels is not None
    names = [sample.path for sample in data.ground_truth.samples]
    assert len(names) == 6
    arrived = data.test_pixels[names.index(expected.path)].numpy().astype(int)
    assert np.abs(arrived - expected.pixels).max() <= expected.tolerance


def test_hidden_files_and_folders_and_what_is_no_image_are_left_out(tmp_path: Path) -> None:
    folder = write_category(tmp_path / "thing")
    before = Folder(tmp_path, "thing").manifest_sha256()
    for name in ("train/good/.hidden.png", "train/good/._000.png", "test/crack/Thumbs.db", "test/crack/desktop.ini"):
        (folder / name).write_bytes(b"no image")
    for hidden in ("test/.ipynb_checkpoints/000.png", ".trash/train/good/000.png"):
        (folder / hidden).parent.mkdir(parents=True)
        shutil.copy(folder / IMAGE, folder / hidden)
    shutil.copytree(folder, tmp_path / ".thing")
    (folder / "test/crack/folder.png").mkdir()
    (folder / "test/back").symlink_to("..")  # in a circle, but one that is never walked
    [report] = check_data_set(Folder, tmp_path)
    assert report.category == "thing"
    assert report.manifest_sha256 == before
    Folder(tmp_path, "thing", image_size=16).setup()


# Too few.


def without(folder: Path, *patterns: str) -> Path:
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink()
    return folder


def checked(data_root: Path) -> CategoryReport:
    [report] = check_data_set(Folder, data_root)
    assert report.sound
    assert report.manifest_sha256 is not None
    return report


def panel(data: Folder) -> Any:
    assert data.ground_truth is not None
    truth, rng = data.ground_truth, np.random.default_rng(0)
    count = len(truth.samples)
    return anomaly_panel(rng.random((count, 16, 16)), rng.random(count), truth.labels, truth.masks)


def test_without_a_good_test_image_there_are_pixel_metrics_only(tmp_path: Path) -> None:
    folder = without(write_category(tmp_path / "thing"), "test/good/*")
    assert checked(tmp_path).notes == [f"{folder}: no good test image, so image metrics will be undefined"]
    data = Folder(tmp_path, "thing", image_size=16)
    data.setup()
    measured = panel(data)
    assert measured.undefined["image_auroc"] == "There is no normal image."
    assert all(measured.values[key] is not None for key in ("pixel_auroc", "pixel_ap", "aupro"))


def test_without_a_defective_test_image_every_metric_has_its_reason(tmp_path: Path) -> None:
    folder = without(write_category(tmp_path / "thing"), "test/crack/*", "test/hole/*", "ground_truth/*/*")
    assert checked(tmp_path).notes == [f"{folder}: no defective test image, so all metrics will be undefined"]
    data = Folder(tmp_path, "thing", image_size=16)
    data.setup()
    measured = panel(data)
    assert set(measured.values.values()) == {None}
    assert measured.undefined["pixel_auroc"] == "There is no anomalous pixel."


def test_one_training_image_is_refused_where_batch_norm_could_not_use_it(tmp_path: Path) -> None:
    folder = without(write_category(tmp_path / "thing"), "train/good/00[1-4].png")
    [note] = checked(tmp_path).notes
    assert note == f"{folder}: a single training image, which is enough at image_size=64 or more only"
    with pytest.raises(UserError) as caught:
        Folder(tmp_path, "thing", image_size=32).setup()
    assert str(caught.value) == (
        f"one training image of {folder} is too little for batch norm at image_size=32; "
        "use two or more, or image_size=64 or more."
    )
    Folder(tmp_path, "thing", image_size=64).setup()


@pytest.mark.parametrize("options", [{"train_images": 1}, {"batch_size": 1}])
def test_a_subset_or_a_batch_of_one_image_is_refused_too(options: dict[str, int], tmp_path: Path) -> None:
    write_category(tmp_path / "thing")
    with pytest.raises(UserError, match=r"is too little for batch norm at image_size=63; use two or more, or image_s"):
        Folder(tmp_path, "thing", image_size=63, **options).setup()
    Folder(tmp_path, "thing", image_size=64, **options).setup()


def test_a_training_set_smaller_than_the_batch_is_one_batch(tmp_path: Path) -> None:
    write_category(tmp_path / "thing")
    data = Folder(tmp_path, "thing", image_size=16, batch_size=100)
    data.setup()
    assert [len(batch.images) for batch in data.train_dataloader()] == [5]
    assert checked(tmp_path).notes == []
