"""What all distillation methods share: training step, stage maps, logging, optimiser."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from typing import ClassVar

import lightning
import torch
from torch import Tensor

from anomaly_bench.layers.distance import cosine_map
from anomaly_bench.layers.teacher import Teacher
from anomaly_bench.methods.protocol import Protocol


class ImageBatch(typing.Protocol):
    """All that a method asks of a batch, whatever data module made it."""

    @property
    def images(self) -> Tensor:
        """(N, 3, H, W), uint8."""


class DistillationMethod(lightning.LightningModule):
    """A student is trained to agree with a frozen teacher on normal images; where it disagrees is anomalous.

    A method file gives `revision`, `protocol`, a constructor `(teacher, protocol=protocol, *, options...)`,
    `student_features` and `loss`.

    Attributes:
        revision: part of every run's identity; raise it when numbers move.
        protocol: the paper's, see `Protocol`.
    """

    revision: ClassVar[int]
    protocol: ClassVar[Protocol]

    def __init__(self, teacher: Teacher, protocol: Protocol) -> None:
        super().__init__()
        self.teacher = teacher
        self.lr, self.betas, self.weight_decay = protocol.lr, protocol.betas, protocol.weight_decay

    def student_features(self, images: Tensor, teacher_features: Sequence[Tensor]) -> list[Tensor]:
        """S1 S2 S3, shaped like `teacher_features`; images are (N, 3, H, W) in [0, 1]."""
        raise NotImplementedError

    def loss(self, teacher_features: Sequence[Tensor], student_features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Scalar terms by name; each is logged and their sum is minimised."""
        raise NotImplementedError

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        images = unit_range(batch.images)
        teacher_features = self.teacher(images)
        terms = self.loss(teacher_features, self.student_features(images, teacher_features))
        total = torch.stack(list(terms.values())).sum()
        logged = {name: value.detach() for name, value in terms.items()} | {"loss": total.detach()}
        self.log_dict(logged, on_step=False, on_epoch=True, batch_size=len(images))
        return total

    def stage_maps(self, images: Tensor) -> list[Tensor]:
        """M1 M2 M3, one cosine distance a position: (N, H/4, W/4), (N, H/8, W/8), (N, H/16, W/16) in [0, 2]."""
        teacher_features = self.teacher(images)
        student_features = self.student_features(images, teacher_features)
        return [cosine_map(t, s) for t, s in zip(teacher_features, student_features, strict=True)]

    def predict_step(self, batch: ImageBatch, batch_idx: int) -> list[Tensor]:
        return self.stage_maps(unit_range(batch.images))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.Adam(trained, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)

    def student_state(self) -> dict[str, Tensor]:
        """What training changed: the state without the teacher, which is known by its weights file."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("teacher.")}


def unit_range(images: Tensor) -> Tensor:
    """uint8 images to float32 in [0, 1]; each network then normalises with the statistics it was trained with."""
    return images.float() / 255
