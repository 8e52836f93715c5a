"""Pyramid matching (STFPM): an untrained student of the teacher's structure learns to give its features.

Paper       Wang, Han, Ding and Huang, "Student-Teacher Feature Pyramid Matching for Anomaly Detection", BMVC 2021.
Flow        x -> frozen teacher -> T1 T2 T3;   x -> student -> S1 S2 S3
Map         M_k(h, w) = 1/2 |T_k(h, w)/|T_k(h, w)| - S_k(h, w)/|S_k(h, w)||^2
Loss        L = sum_k mean_hw M_k
Score       the maps are brought to the image's size and multiplied; an image's score is the largest value
Shapes      N images of 256x256, resnet18: T1 S1 (N, 64, 64, 64)  T2 S2 (N, 128, 32, 32)  T3 S3 (N, 256, 16, 16)
Departures  the authors' code leaves out the 1/2, keeps a fifth of the training images to choose the epoch by, and
            multiplies maps of 64x64; here all images train, the last epoch counts, and maps have the image's size.
            Mixed precision by default.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from anomaly_bench.layers.blocks import initialise
from anomaly_bench.layers.distance import unit_l2_map
from anomaly_bench.layers.teacher import Backbone, Teacher
from anomaly_bench.methods.base import DistillationMethod
from anomaly_bench.methods.options import Released, check_share
from anomaly_bench.methods.protocol import Protocol

PROTOCOL = Protocol(
    teacher="resnet18.tv_in1k",
    epochs=100,
    batch_size=32,
    lr=0.4,
    betas=(0.0, 0.0),  # Adam's, never read
    weight_decay=1e-4,
    image_size=256,
    precision="bf16-mixed",  # not stated
)


class PyramidMatching(DistillationMethod):
    """An untrained copy of the teacher sees the same image and learns to give the same features.

    Args:
        teacher: the frozen network.
        protocol: learning rate and the like.
        momentum: of the stochastic gradient descent.
    """

    revision = 1
    protocol = PROTOCOL
    unused = ("betas",)
    stated = ("teacher", "image_size", "fusion", "image_score")
    released = ("epochs", "batch_size", "lr", "weight_decay", "sigma")
    evaluation = MappingProxyType({"fusion": "product", "sigma": 0.0})

    def __init__(self, teacher: Teacher, protocol: Protocol = PROTOCOL, *, momentum: Released[float] = 0.9) -> None:
        super().__init__(teacher, protocol)
        self.momentum = momentum
        self.student = untrained_copy(teacher)

    @classmethod
    def check(cls, protocol: Protocol, options: Mapping[str, Any]) -> None:
        check_share("momentum", options["momentum"])

    def student_features(self, images: Tensor, teacher_features: Sequence[Tensor]) -> list[Tensor]:
        """S1 S2 S3, shaped like `teacher_features`, which the student never sees."""
        return self.student(images)

    def loss(self, teacher_features: Sequence[Tensor], student_features: Sequence[Tensor]) -> dict[str, Tensor]:
        """One term, the sum over stages of the maps' means."""
        pairs = zip(teacher_features, student_features, strict=True)
        return {"matching": torch.stack([self.distance_map(t, s).mean() for t, s in pairs]).sum()}

    def distance_map(self, teacher_feature: Tensor, student_feature: Tensor) -> Tensor:
        """M_k, (N, H, W)."""
        return unit_l2_map(teacher_feature, student_feature, squared=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain descent with momentum, in place of the papers' Adam."""
        groups = self.parameter_groups()
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)


def untrained_copy(teacher: Teacher) -> Backbone:
    """The teacher's structure, with weights and running statistics as before any training."""
    network = copy.deepcopy(teacher.network)
    for layer in network.modules():
        reset = getattr(layer, "reset_parameters", None)
        if callable(reset):
            reset()
    initialise(network)
    mean, std = (statistic.flatten().tolist() for statistic in (teacher.mean, teacher.std))
    student = Backbone(network, teacher.architecture, stages=teacher.stages, widths=teacher.widths, mean=mean, std=std)
    return student.requires_grad_(True).train()


METHOD = PyramidMatching
