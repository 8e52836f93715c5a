"""Reading as RD4AD did, whose transforms are torchvision's: the pixels must be the same ones."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import Resize
from torchvision.transforms.functional import to_tensor

from anomaly_bench.data.images import full_size, in_one_sentence, manifest_sha256, parallel, read_image, read_mask
from anomaly_bench.errors import UserError

SIZES = [7, 16, 33]  # smaller than the file both ways, in between, larger both ways


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, pixels: NDArray[np.uint8], mode: str | None = None) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)
    return path


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.bmp"])
def test_an_image_is_what_torchvisions_resize_makes_of_it(name: str, size: int, tmp_path: Path) -> None:
    path = save(tmp_path / name, noise(24, 20, 3))
    expected = np.array(Resize((size, size))(Image.open(path).convert("RGB")))
    decoded = read_image(path, size)
    assert decoded.pixels.dtype == np.uint8
    np.testing.assert_array_equal(decoded.pixels, expected)
    assert decoded.full_size == full_size(path) == (24, 20)


@pytest.mark.parametrize("height", [256, 512, 768])
@pytest.mark.parametrize("width", [256, 512, 768])
@pytest.mark.parametrize("channels", [(), (3,)], ids=["grey", "colours"])
def test_an_image_that_torch_shrinks_is_pillows_to_the_last_bit(
    channels: tuple[int, ...], width: int, height: int, tmp_path: Path
) -> None:
    path = save(tmp_path / "x.png", noise(height, width, *channels))
    expected = np.array(Image.open(path).convert("RGB").resize((128, 128), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(read_image(path, 128).pixels, expected)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA"])
def test_other_kinds_of_image_become_rgb(mode: str, tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", noise(24, 20, 3), mode)
    expected = np.array(Resize((16, 16))(Image.open(path).convert("RGB")))
    np.testing.assert_array_equal(read_image(path, 16).pixels, expected)


def test_a_grey_image_has_three_equal_channels(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", noise(24, 20))
    pixels = read_image(path, 16).pixels
    assert pixels.shape == (16, 16, 3)
    assert (pixels[..., 0] == pixels[..., 1]).all()
    assert (pixels[..., 0] == pixels[..., 2]).all()
    np.testing.assert_array_equal(pixels[..., 0], np.array(Resize((16, 16))(Image.open(path))))


@pytest.mark.parametrize("size", SIZES)
def test_a_mask_is_resized_bilinearly_and_anomalous_above_one_half(size: int, tmp_path: Path) -> None:
    full = np.where(noise(24, 20) > 128, 255, 0).astype(np.uint8)
    path = save(tmp_path / "mask.png", full)
    expected = to_tensor(Resize((size, size))(Image.open(path)))[0] > 0.5
    decoded = read_mask(path, size)
    assert torch.equal(torch.from_numpy(decoded.pixels.copy()), expected)
    assert 0 < decoded.pixels.mean() < 1
    assert decoded.full_size == (24, 20)
    assert decoded.binary


def test_masks_of_0_and_1_mean_the_same_as_masks_of_0_and_255(tmp_path: Path) -> None:
    ones = (noise(24, 20) > 128).astype(np.uint8)
    masks = [read_mask(save(tmp_path / f"{top}.png", ones * np.uint8(top)), 16) for top in (1, 255)]
    np.testing.assert_array_equal(masks[0].pixels, masks[1].pixels)
    assert masks[0].share == masks[1].share == ones.sum() / 480
    assert masks[0].binary
    assert masks[1].binary


def test_the_share_is_counted_at_full_size_even_where_the_small_mask_is_empty(tmp_path: Path) -> None:
    full = np.zeros((24, 20), dtype=np.uint8)
    full[3, 5:7] = 255
    decoded = read_mask(save(tmp_path / "mask.png", full), 4)
    assert not decoded.pixels.any()
    assert decoded.share == 2 / 480


@pytest.mark.parametrize(("values", "binary"), [((0,), True), ((0, 255), True), ((0, 1), True), ((0, 90, 255), False)])
def test_a_mask_of_more_than_two_values_is_not_binary(values: tuple[int, ...], binary: bool, tmp_path: Path) -> None:
    pixels = np.resize(np.array(values, dtype=np.uint8), (24, 20))
    assert read_mask(save(tmp_path / "mask.png", pixels), 8).binary is binary


@pytest.mark.parametrize("highest", [1, 2, 3, 90, 127, 128, 254, 255])
def test_the_share_counts_what_is_above_one_half_of_the_highest_value(highest: int, tmp_path: Path) -> None:
    pixels = np.arange(highest + 1, dtype=np.uint8)[None].repeat(2, axis=0)
    above = [value for value in range(highest + 1) if round(value * 255 / highest) > 127]
    decoded = read_mask(save(tmp_path / "mask.png", pixels), 8)
    assert decoded.share == len(above) / (highest + 1)
    assert decoded.binary is (highest == 1)


@pytest.mark.parametrize("count", [0, 1, 7, 1000])
def test_work_in_parallel_gives_its_results_in_order(count: int) -> None:
    assert parallel(lambda number: number**2, iter(range(count))) == [number**2 for number in range(count)]


def test_of_several_failures_in_parallel_the_first_one_in_order_is_raised() -> None:
    def work(number: int) -> None:
        if number >= 300:
            time.sleep(0.05 * (number == 300))  # the others have failed by then
            raise UserError(f"number {number}")

    with pytest.raises(UserError, match=r"^number 300$"):
        parallel(work, range(1000))


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(24, 20, 3)).save(buffer, kind)
    return buffer.getvalue()


BAD_FILES: dict[str, Callable[[], bytes]] = {
    "text.png": lambda: b"this is no image\n",
    "nothing.png": lambda: b"",
    "cut.png": lambda: encoded("PNG")[:-200],
    "header_alone.png": lambda: encoded("PNG")[:33],
    "cut.jpg": lambda: encoded("JPEG")[:-200],
    "cut.bmp": lambda: encoded("BMP")[:-200],
}


@pytest.mark.parametrize("reader", [lambda path: read_image(path, 8), lambda path: read_mask(path, 8)])
@pytest.mark.parametrize("name", [*BAD_FILES, "missing.png"])
def test_a_file_that_cannot_be_decoded_is_refused_by_name(
    name: str, reader: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / name
    if name in BAD_FILES:
        path.write_bytes(BAD_FILES[name]())
    with pytest.raises(UserError) as caught:
        reader(path)
    assert str(caught.value).startswith(f"{path} ")
    assert str(caught.value).endswith("; replace or remove it.")


def test_one_flipped_bit_in_a_png_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "flipped.png"
    content = bytearray(encoded("PNG"))
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"flipped\.png cannot be read"):
        read_image(path, 8)


def test_the_manifest_hash_is_that_of_the_sorted_lines_of_hash_and_name(tmp_path: Path) -> None:
    files = []
    for name in ("b", "a", "c"):
        (tmp_path / name).write_text(f"content of {name}")
        files.append((f"name of {name}", tmp_path / name))
    lines = [f"{hashlib.sha256(f'content of {name}'.encode()).hexdigest()}  name of {name}\n" for name in "abc"]
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert manifest_sha256(files) == manifest_sha256(files[::-1]) == expected


def test_lack_of_memory_is_no_fault_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(MemoryError), in_one_sentence(tmp_path / "sound.png"):
        raise MemoryError
