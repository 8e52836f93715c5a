"""The panel: against scikit-learn and the naive rules, what it refuses, and what it leaves undefined, with reasons."""

import dataclasses
import re
import runpy
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomaly_bench.metrics import METRIC_KEYS, METRICS_REVISION, NonFiniteError, Panel, anomaly_panel, pixels
from anomaly_bench.metrics.regions import find_regions

REPOSITORY = Path(__file__).parents[2]
REFERENCE = runpy.run_path(str(REPOSITORY / "experiments" / "performance" / "reference_metrics.py"))
IMAGE_KEYS, PIXEL_KEYS = METRIC_KEYS[:3], METRIC_KEYS[3:]


@dataclasses.dataclass
class Evaluation:
    """Six images of different sizes: two normal ones, an anomalous one without a mask, three with."""

    maps: list[np.ndarray]
    image_scores: np.ndarray
    labels: np.ndarray
    masks: list[np.ndarray]

    def panel(self, **options: Any) -> Panel:
        return anomaly_panel(self.maps, self.image_scores, self.labels, self.masks, **options)


def evaluation(levels: int = 10**6, dtype: type = np.float64) -> Evaluation:
    """Scores on so many levels; masks of scattered pixels, so regions are tiny, at borders, joined at corners."""
    rng = np.random.default_rng(levels)
    sizes, shares = [(9, 14), (20, 17), (11, 11), (16, 5), (8, 8), (30, 6)], [0.0, 0.05, 0.0, 0.2, 0.0, 0.1]
    labels = np.array([0, 1, 1, 1, 0, 1])
    masks = [rng.random(size) < share for size, share in zip(sizes, shares, strict=True)]
    maps = [(np.floor((rng.random(mask.shape) + 0.4 * mask) * levels) / levels).astype(dtype) for mask in masks]
    image_scores = (np.floor((rng.random(6) + 0.3 * labels) * levels) / levels).astype(dtype)
    return Evaluation(maps, image_scores, labels, masks)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("levels", [8, 40, 10**6])
def test_panel_equals_scikit_learn_and_the_naive_rules(levels: int, dtype: type) -> None:
    data = evaluation(levels, dtype)
    expected = REFERENCE["reference_panel"](data.maps, data.image_scores, data.labels, data.masks)
    panel = data.panel()
    assert tuple(panel.values) == METRIC_KEYS
    assert panel.undefined == {}
    assert panel.values == pytest.approx(expected, abs=1e-12)
    assert all(type(value) is float for value in panel.values.values())


def test_numbers_worked_out_by_hand() -> None:
    """Pooled, ten normal pixels 0 x7, 1, 2 x2; a region scores 4 2, another 1. If this moves, raise the revision."""
    maps = [np.array([[0.0, 0.0, 0.0, 1.0, 2.0]]), np.array([[4.0, 2.0, 0.0, 0.0, 1.0, 0.0, 2.0, 0.0]])]
    masks = [np.zeros((1, 5), dtype=bool), np.array([[1, 1, 0, 0, 1, 0, 0, 0]], dtype=np.uint8)]
    expected = {
        "image_auroc": 1 / 2,  # the two images tie
        "image_ap": 1 / 2,
        "image_f1max": 2 / 3,
        "pixel_auroc": (10 + 9 + 7.5) / 30,
        "pixel_ap": (1 + 2 / 4 + 3 / 6) / 3,
        "pixel_f1max": 6 / 9,
        "aupro": (0.3 / 4 + (0.1 + 0.2 / 2) / 4 + (0.1 / 2) / 2) / 0.3,
        "aupro_rd4ad": (0.25 + 0.5) / 2,  # from (fpr 0, pro 1/4) to (1, 1/2), then straight up
    }
    assert METRICS_REVISION == 1
    assert anomaly_panel(maps, [0.5, 0.5], [0, 1], masks).values == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("order", [[5, 4, 3, 2, 1, 0], [2, 0, 5, 1, 3, 4]])
