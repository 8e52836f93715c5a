"""Foreground masks: the rules against their description, pixel by pixel, and when a mask is not believed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import label
from torch import nn

from anomaly_bench.bench import foreground
from anomaly_bench.bench.foreground import ForegroundRule, foreground_masks, require_sam
from anomaly_bench.errors import UserError

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Plane = NDArray[np.float64]
BLACK = np.zeros((1, 40, 60, 3), np.uint8)
WEIGHT_FREE: list[ForegroundRule] = [rule for rule in get_args(ForegroundRule) if rule != "sam"]


def disc(shape: tuple[int, int], centre: tuple[int, int], radius: float) -> Mask:
    y, x = np.indices(shape)
    return np.hypot(y - centre[0], x - centre[1]) <= radius


def picture(shown: Mask, *, noise: int = 0) -> Image:
    """An object of one colour on a background of another, each channel of each pixel off by up to `noise`."""
    image = np.where(shown[..., None], (190, 150, 70), (90, 120, 60))
    spread = np.random.default_rng(0).integers(-noise, noise + 1, image.shape)
    return np.clip(image + spread, 0, 255).astype(np.uint8)


def mask_of(image: Image, rule: ForegroundRule) -> Mask:
    found = foreground_masks(image[None], rule)
    assert found.fallbacks == ()
    return found.masks[0]


def messy() -> Image:
    """A ring whose hole is too wide to close, a bar with a gap at the edge, a large and a small stain, and noise."""
    shape = (79, 91)
    shown = disc(shape, (30, 33), 17) & ~disc(shape, (30, 33), 11)
    shown[66:79, 50:74] = True
    shown[:, 60:63] = False
    return picture(shown | disc(shape, (14, 70), 3.5) | disc(shape, (60, 20), 2.5), noise=12)


# The rules as they are described, written out: from here to `core`.
def lab(pixel: Image) -> list[float]:
    """CIE L*a*b* of an sRGB pixel under D65."""
    r, g, b = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (int(c) / 255 for c in pixel))
    x = (0.412453 * r + 0.357580 * g + 0.180423 * b) / 0.95047
    y = 0.212671 * r + 0.715160 * g + 0.072169 * b
    z = (0.019334 * r + 0.119193 * g + 0.950227 * b) / 1.08883
    fx, fy, fz = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z))
    return [116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)]


def positions(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    return ((y, x) for y in range(shape[0]) for x in range(shape[1]))


def frame(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(y, x) for y, x in positions(shape) if min(y, x, shape[0] - 1 - y, shape[1] - 1 - x) < 5]


def colour_distance(image: Image) -> Plane:
    """Mahalanobis distance to the frame's Gaussian."""
    colours = {p: np.array(lab(image[p])) for p in positions(image.shape)}
    background = [colours[p] for p in frame(image.shape)]
    mean = sum(background) / len(background)
    covariance = sum(np.outer(c - mean, c - mean) for c in background) / (len(background) - 1) + 1e-3 * np.eye(3)
    squares = [(c - mean) @ np.linalg.solve(covariance, c - mean) for c in colours.values()]
    return np.sqrt(squares).reshape(image.shape[:2])


def grey_distance(image: Image) -> Plane:
    grey = np.array([[round(0.299 * int(r) + 0.587 * int(g) + 0.114 * int(b)) for r, g, b in row] for row in image])
    return np.abs(grey - np.median([grey[p] for p in frame(image.shape)]))


def blurred(plane: Plane) -> Plane:
    """Sigma 2, cut at four sigma, mirrored (d c b a | a b c d | d c b a); rows, then columns."""
    weights = np.exp([-(offset**2) / 8 for offset in range(-8, 9)])
    for _ in range(2):
        mirrored = np.pad(plane, ((8, 8), (0, 0)), "symmetric")
        rows = [weights @ mirrored[y : y + 17] / weights.sum() for y in range(len(plane))]
        plane = np.transpose(rows)
    return plane


def otsu(plane: Plane) -> float:
    """The middle of that of 256 bins after which a cut leaves the most variance between the two sides."""
    counts, edges = np.histogram(plane, 256)
    middles = (edges[1:] + edges[:-1]) / 2
    best = (-1.0, 0.0)
    for cut in range(1, 256):
        low, high = counts[:cut].sum(), counts[cut:].sum()
        means = (counts[:cut] @ middles[:cut]) / low, (counts[cut:] @ middles[cut:]) / high
        best = max(best, (low * high * (means[0] - means[1]) ** 2, middles[cut - 1]))
    return best[1]


