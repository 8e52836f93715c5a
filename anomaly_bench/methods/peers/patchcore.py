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
CANDIDATES, MOST_CHOICES = 4096, 512  # among which choices are made, and how many at once; only the time depends on it
ROWS = 16384  # patches that are compared at once, which bounds the memory


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

    def stage_maps(self, images: Tensor) -> dict[str, Tensor]:
        """`stage1`: anomalib's anomaly map, (N, H, W)."""
        if not torch.compiler.is_exporting():
            return super().stage_maps(images)
        # anomalib compares the patches in portions, of which a graph for any number of images cannot know how many.
        model: Any = self.model
        features = {layer: model.feature_pooler(stage) for layer, stage in model.feature_extractor(images).items()}
        embedding = model.generate_embedding(features)
        distances = model.euclidean_dist(model.reshape_embedding(embedding), model.memory_bank).amin(dim=1)
        distances = distances.reshape(images.shape[0], 1, *embedding.shape[-2:])
        return {"stage1": model.anomaly_map_generator(distances, images.shape[-2:])[:, 0]}


@torch.no_grad()
def greedy_coreset(patches: Tensor, size: int) -> Tensor:
    """Indices of `size` patches, each the one that is furthest from all before it; the first is drawn at random.

    The choice of anomalib's `KCenterGreedy`, which measures the distance of every patch to every choice one choice at
    a time, and so waits for memory most of the time (and on a CPU has the heap grow to tens of GB). Here choices are
    made among the patches that are furthest now, for as long as none of the others can be further, and then all
    patches are compared with these choices at once.

    Args:
        patches: (M, C).
        size: from 1 to M.

    Returns:
        (size,), int64.
    """
    from anomalib.models.components.dimensionality_reduction import SparseRandomProjection

    projected = SparseRandomProjection(eps=DISTORTION).fit(patches).transform(patches)  # (M, fewer)
    chosen = torch.randint(len(patches), (1,), device=patches.device)
    nearest = torch.full((len(patches),), torch.inf, device=patches.device)
    _bring_nearer(nearest, projected, projected[chosen])
    while len(chosen) < size:
        further = _next_choices(nearest, projected, min(size - len(chosen), MOST_CHOICES))
        _bring_nearer(nearest, projected, projected[further])
        chosen = torch.cat([chosen, further])
    return chosen


def _next_choices(nearest: Tensor, projected: Tensor, most: int) -> Tensor:
    """The next choices, at least one and at most `most`, by the distances (M,) to the choices before."""
    distances, candidates = nearest.topk(min(CANDIDATES, len(nearest)))
    others = distances[-1].clone() if len(candidates) < len(nearest) else distances.new_tensor(-torch.inf)
    points, picked = projected[candidates], list[int]()
    while len(picked) < most:
        best = int(distances.argmax())
        if distances[best] < others:  # one of the others may be further
            break
        picked.append(best)
        distances = torch.minimum(distances, torch.linalg.vector_norm(points - points[best], dim=1))
    return candidates[picked]


def _bring_nearer(nearest: Tensor, projected: Tensor, choices: Tensor) -> None:
    """Lower the distances (M,) of the projected patches (M, D) to what they are with these choices (K, D) too."""
    for distances, rows in zip(torch.split(nearest, ROWS), torch.split(projected, ROWS), strict=True):
        closest = torch.cdist(rows, choices, compute_mode="use_mm_for_euclid_dist").argmin(dim=1)
        # Anew, for a matrix product tells which is closest and loses the digits of how close it is.
        exact = torch.linalg.vector_norm(rows - choices[closest], dim=1)
        torch.minimum(distances, exact, out=distances)


METHOD = Patchcore
