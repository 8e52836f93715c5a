"""The panel as a torchmetrics metric: collects batches, survives distributed runs, computes once at the end."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from anomaly_bench.metrics.panel import anomaly_panel


class AnomalyPanel(Metric):
    """`anomaly_panel` over all batches since the last reset.

    `compute()` gives the defined metrics by key, float64 scalars in [0, 1]; an undefined one is absent, never NaN, and
    has its reason in `undefined`. Raw scores are ranked as they are: no sigmoid, whatever their range.

    Args:
        fpr_limit: where `aupro` ends, in (0, 1].
        rd4ad: False leaves out `aupro_rd4ad`.

    Attributes:
        undefined: by key, of the last `compute()`, why a metric has no value.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    image_scores: list[Tensor]
    labels: list[Tensor]
    sizes: list[Tensor]
    maps: list[Tensor]
    masks: list[Tensor]

    def __init__(self, *, fpr_limit: float = 0.3, rd4ad: bool = True) -> None:
        super().__init__()
        self.fpr_limit = fpr_limit
        self.rd4ad = rd4ad
        self.undefined: dict[str, str] = {}
        # Pixels are kept flat, beside the sizes of their images: a gather can only join tensors alike but for length.
        for state in ("image_scores", "labels", "sizes", "maps", "masks"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, maps: Tensor | None, image_scores: Tensor, labels: Tensor, masks: Tensor | None) -> None:
        """Add N images.

        Args:
            maps: (N, H, W), or None in every batch where there are no pixel metrics. H, W may differ between batches.
            image_scores: (N,).
            labels: (N,), 1 or True for anomalous.
            masks: (N, H, W), nonzero where anomalous, or None in every batch of a data set without masks.

        Raises:
            ValueError: maps or masks are not (N, H, W), N being the number of scores, or differ in shape.
        """
        pixels = [images for images in (maps, masks) if images is not None]
        shapes = [tuple(images.shape) for images in pixels]
        if any(len(shape) != 3 or shape[0] != len(image_scores) or shape != shapes[0] for shape in shapes):
            raise ValueError(f"maps and masks must both be ({len(image_scores)}, height, width), not {shapes}")
        self.image_scores.append(_as_float(image_scores))
        self.labels.append(labels.detach())
        if pixels:
            self.sizes.append(pixels[0].new_tensor(shapes[0][1:], dtype=torch.long).repeat(shapes[0][0], 1))  # (N, 2)
        if maps is not None:
            self.maps.append(_as_float(maps).flatten())
        if masks is not None:
            self.masks.append(masks.detach().bool().flatten())

    def compute(self) -> dict[str, Tensor]:
        """The defined metrics of all images so far, on the CPU.

        Raises:
            NonFiniteError: a map or a score holds NaN or infinity; the image is named by its place, from 0.
            ValueError: as `anomaly_panel`, or maps or masks are missing in some batches.
        """
        sizes = _joined(self.sizes).reshape(-1, 2).long().tolist()
        panel = anomaly_panel(
            _images(self.maps, sizes), _joined(self.image_scores).numpy(), _joined(self.labels).numpy(),
            _images(self.masks, sizes), fpr_limit=self.fpr_limit, rd4ad=self.rd4ad,
        )  # fmt: skip
        self.undefined = panel.undefined
        defined = {key: value for key, value in panel.values.items() if value is not None}
        return {key: torch.tensor(value, dtype=torch.float64) for key, value in defined.items()}


def _as_float(scores: Tensor) -> Tensor:
    """At least float32, which numpy knows and which holds bfloat16 exactly."""
    return scores.detach().to(torch.promote_types(scores.dtype, torch.float32))


def _joined(state: list[Tensor]) -> Tensor:
    """One tensor of a state that is a list, or after a gather already a tensor, on the CPU; empty without a batch."""
    return dim_zero_cat(state).cpu() if len(state) else torch.empty(0)


def _images(state: list[Tensor], sizes: list[list[int]]) -> list[NDArray[Any]] | None:
    """N arrays (H, W) with the N given sizes, or None for a state that no batch has filled."""
    if not len(state):
        return None
    flat = _joined(state).numpy()
    ends = np.cumsum([height * width for height, width in sizes])
    if flat.size != ends[-1]:
        raise ValueError("maps and masks must each be given in every batch or in none")
    return [pixels.reshape(size) for pixels, size in zip(np.split(flat, ends[:-1]), sizes, strict=True)]