def spread(mask: Mask, offsets: list[tuple[int, int]]) -> Mask:
    """Dilation by a set of offsets."""
    shown = {p for p in positions(mask.shape) if mask[p]}
    near = [any((y + v, x + u) in shown for v, u in offsets) for y, x in positions(mask.shape)]
    return np.array(near).reshape(mask.shape)


SQUARE = [(v, u) for v in range(-2, 3) for u in range(-2, 3)]
ROUND = [(v, u) for v in range(-7, 8) for u in range(-7, 8) if v * v + u * u <= 49]


def core(distance: Plane) -> Mask:
    """Everything up to the growth."""
    smooth = blurred(distance)
    mask = ~spread(~spread(smooth > otsu(smooth), SQUARE), SQUARE)
    outside = label(np.pad(~mask, 1, constant_values=True))[0][1:-1, 1:-1] == 1  # joined to a margin all around
    regions = label(~outside, np.ones((3, 3)))[0]
    return np.isin(regions, [n for n in range(1, regions.max() + 1) if (regions == n).sum() > 0.005 * mask.size])


DISTANCES = {"border": colour_distance, "otsu": grey_distance}


def test_the_colour_distance_is_the_mahalanobis_distance_to_the_frame() -> None:
    image = messy()[:37, :45]
    np.testing.assert_allclose(foreground._colour_distance(image), colour_distance(image), rtol=1e-6)
    image[:, :, 1:] = image[:, :, :1] // 2  # colours on a curve: almost nothing but the ridge in two directions
    np.testing.assert_allclose(foreground._colour_distance(image), colour_distance(image), rtol=1e-6)


@pytest.mark.parametrize("rule", ["border", "otsu"])
def test_border_and_otsu_are_their_description_pixel_by_pixel(rule: ForegroundRule) -> None:
    expected = core(DISTANCES[rule](messy()))
    assert label(expected)[1] == 3  # the ring, filled; the bar, in one piece; the large stain
    np.testing.assert_array_equal(mask_of(messy(), rule), spread(expected, ROUND))


def test_grabcut_starts_from_the_border_rule_and_is_sure_only_well_off_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def grab_cut(image: Image, labels: Image, *rest: Any) -> None:
        calls.append((image.copy(), labels.copy(), rest[-2:]))
        labels[...] = cv2.GC_PR_BGD
        labels[20:40, 20:40], labels[40:50, 20:40] = cv2.GC_FGD, cv2.GC_PR_FGD

    monkeypatch.setattr(cv2, "grabCut", grab_cut)
    mask = mask_of(messy(), "grabcut")
    inner = core(colour_distance(messy()))
    expected = np.full(inner.shape, cv2.GC_BGD)
    expected[spread(inner, ROUND)] = cv2.GC_PR_BGD
    expected[inner] = cv2.GC_PR_FGD
    expected[~spread(~inner, ROUND)] = cv2.GC_FGD
    ((image, labels, rest),) = calls
    np.testing.assert_array_equal(image, messy())
    np.testing.assert_array_equal(labels, expected)
    assert {*labels.ravel()} == {cv2.GC_BGD, cv2.GC_FGD, cv2.GC_PR_BGD, cv2.GC_PR_FGD}
    assert rest == (5, cv2.GC_INIT_WITH_MASK)
    assert mask.sum() == 600
    assert mask[20:50, 20:40].all()


@pytest.mark.parametrize("rule", WEIGHT_FREE)
@pytest.mark.parametrize("centre", [(70, 80), (70, 4)])  # the latter is cut by the image's edge
@pytest.mark.parametrize(("noise", "grey"), [(0, False), (15, False), (15, True)])
def test_an_object_is_found(rule: ForegroundRule, centre: tuple[int, int], noise: int, grey: bool) -> None:
    shown = disc((140, 160), centre, 30)
    image = picture(shown, noise=noise)
    found = mask_of(image[..., :1].repeat(3, axis=2) if grey else image, rule)
    if rule == "grabcut":
        assert (found ^ shown).sum() < 30
    else:
        assert found[disc((140, 160), centre, 35)].all()
        assert not found[~disc((140, 160), centre, 42)].any()