def test_order_of_images_changes_nothing(order: list[int]) -> None:
    data = evaluation(20)
    shuffled = Evaluation(
        [data.maps[i] for i in order], data.image_scores[order], data.labels[order], [data.masks[i] for i in order]
    )
    assert shuffled.panel().values == pytest.approx(data.panel().values, abs=1e-14)


@pytest.mark.parametrize("levels", [8, 10**6])
def test_monotone_transform_changes_no_ranking_metric(levels: int) -> None:
    data = evaluation(levels, np.float32)  # the square of a float32 is exact in float64, so no order is lost
    squared = dataclasses.replace(
        data,
        maps=[anomaly_map.astype(np.float64) ** 2 for anomaly_map in data.maps],
        image_scores=data.image_scores.astype(np.float64) ** 2,
    )
    assert squared.panel(rd4ad=False) == data.panel(rd4ad=False)


def test_nothing_given_is_changed() -> None:
    data, untouched = evaluation(), evaluation()
    data.panel()
    for given, kept in zip(data.maps + data.masks, untouched.maps + untouched.masks, strict=True):
        np.testing.assert_array_equal(given, kept)


def test_dtypes_may_be_mixed_and_arrays_stacked() -> None:
    data = evaluation(20)
    maps = np.stack([np.resize(anomaly_map, (12, 10)) for anomaly_map in data.maps])
    masks = np.stack([np.resize(mask, (12, 10)) for mask in data.masks])
    stacked = anomaly_panel(maps, data.image_scores, data.labels, masks)
    mixed = [*maps[:2].astype(np.float64), *maps[2:]]
    assert anomaly_panel(mixed, list(data.image_scores), data.labels.astype(bool), masks.astype(np.uint8)) == stacked
    # A cut through memory, as of maps that were padded, is neither contiguous nor its own.
    padded = np.pad(maps, ((0, 0), (2, 3), (1, 4)))[:, 2:-3, 1:-4]
    assert anomaly_panel(padded, data.image_scores, data.labels, np.asfortranarray(masks)) == stacked


def test_constant_maps_rank_by_chance() -> None:
    data = evaluation()
    data.maps = [np.full_like(anomaly_map, 0.5) for anomaly_map in data.maps]
    panel = data.panel(names=list("abcdef"))
    assert panel.values["pixel_auroc"] == 0.5
    assert panel.values["aupro"] == pytest.approx(0.15, abs=1e-15)
    assert panel.values["aupro_rd4ad"] is None
    assert "no value for b: its map spans no range" in panel.undefined["aupro_rd4ad"]


UNDEFINED = {
    "no anomalous image": ({"labels": [0] * 6, "masks": "empty"}, METRIC_KEYS, "There is no anomalous (image|pixel)."),
    "no normal image": ({"labels": [1] * 6}, IMAGE_KEYS, "There is no normal image."),
    "no anomalous pixel": ({"masks": "empty"}, PIXEL_KEYS, "There is no anomalous pixel."),
    "no normal pixel": ({"labels": [1] * 6, "masks": "full"}, METRIC_KEYS, "no normal (image|pixel)"),
    "no masks": ({"masks": None}, PIXEL_KEYS, "The data set has no masks."),
    "no maps": ({"maps": None}, PIXEL_KEYS, "There are no anomaly maps."),
    "neither": ({"maps": None, "masks": None}, PIXEL_KEYS, "The data set has no masks."),
    "no image": ({"maps": [], "image_scores": [], "labels": [], "masks": []}, METRIC_KEYS, "There is no anomalous"),
}


@pytest.mark.parametrize("case", UNDEFINED)
@pytest.mark.filterwarnings("error")
def test_undefined_metrics_are_none_with_a_reason_and_the_others_stay(case: str) -> None:
    changes, keys, reason = UNDEFINED[case]
    data = evaluation()
    regular = data.panel().values
    filled = {"empty": [mask & False for mask in data.masks], "full": [mask | True for mask in data.masks]}
    changes = {field: filled.get(value, value) if isinstance(value, str) else value for field, value in changes.items()}
    panel = dataclasses.replace(data, **changes).panel()
    assert tuple(panel.values) == METRIC_KEYS
    assert [key for key in METRIC_KEYS if panel.values[key] is None] == list(keys) == list(panel.undefined)
    for key in keys:
        assert re.search(reason, panel.undefined[key])
    assert all(panel.values[key] == regular[key] for key in METRIC_KEYS if key not in keys)


