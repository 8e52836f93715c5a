"""Fusion, smoothing and score against METHODS' description of RD4AD's evaluation, position by position."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from anomaly_bench.bench import evaluate as evaluate_module
from anomaly_bench.bench.evaluate import evaluate, fuse_maps, mean_filter, score_images
from anomaly_bench.bench.foreground import Foreground
from anomaly_bench.bench.spec import EvalSpec
from anomaly_bench.data.base import GroundTruth
from anomaly_bench.data.layout import Sample
from anomaly_bench.metrics import METRIC_KEYS, NonFiniteError


def random_stages(seed: int = 0) -> dict[str, NDArray[np.float16]]:
    rng = np.random.default_rng(seed)
    return {f"stage{k}": rng.random((3, size, size)).astype(np.float16) for k, size in ((1, 8), (2, 4), (3, 2))}


def upsampled(image: NDArray[np.float16], size: int) -> NDArray[np.float64]:
    """Bilinear with aligned corners: output position y reads y * (h - 1) / (size - 1)."""
    height = len(image)
    result = np.zeros((size, size))
    for y in range(size):
        for x in range(size):
            v, u = y * (height - 1) / (size - 1), x * (height - 1) / (size - 1)
            top, left = min(int(v), height - 2), min(int(u), height - 2)
            b, a = v - top, u - left
            corners = image[top : top + 2, left : left + 2].astype(float)
            result[y, x] = (1 - b) * ((1 - a) * corners[0, 0] + a * corners[0, 1])
            result[y, x] += b * ((1 - a) * corners[1, 0] + a * corners[1, 1])
    return result


def smoothed(image: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """A Gaussian cut at four sigma, the image mirrored at its borders (d c b a | a b c d | d c b a)."""
    radius, size = int(4 * sigma + 0.5), len(image)
    weights = [math.exp(-(offset**2) / (2 * sigma**2)) for offset in range(-radius, radius + 1)]
    mirror = [position if position < size else 2 * size - 1 - position for position in range(2 * size)]
    result = np.zeros_like(image)
    for y in range(size):
        for x in range(size):
            for i, v in enumerate(weights):
                for j, u in enumerate(weights):
                    row, column = (y + i - radius) % (2 * size), (x + j - radius) % (2 * size)
                    result[y, x] += v * u * image[mirror[row], mirror[column]]
    return result / sum(weights) ** 2


@pytest.mark.parametrize("fusion", ["sum", "product"])
@pytest.mark.parametrize("sigma", [0.0, 1.5])
def test_maps_are_upsampled_fused_and_smoothed(fusion: str, sigma: float) -> None:
    stages, size = random_stages(), 12
    fused = fuse_maps(stages, size, EvalSpec(fusion=fusion, sigma=sigma))  # type: ignore[arg-type]
    for index in range(3):
        large = [upsampled(stage[index], size) for stage in stages.values()]
        expected = sum(large) if fusion == "sum" else np.prod(large, axis=0)
        np.testing.assert_allclose(fused[index], smoothed(expected, sigma) if sigma else expected, rtol=1e-5, atol=1e-6)


def test_the_image_score_is_the_highest_pixel_or_the_mean() -> None:
    maps = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    np.testing.assert_array_equal(score_images(maps, EvalSpec()), [3, 7])
    np.testing.assert_array_equal(score_images(maps, EvalSpec(image_score="mean")), [1.5, 5.5])


def averaged(image: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Around every pixel the mean of those of the square that exist."""
    result, reach = np.zeros_like(image), side // 2
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            square = [
                image[v, u]
                for v in range(y - reach, y + reach + 1)
                for u in range(x - reach, x + reach + 1)
                if 0 <= v < image.shape[0] and 0 <= u < image.shape[1]
            ]
            result[y, x] = sum(square) / len(square)
    return result


@pytest.mark.parametrize("side", [1, 3, 5, 15])  # the last is larger than the map
def test_the_mean_filter_counts_only_pixels_that_exist(side: int) -> None:
    maps = np.random.default_rng(0).random((2, 7, 9)).astype(np.float32)
    expected = [averaged(image.astype(float), side) for image in maps]
    np.testing.assert_allclose(mean_filter(maps, side), expected, rtol=1e-5)
    np.testing.assert_allclose(mean_filter(np.ones((1, 4, 4), np.float32), side), 1, rtol=1e-6)  # no dark border


def test_the_mean_filter_follows_the_gaussian() -> None:
    stages, size = random_stages(), 12
    fused = fuse_maps(stages, size, EvalSpec(sigma=1.5, mean_kernel=5))
    for index in range(3):
        whole = np.sum([upsampled(stage[index], size) for stage in stages.values()], axis=0)
        np.testing.assert_allclose(fused[index], averaged(smoothed(whole, 1.5), 5), rtol=1e-5)
        assert np.abs(fused[index] - smoothed(averaged(whole, 5), 1.5)).max() > 1e-3  # the other way round
    assert np.array_equal(
        fuse_maps(stages, size, EvalSpec(mean_kernel=1)), fuse_maps(stages, size, EvalSpec(sigma=4.0))
    )


def two_kinds() -> dict[str, NDArray[np.float16]]:
    """Maps of a method that has a first, coarser output."""
    return random_stages(0) | {f"coarse{name[-1]}": values for name, values in random_stages(1).items()}


