"""PatchCore: the distance to the nearest of the normal patches' features, as anomalib has it.

Paper       Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022.
Flow        x -> frozen teacher -> T2 T3, averaged over 3x3 positions, T3 enlarged to T2's size -> patches
            all training images' patches -> greedy choice of `coreset_ratio` of them: the memory
Map         the Euclidean distance to the nearest patch of the memory, enlarged and smoothed (anomalib's
            `AnomalyMapGenerator`)
Shapes      N images of 256x256, wide_resnet50_2: patches (1024 N, 1536); memory (1024 N coreset_ratio, 1536)
Departures  of anomalib's: the weights are those that our methods use; the greedy choice is the same one, by a loop of
            ours (see `greedy_coreset`); the image score is that of `EvalSpec`, the map's largest value, where anomalib
            weighs the largest distance by those of the patch's neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from anomaly_bench.errors import UserError
from anomaly_bench.layers.teacher import Teacher
from anomaly_bench.methods.options import OfAnomalib
from anomaly_bench.methods.peers.base import (
    LAYERS,
    FittedPeer,
    StandIn,
    fitted_protocol,
    importing_anomalib,
    on_teacher,
)
from anomaly_bench.methods.protocol import Protocol

PROTOCOL = fitted_protocol("wide_resnet50_2.tv_in1k")
DISTORTION = 0.9  # of the random projection in which patches are compared: anomalib's and the authors' value


class Patchcore(FittedPeer):
    """Measures how far each patch's features are from the most similar normal ones, wherever those were.

    Args:
        teacher: the frozen network.
        protocol: batch size and image size.
        coreset_ratio: share of the training images' patches that is remembered.
    """

    revision = 1
    protocol = PROTOCOL
    stated: ClassVar[tuple[str, ...]] = ("teacher",)
    released: ClassVar[tuple[str, ...]] = ("batch_size", "image_size", "precision", "sigma")

    def __init__(
        self, teacher: Teacher, protocol: Protocol = PROTOCOL, *, coreset_ratio: OfAnomalib[float] = 0.1
    ) -> None:
        super().__init__(teacher, protocol)
        self.coreset_ratio = coreset_ratio
        with importing_anomalib():
            from anomalib.models.image.patchcore.torch_model import PatchcoreModel
        layers = LAYERS[1:]
        # Neighbours are for anomalib's own image score, which nobody reads.
        model = PatchcoreModel(layers=layers, backbone=StandIn(teacher.widths), num_neighbors=1)
        self.model = on_teacher(model, teacher, layers)

    @classmethod
    def check(cls, protocol: Protocol, options: Mapping[str, Any]) -> None:
        super().check(protocol, options)
        if not 0 < options["coreset_ratio"] <= 1:
            raise UserError(f"coreset_ratio must be above 0 and at most 1, not {options['coreset_ratio']:g}.")

    def fit(self) -> None:
        gathered: list[Tensor] = self.model.embedding_store  # type: ignore[assignment]
        patches = torch.vstack(gathered)
        gathered.clear()
        self.model.memory_bank = patches[greedy_coreset(patches, max(1, int(len(patches) * self.coreset_ratio)))]


@torch.no_grad()
def greedy_coreset(patches: Tensor, size: int) -> Tensor:
    """Indices of `size` patches, each the one that is furthest from all before it; the first is drawn at random.

    The choice of anomalib's `KCenterGreedy`, whose loop keeps a small tensor of every step between large ones that it
    frees: on a CPU the C library's heap then grows by a large one a step, to tens of GB.

    Args:
        patches: (M, C).
        size: from 1 to M.

    Returns:
        (size,), int64.
    """
    from anomalib.models.components.dimensionality_reduction import SparseRandomProjection

    projected = SparseRandomProjection(eps=DISTORTION).fit(patches).transform(patches)  # (M, fewer)
    chosen = torch.empty(size, dtype=torch.int64, device=patches.device)
    chosen[0] = torch.randint(len(patches), (), device=patches.device)
    nearest = torch.full((len(patches), 1), torch.inf, device=patches.device)
    for step in range(1, size):
        latest = projected[chosen[step - 1]][None]
        # Without matrix products, which lose the digits of small distances.
        distances = torch.cdist(projected, latest, compute_mode="donot_use_mm_for_euclid_dist")
        torch.minimum(nearest, distances, out=nearest)
        chosen[step] = nearest.argmax()
    return chosen


METHOD = Patchcore
