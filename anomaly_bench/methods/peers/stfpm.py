"""STFPM (also written STPM): a student of the teacher's own kind learns its features, as anomalib has it.

Paper       Wang et al., "Student-Teacher Feature Pyramid Matching for Anomaly Detection", BMVC 2021.
Flow        x -> frozen teacher -> T1 T2 T3; x -> untrained student of the same architecture -> S1 S2 S3
Loss        sum_k 1/(2 H_k W_k) sum_nhw |T_k / |T_k| - S_k / |S_k||^2        (anomalib's `STFPMLoss`)
Map         the product over k of |T_k / |T_k| - S_k / |S_k||^2 / 2, each enlarged to the image
Departures  of anomalib's: the teacher's weights are those that our methods use, and the last epoch counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from anomaly_bench.errors import UserError
from anomaly_bench.layers.teacher import Teacher
from anomaly_bench.methods.peers.base import LAYERS, Peer, importing_anomalib
from anomaly_bench.methods.protocol import Protocol

PROTOCOL = Protocol(
    teacher="resnet18.tv_in1k",
    epochs=100,
    batch_size=32,
    lr=0.4,
    betas=(0.0, 0.0),  # Adam's, never read
    weight_decay=1e-3,
    image_size=256,
    precision="32-true",
)
MOMENTUM = 0.9


class FeaturePyramidMatching(Peer):
    """Measures where a student that saw normal images only fails to give the teacher's features.

    Args:
        teacher: the frozen network; the student is built like it.
        protocol: learning rate and the like.
    """

    revision = 1
    protocol = PROTOCOL
    unused = ("betas",)
    stated: ClassVar[tuple[str, ...]] = ("teacher", "epochs", "batch_size", "lr", "image_size", "fusion")
    released: ClassVar[tuple[str, ...]] = ("weight_decay", "precision", "sigma", "image_score")
    evaluation: ClassVar[Mapping[str, Any]] = MappingProxyType({"fusion": "product", "sigma": 0.0})

    def __init__(self, teacher: Teacher, protocol: Protocol = PROTOCOL) -> None:
        super().__init__(teacher, protocol)
        import timm

        if not timm.is_model(teacher.architecture):
            raise UserError(f"stfpm's student is a network of timm's, which has no {teacher.architecture}.")
        with importing_anomalib():
            from anomalib.models.components import TimmFeatureExtractor
            from anomalib.models.image.stfpm.anomaly_map import AnomalyMapGenerator
            from anomalib.models.image.stfpm.loss import STFPMLoss
        self.student = TimmFeatureExtractor(
            teacher.architecture, teacher.stages, pre_trained=False, requires_grad=True
        )  # not anomalib's whole model, whose constructor downloads the teacher
        self.pyramid_loss, self.maps_of = STFPMLoss(), AnomalyMapGenerator()

    def student_features(self, images: Tensor, teacher_features: Sequence[Tensor]) -> list[Tensor]:
        """S1 S2 S3, shaped like `teacher_features`; the student sees what the teacher sees."""
        return list(self.student((images - self.teacher.mean) / self.teacher.std).values())

    def loss(self, teacher_features: Sequence[Tensor], student_features: Sequence[Tensor]) -> dict[str, Tensor]:
        """One term, anomalib's, summed over the stages and the images of a batch."""
        sides = (dict(zip(LAYERS, side, strict=True)) for side in (teacher_features, student_features))
        return {"distillation": self.pyramid_loss(*sides)}

    def stage_maps(self, images: Tensor) -> dict[str, Tensor]:
        """`stage<k>`: anomalib's map of each stage, enlarged to the image, (N, H, W); their product is its map."""
        teacher_features = self.teacher(images)
        pairs = zip(self.stages, teacher_features, self.student_features(images, teacher_features), strict=True)
        return {f"stage{stage}": self.maps_of.compute_layer_map(t, s, images.shape[-2:])[:, 0] for stage, t, s in pairs}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameter_groups(), lr=self.lr, momentum=MOMENTUM, weight_decay=self.weight_decay)


METHOD = FeaturePyramidMatching