@pytest.mark.parametrize("fusion", ["sum", "product"])
@pytest.mark.parametrize(
    ("score_from", "kinds"), [("precise", ["stage"]), ("coarse", ["coarse"]), ("both", ["stage", "coarse"])]
)
def test_scores_come_from_the_maps_asked_for(fusion: Any, score_from: Any, kinds: list[str]) -> None:
    maps, size = two_kinds(), 12
    fused = fuse_maps(maps, size, EvalSpec(fusion=fusion, sigma=0.0, score_from=score_from))
    for index in range(3):
        large = [upsampled(maps[f"{kind}{stage}"][index], size) for kind in kinds for stage in (1, 2, 3)]
        expected = sum(large) if fusion == "sum" else np.prod(large, axis=0)
        np.testing.assert_allclose(fused[index], expected, rtol=1e-5, atol=1e-6)


def three_images() -> GroundTruth:
    samples = [Sample(Path(name), name, defect) for name, defect in (("a", "good"), ("b", "hole"), ("c", "good"))]
    masks = np.zeros((3, 16, 16), dtype=bool)
    masks[1, 4:8, 4:8] = True
    return GroundTruth(samples, masks, np.array([0.0, 0.0625, 0.0]))


def test_every_image_gets_a_line_with_its_label_from_the_folder() -> None:
    evaluation = evaluate(random_stages(), three_images(), 16, EvalSpec())
    lines = evaluation.scores.splitlines()
    assert lines[0] == "path,defect,label,score,share_original,share_evaluated"
    assert [line.split(",")[:3] for line in lines[1:]] == [["a", "good", "0"], ["b", "hole", "1"], ["c", "good", "0"]]
    assert lines[2].split(",")[4:] == ["0.0625", "0.0625"]
    assert list(evaluation.panel.values) == list(METRIC_KEYS)


def test_a_map_that_is_not_finite_is_an_error_that_names_the_image() -> None:
    stages = random_stages()
    stages["stage1"][1, 0, 0] = np.nan
    with pytest.raises(NonFiniteError, match="b"):
        evaluate(stages, three_images(), 16, EvalSpec())


# What is left out of the image score.

IMAGES = np.random.default_rng(2).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)


class FakeRules:
    """Stands for the rules that find the object: the left half of the first image, the third image not at all."""

    def __init__(self) -> None:
        self.masks = np.ones((3, 16, 16), dtype=bool)
        self.masks[0, :, 8:] = False
        self.masks[1, 4:8, 4:8] = False  # the defect itself, taken for background
        self.asked: list[tuple[NDArray[np.uint8], str, Path | None]] = []

    def __call__(self, images: NDArray[np.uint8], rule: str, *, sam_checkpoint: Path | None) -> Foreground:
        self.asked.append((images, rule, sam_checkpoint))
        return Foreground(self.masks, (2,))


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch) -> FakeRules:
    fake = FakeRules()
    monkeypatch.setattr(evaluate_module, "foreground_masks", fake)
    return fake


def scores_of(evaluation: evaluate_module.Evaluation) -> list[float]:
    return [float(line.split(",")[3]) for line in evaluation.scores.splitlines()[1:]]


@pytest.mark.parametrize("rule", ["otsu", "border", "grabcut"])
def test_the_background_is_left_out_of_the_smoothed_map_and_of_the_image_score_alone(
    rules: FakeRules, rule: Any
) -> None:
    spec = EvalSpec(background=rule, mean_kernel=3)
    plain = evaluate(random_stages(), three_images(), 16, EvalSpec(mean_kernel=3))
    masked = evaluate(random_stages(), three_images(), 16, spec, images=IMAGES)
    expected = []
    for smooth, mask in zip(fuse_maps(random_stages(), 16, spec), rules.masks, strict=True):
        pixels = [smooth[y, x] if mask[y, x] else 0 for y in range(16) for x in range(16)]
        expected.append(max(pixels))
    assert scores_of(masked) == pytest.approx(expected, rel=1e-5)
    assert scores_of(masked)[0] < scores_of(plain)[0]
    assert scores_of(masked)[2] == scores_of(plain)[2]
    for metric in ("pixel_auroc", "pixel_ap", "pixel_f1max", "aupro", "aupro_rd4ad"):
        assert masked.panel.values[metric] == plain.panel.values[metric]
    ((images, asked, checkpoint),) = rules.asked
    assert (asked, checkpoint) == (rule, None)
    np.testing.assert_array_equal(images, IMAGES)


def test_the_evidence_counts_the_images_that_were_kept_whole(rules: FakeRules) -> None:
    spec = EvalSpec(background="otsu")
    plain, masked = (evaluate(random_stages(), three_images(), 16, s, images=IMAGES) for s in (EvalSpec(), spec))
    assert masked.as_json()["evidence"] == {"images_without_background": 1, "images": 3}
    assert masked.as_json()["spec"] == {"background": "otsu", "metrics_revision": spec.metrics_revision}
    assert plain.as_json().keys() == {"spec", "metrics", "undefined"}
    assert len(rules.asked) == 1


def test_sam_is_asked_with_its_checkpoint_whose_hash_is_evidence(
    rules: FakeRules, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "sam_vit_b_1.pth"
    checkpoint.write_bytes(b"abc")
    found = {tmp_path: checkpoint}
    monkeypatch.setattr(evaluate_module, "require_sam", found.__getitem__)
    spec = EvalSpec(background="sam")
    masked = evaluate(random_stages(), three_images(), 16, spec, images=IMAGES, weights_dir=tmp_path)
    assert rules.asked[0][1:] == ("sam", checkpoint)
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    weights = {"file": "sam_vit_b_1.pth", "sha256": abc, "source": "folder"}
    assert masked.as_json()["evidence"] == {"images_without_background": 1, "images": 3, "weights": weights}