def test_only_colour_tells_an_object_from_a_background_of_the_same_grey() -> None:
    shown = disc((90, 90), (45, 45), 20)
    image = np.where(shown[..., None], (170, 60, 122), (100, 100, 100)).astype(np.uint8)
    assert mask_of(image, "border")[shown].all()
    assert foreground_masks(image[None], "otsu").fallbacks == (0,)


def faint(seed: int) -> Image:
    """An object that noise all but hides: GrabCut's answer depends on how its clusters start."""
    noise = np.random.default_rng(seed).integers(-60, 61, (96, 96, 3))
    return (np.where(disc((96, 96), (48, 48), 25)[..., None], 130, 100) + noise).astype(np.uint8)


@pytest.mark.parametrize("rule", WEIGHT_FREE)
def test_a_mask_depends_neither_on_the_order_nor_on_the_number_of_images(rule: ForegroundRule) -> None:
    images = np.stack([faint(seed) for seed in range(6)])
    images[2] = 77
    together = foreground_masks(images, rule)
    assert len(together.fallbacks) < 6
    reverse = foreground_masks(images[::-1], rule)
    np.testing.assert_array_equal(together.masks, reverse.masks[::-1])
    assert together.fallbacks == tuple(sorted(5 - index for index in reverse.fallbacks))
    for image, mask in zip(images, together.masks, strict=True):
        np.testing.assert_array_equal(foreground_masks(image[None], rule).masks[0], mask)


@pytest.mark.parametrize("rule", WEIGHT_FREE)
def test_images_that_show_nothing_are_kept_whole_and_listed(rule: ForegroundRule) -> None:
    image = picture(disc((90, 90), (45, 45), 20))
    images = np.stack([image] * 5)
    images[0], images[2], images[4] = 0, (201, 13, 77), 255
    found = foreground_masks(images, rule)
    assert found.fallbacks == (0, 2, 4)
    assert found.masks[[0, 2, 4]].all()
    assert not found.masks[[1, 3]].all(axis=(1, 2)).any()
    assert found.masks.dtype == bool
    assert foreground_masks(images[:0], rule).masks.shape == (0, 90, 90)


