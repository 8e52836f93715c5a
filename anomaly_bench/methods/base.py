"""What all distillation methods share: training step, stage maps, logging, optimiser."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import lightning
import torch
from torch import Tensor

from anomaly_bench.layers.distance import cosine_map
from anomaly_bench.layers.noise import NoiseSource
from anomaly_bench.layers.teacher import Teacher
from anomaly_bench.methods.options import RELEASED
from anomaly_bench.methods.protocol import Protocol


class ImageBatch(typing.Protocol):
    """All that a method asks of a batch, whatever data module made it."""

    @property
    def images(self) -> Tensor:
        """(N, 3, H, W), uint8."""

    @property
    def indices(self) -> Tensor:
        """(N,) positions among all images of the split."""


class DistillationMethod(lightning.LightningModule):
    """A student is trained to agree with a frozen teacher on normal images; where it disagrees is anomalous.

    A method file gives `revision`, `protocol`, a constructor `(teacher, protocol=protocol, *, options...)`,
    `student_features` and `loss`. One whose protocol names a student takes it after the teacher; one whose loss needs
    more than the student's final features overrides `training_terms` in place of `loss`.

    Masks and noise go on where a checkpoint left them; each of several devices draws its own.

    Attributes:
        revision: part of every run's identity; raise it when numbers move.
        protocol: the paper's, see `Protocol`.
        stated: fields of the protocol and of the evaluation that the paper states.
        released: those that its authors' code has instead; all others are our choice.
        released_by: whose code `released` speaks of.
        unused: fields of the protocol that the method never reads, and that cannot be set.
        evaluation: fields of `bench.spec.EvalSpec` in which the paper's evaluation differs from RD4AD's.
        maps: what `stage_maps` holds besides the stages: "coarse" where the student has a first, coarser output.
        cacheable: whether training asks for the teacher's features of plain images by `teacher_features`.
        stages: the teacher's stages that are compared, counted from 1.
        noise: where masks and noise are drawn from, apart from every other generator.
        cached_features: T1 T2 T3 of every training image, (N, H, W, C) each, where whoever trains has filled it.
    """

    revision: ClassVar[int]
    protocol: ClassVar[Protocol]
    stated: ClassVar[tuple[str, ...]]
    released: ClassVar[tuple[str, ...]] = ()
    released_by: ClassVar[str] = RELEASED
    unused: ClassVar[tuple[str, ...]] = ()
    evaluation: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    maps: ClassVar[tuple[str, ...]] = ("stage",)
    cacheable: ClassVar[bool] = True

    def __init__(self, teacher: Teacher, protocol: Protocol) -> None:
        super().__init__()
        self.teacher = teacher
        self.lr, self.betas, self.weight_decay = protocol.lr, protocol.betas, protocol.weight_decay
        self.stages: tuple[int, ...] = (1, 2, 3)
        self.noise = NoiseSource(seed=0)
        self.cached_features: Sequence[Tensor] | None = None

    @classmethod
    def require(cls) -> None:
        """Raise UserError where a package is missing without which the method cannot be built."""

    @classmethod
    def check(cls, protocol: Protocol, options: Mapping[str, Any]) -> None:
        """Raise UserError for settings that do not go together; asked before anything is loaded.

        Args:
            protocol: the run's.
            options: every option of the method, defaults included.
        """

    def seed_noise(self, seed: int, *, training: int | None = None) -> None:
        """Masks and noise are drawn anew, whatever else is drawn.

        Args:
            seed: the run's.
            training: of what training draws, None for `seed`: devices that share a run draw apart, and test alike.
        """
        self.noise = NoiseSource(seed, running=training)

    def student_features(self, images: Tensor, teacher_features: Sequence[Tensor]) -> list[Tensor]:
        """S_k of `stages`, each shaped like its T_k; images are (N, 3, H, W) in [0, 1], `teacher_features` T1 T2 T3."""
        raise NotImplementedError

    def loss(self, teacher_features: Sequence[Tensor], student_features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Scalar terms by name, of T_k and S_k of `stages`; each is logged and their sum is minimised."""
        raise NotImplementedError

    def compared(self, teacher_features: Sequence[Tensor]) -> list[Tensor]:
        """T_k of `stages`, of T1 T2 T3."""
        return [teacher_features[stage - 1] for stage in self.stages]

    def teacher_features(self, batch: ImageBatch) -> list[Tensor]:
        """T1 T2 T3 of a training batch; the teacher never changes, so they may come from `cached_features`."""
        if self.cached_features is None:
            return self.teacher(unit_range(batch.images))
        # index_select copies whole images; indexing by brackets takes twenty times as long.
        return [stage.index_select(0, batch.indices).permute(0, 3, 1, 2) for stage in self.cached_features]

    def training_terms(self, images: Tensor, teacher_features: Sequence[Tensor]) -> dict[str, Tensor]:
        """The loss terms of one batch, images (N, 3, H, W) in [0, 1] and their T1 T2 T3."""
        return self.loss(self.compared(teacher_features), self.student_features(images, teacher_features))

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        terms = self.training_terms(unit_range(batch.images), self.teacher_features(batch))
        total = torch.stack(list(terms.values())).sum()
        logged = {name: value.detach() for name, value in terms.items()} | {"loss": total.detach()}
        self.log_dict(logged, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(batch.images))
        return total

    def distance_map(self, teacher_feature: Tensor, student_feature: Tensor) -> Tensor:
        """M_k of one stage, (N, H, W); the papers' cosine distance unless a method says otherwise."""
        return cosine_map(teacher_feature, student_feature)

    def stage_maps(self, images: Tensor) -> dict[str, Tensor]:
        """`stage<k>`: M_k of `stages`, one distance a position: (N, H/4, W/4), (N, H/8, W/8), (N, H/16, W/16)."""
        teacher_features = self.teacher(images)
        return self.named_maps("stage", teacher_features, self.student_features(images, teacher_features))

    def named_maps(
        self, name: str, teacher_features: Sequence[Tensor], features: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """`<name><k>`: the distance of T_k and the k-th of `features`, for k in `stages`."""
        pairs = zip(self.stages, self.compared(teacher_features), features, strict=True)
        return {f"{name}{stage}": self.distance_map(teacher, student) for stage, teacher, student in pairs}

    def predict_step(self, batch: ImageBatch, batch_idx: int) -> dict[str, Tensor]:
        return self.stage_maps(unit_range(batch.images))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimiser holds, by learning rate and decay: one group unless a paper has several."""
        return [{"params": [parameter for parameter in self.parameters() if parameter.requires_grad]}]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups = self.parameter_groups()
        return torch.optim.Adam(groups, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Without the teacher, which is known by its weights file; with the state of every device's noise."""
        checkpoint["state_dict"] = self.student_state()
        states = self.noise.state_dict()
        checkpoint["noise"] = [states] * self.trainer.world_size
        if self.trainer.world_size > 1:
            torch.distributed.all_gather_object(checkpoint["noise"], states)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] |= {k: value for k, value in self.state_dict().items() if k.startswith("teacher.")}
        self.noise.load_state_dict(checkpoint["noise"][self.trainer.global_rank])

    def student_state(self) -> dict[str, Tensor]:
        """What training changed: the state without the teacher, which is known by its weights file."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("teacher.")}


def unit_range(images: Tensor) -> Tensor:
    """uint8 images to float32 in [0, 1]; each network then normalises with the statistics it was trained with."""
    return images.float() / 255