def test_rd4ad_is_left_out_on_request() -> None:
    data = evaluation()
    whole, without = data.panel(), data.panel(rd4ad=False)
    assert without.undefined == {"aupro_rd4ad": "It was not asked for."}
    assert without.values == whole.values | {"aupro_rd4ad": None}


@pytest.mark.parametrize("names", [None, list("abcdef")])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_is_refused_by_name(value: float, names: list[str] | None) -> None:
    name = "d" if names else "image 3"
    data = evaluation()
    data.maps[3][2, 1] = value
    with pytest.raises(NonFiniteError, match=f"^the anomaly map of {name} holds NaN or infinity$"):
        data.panel(names=names)
    data = evaluation()
    data.image_scores[3] = value
    with pytest.raises(NonFiniteError, match=f"^the image score of {name} is {value}$"):
        data.panel(names=names)


REFUSED = {
    "a good image with a mask": ({"labels": [0, 0, 1, 1, 0, 1]}, "b is labelled normal, but its mask has [0-9]+ anom"),
    "another size": ({"maps": [np.zeros((8, 14)), *evaluation().maps[1:]]}, "map of a is 8x14, but its mask is 9x14"),
    "a map with channels": ({"maps": np.zeros((6, 1, 4, 4))}, "map of a must have the shape .* not \\(1, 4, 4\\)"),
    "an empty map": ({"maps": np.zeros((6, 0, 4))}, "map of a must have the shape"),
    "too few maps": ({"maps": evaluation().maps[1:]}, "6 image scores, but 5 maps"),
    "too many masks": ({"masks": [*evaluation().masks, np.zeros((2, 2))]}, "6 image scores, but 7 masks"),
    "too few labels": ({"labels": [0, 1]}, "not \\(6,\\), \\(2,\\)"),
    "a column of scores": ({"image_scores": np.zeros((6, 1))}, "not \\(6, 1\\), \\(6,\\)"),
    "a third label": ({"labels": [0, 1, 2, 1, 0, 1]}, "label of c must be 0 .* not 2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_refused_by_name(case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(evaluation(), **changes).panel(names=list("abcdef"))


def test_names_are_counted() -> None:
    with pytest.raises(ValueError, match="6 image scores, but 2 names"):
        evaluation().panel(names=["a", "b"])


@pytest.mark.parametrize("cores", [2, 3, 64])
@pytest.mark.parametrize("levels", [3, 40, 10**6])
def test_parts_that_are_ranked_side_by_side_change_no_bit(
    levels: int, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ties within parts and between them, and parts that are anomalous throughout."""
    data = evaluation(levels)
    data.masks[3][:] = data.masks[2][:] = True
    whole = data.panel()
    monkeypatch.setattr(pixels, "PART_PIXELS", 1)
    monkeypatch.setattr(pixels, "MOST_PARTS", cores)
    monkeypatch.setattr(pixels, "_cores", lambda: cores)
    assert len(pixels.pool_side_by_side(data.maps, list(map(find_regions, data.masks)))[0]) == min(cores, 6)
    assert data.panel() == whole


def test_memory_stays_below_twice_the_maps() -> None:
    rng = np.random.default_rng(0)
    maps, masks = rng.random((60, 128, 128), dtype=np.float32), np.zeros((60, 128, 128), dtype=bool)
    masks[20:, 30:50, 60:80] = True
    tracemalloc.start()
    anomaly_panel(maps, maps.max(axis=(1, 2)), np.arange(60) >= 20, masks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * maps.nbytes


def test_the_panel_needs_no_torch() -> None:
    code = "import sys, anomaly_bench.metrics as m; m.anomaly_panel(None, [1, 2], [0, 1], None); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert not {"torch", "torchmetrics", "sklearn"} & set(modules.stdout.split())