@pytest.mark.parametrize("rule", WEIGHT_FREE)
@pytest.mark.parametrize("side", [3, 8, 10, 11, 16, 32])
def test_images_not_much_larger_than_their_frame_are_no_error(rule: ForegroundRule, side: int) -> None:
    random = np.random.default_rng(0).integers(0, 256, (20, side, side, 3)).astype(np.uint8)
    dots = np.stack([picture(disc((side, side), (side // 2, side // 2), radius)) for radius in range(side // 2)])
    for images in (random, random[..., :1].repeat(3, axis=3), dots):
        found = foreground_masks(images, rule)
        assert found.masks.shape == images.shape[:3]
        assert found.masks[list(found.fallbacks)].all()


class FakeSam:
    """Stands for the package: a linear layer for a network, and a predictor that remembers what it was asked."""

    def __init__(self) -> None:
        self.answers = np.zeros((3, 40, 60), dtype=bool)
        self.asked: list[Any] = []
        self.sam_model_registry = {"vit_b": self.build, "vit_l": lambda checkpoint: nn.Linear(7, 7)}

    def build(self, checkpoint: Path | None) -> nn.Module:
        assert checkpoint is None, "the package would load this without any care"
        return nn.Linear(3, 2)

    def SamPredictor(self, model: nn.Module) -> SimpleNamespace:  # noqa: N802
        self.model = model
        return SimpleNamespace(set_image=self.asked.append, predict=self.predict)

    def predict(self, **question: Any) -> tuple[Mask, list[float], None]:
        self.asked.append(question)
        return self.answers, [0.1, 0.9, 0.5], None


@pytest.fixture
def sam(monkeypatch: pytest.MonkeyPatch) -> FakeSam:
    fake = FakeSam()
    monkeypatch.setitem(sys.modules, "segment_anything", fake)
    return fake


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "sam_vit_b_01ec64.pth"
    torch.save({"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([7.0, 8.0])}, path)
    return path


def test_sam_with_the_files_tensors_is_asked_for_several_answers_at_the_centre(sam: FakeSam, checkpoint: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 60, 3)).astype(np.uint8)
    foreground_masks(images, "sam", sam_checkpoint=checkpoint)
    assert sam.model.weight.flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert sam.model.weight.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert not sam.model.training
    first, question, second, _ = sam.asked
    np.testing.assert_array_equal([first, second], images)
    question |= {"point_coords": question["point_coords"].tolist(), "point_labels": question["point_labels"].tolist()}
    assert question == {"point_coords": [[30, 20]], "point_labels": [1], "multimask_output": True}  # x, y


def test_sams_largest_answer_that_is_not_nearly_the_whole_image_is_taken(sam: FakeSam, checkpoint: Path) -> None:
    sam.answers[0, 10:20, 20:40] = True
    sam.answers[1, 10:30, 20:40] = True
    sam.answers[2, 1:, :] = True  # 97.5 %
    found = foreground_masks(BLACK, "sam", sam_checkpoint=checkpoint)
    np.testing.assert_array_equal(found.masks, sam.answers[1:2])
    sam.answers[...] = True
    assert foreground_masks(BLACK, "sam", sam_checkpoint=checkpoint).fallbacks == (0,)


# Of 200 x 200 pixels, 3,900 are in the frame: 2 % are 800, 95 % are 38,000, 60 % of the frame are 2,340.
BELIEVED, BEYOND = [(800, 0), (36100, 1900), (0, 2340)], [(799, 0), (36100, 1901), (0, 2341)]


@pytest.mark.parametrize("covered", BELIEVED + BEYOND)
def test_believed_masks_are_neither_empty_nor_whole(sam: FakeSam, checkpoint: Path, covered: tuple[int, int]) -> None:
    mask = np.zeros((200, 200), dtype=bool)
    mask[5:195, 5:195].flat[: covered[0]] = True
    for p in frame(mask.shape)[: covered[1]]:
        mask[p] = True
    sam.answers = np.stack([mask] * 3)
    found = foreground_masks(np.zeros((1, 200, 200, 3), np.uint8), "sam", sam_checkpoint=checkpoint)
    assert found.fallbacks == (() if covered in BELIEVED else (0,))
    np.testing.assert_array_equal(found.masks[0], mask if covered in BELIEVED else np.ones_like(mask))


def test_a_checkpoint_that_is_not_this_networks_tensors_is_refused(sam: FakeSam, checkpoint: Path) -> None:
    other, objects = checkpoint.with_name("sam_vit_l.pth"), checkpoint.with_name("sam_vit_b_objects.pth")
    checkpoint.rename(other)
    torch.save(SimpleNamespace(), objects)  # to unpickle such a thing is to run what it says
    for path, why in ((other, "RuntimeError"), (objects, "UnpicklingError"), (checkpoint, "FileNotFoundError")):
        with pytest.raises(UserError, match=rf"cannot read SAM checkpoint {path}: {why}; replace the file\."):
            foreground_masks(BLACK, "sam", sam_checkpoint=path)
    with pytest.raises(UserError, match=r"put sam_vit_b_\*\.pth into the weights folder"):
        foreground_masks(BLACK, "sam")
    with pytest.raises(UserError, match=r"put sam_vit_b_\*\.pth into a folder and name it by --weights-dir"):
        require_sam(None)


def test_without_the_package_the_remedy_is_to_install_it(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    monkeypatch.setitem(sys.modules, "segment_anything", None)
    remedy = "needs the package segment-anything; run `pip install segment-anything`"
    with pytest.raises(UserError, match=remedy):
        require_sam(checkpoint.parent)
    with pytest.raises(UserError, match=remedy):
        foreground_masks(BLACK, "sam", sam_checkpoint=checkpoint)


FOLDERS = [
    ([], r"holds no SAM checkpoint; put sam_vit_b_\*\.pth into the weights folder\."),
    (["sam_vit_b_1.pth", "sam_vit_h_2.pth"], r"\(sam_vit_b_1\.pth, sam_vit_h_2\.pth\); keep only one of them there\."),
    (["sam_vit_t_1.pth"], r"sam_vit_t_1\.pth does not tell its model; name it sam_vit_b_\*\.pth"),
]


@pytest.mark.parametrize(("names", "sentence"), FOLDERS)
def test_one_checkpoint_must_be_there(sam: FakeSam, checkpoint: Path, names: list[str], sentence: str) -> None:
    assert require_sam(checkpoint.parent) == checkpoint
    with pytest.raises(UserError, match="nowhere does not exist; correct --weights-dir"):
        require_sam(checkpoint.parent / "nowhere")
    checkpoint.unlink()
    for name in ["resnet18.pth", *names]:
        (checkpoint.parent / name).touch()
    with pytest.raises(UserError, match=sentence):
        require_sam(checkpoint.parent)
