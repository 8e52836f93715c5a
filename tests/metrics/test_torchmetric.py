"""The torchmetrics class: batch by batch the same numbers as the function."""

import pytest
import torch
from torch import Tensor

from anomaly_bench.metrics import METRIC_KEYS, NonFiniteError, anomaly_panel
from anomaly_bench.metrics.torchmetric import AnomalyPanel

Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def batches() -> list[Batch]:
    """Batches of 4, 3 and 1 images; maps reach far above 1, and every batch has a size of its own."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for count, height, width in [(4, 9, 12), (3, 16, 7), (1, 10, 10)]:
        labels = torch.arange(count) % 3 != 1
        masks = (torch.rand(count, height, width, generator=generator) < 0.1) & labels[:, None, None]
        maps = 50 * (torch.rand(count, height, width, generator=generator) + 0.3 * masks)
        found.append((maps, maps.amax(dim=(1, 2)), labels, masks))
    return found


def as_function(given: list[Batch]) -> dict[str, float | None]:
    maps, scores, labels, masks = (
        [image.numpy() for batch in given for image in batch[position]] for position in range(4)
    )
    return anomaly_panel(maps, scores, labels, masks).values


def test_batches_equal_one_call() -> None:
    metric = AnomalyPanel()
    for batch in batches():
        metric.update(*batch)
    values = metric.compute()
    assert tuple(values) == METRIC_KEYS
    assert all(value.dtype == torch.float64 and value.shape == () for value in values.values())
    assert {key: value.item() for key, value in values.items()} == as_function(batches())
    assert metric.undefined == {}


def test_reset_forgets_and_a_gathered_state_is_read() -> None:
    metric = AnomalyPanel()
    metric.update(*batches()[1])
    metric.reset()
    for batch in batches()[::2]:
        metric.update(*batch)
    for state in ("image_scores", "labels", "sizes", "maps", "masks"):
        setattr(metric, state, torch.cat(getattr(metric, state)))  # what a distributed gather leaves
    assert {key: value.item() for key, value in metric.compute().items()} == as_function(batches()[::2])


def test_undefined_metrics_are_absent_with_a_reason() -> None:
    metric = AnomalyPanel(rd4ad=False)
    for _, scores, labels, _ in batches():
        metric.update(None, scores.bfloat16(), labels.int(), None)
    assert list(metric.compute()) == ["image_auroc", "image_ap", "image_f1max"]
    assert metric.undefined["aupro"] == "The data set has no masks."


def test_fpr_limit_reaches_the_panel() -> None:
    narrow, wide = AnomalyPanel(fpr_limit=0.05), AnomalyPanel(fpr_limit=1.0)
    for metric in (narrow, wide):
        metric.update(*batches()[0])
    assert narrow.compute()["aupro"] < wide.compute()["aupro"]


def test_what_cannot_be_meant_is_refused() -> None:
    maps, scores, labels, masks = batches()[0]
    metric = AnomalyPanel()
    for bad_maps in (maps[:, None], maps[:3], maps[:, 1:]):
        with pytest.raises(ValueError, match="must both be \\(4, height, width\\)"):
            metric.update(bad_maps, scores, labels, masks)
    metric.update(maps, scores, labels, masks)
    metric.update(maps, scores, labels, None)
    with pytest.raises(ValueError, match="in every batch or in none"):
        metric.compute()
    metric.reset()
    metric.update(maps.where(maps != maps[2].max(), torch.nan), scores, labels, masks)
    with pytest.raises(NonFiniteError, match="map of image 2"):
        metric.compute()
