"""AST-MFR: a student of another family than its teacher, with masked features that it regenerates.

Paper       Gu, Li and Liu, "Masked feature regeneration based asymmetric student-teacher network for anomaly
            detection" (AST-MFR), Multimedia Tools and Applications, 2024.
Flow        x -> frozen teacher -> F_t^1..3;   x -> pretrained student -> F_s^1..3
            F_s^n -> mask -> G = 3x3, ReLU, 3x3 -> regenerated F_s^n, one module a stage      Algorithm 1
Distances   D_cos(i, j) = 1 - cos(F_s(i, j), F_t(i, j))                                       eq. 1
            D_L2(i, j) = 1/2 |F_s(i, j)/|F_s(i, j)| - F_t(i, j)/|F_t(i, j)||^2                eq. 3
Loss        L_all = sum_n mean_ij D_cos + alpha sum_n mean_ij D_L2                            eq. 2, 4, 5
Map         D_cos + alpha D_L2 a stage, summed, smoothed by a Gaussian (sigma 4) and a 5x5 mean       sec. 3.4, 4.1
Shapes      N images of 256x256, wide_resnet50_2 and resnext50_32x4d alike:
            F_t F_s (N, 256, 64, 64) (N, 512, 32, 32) (N, 1024, 16, 16)
Departures  for unit vectors 1/2 |a - b|^2 = 1 - a.b, so eq. 3 is eq. 1 and the second term only doubles the first;
            l2_squared=False leaves the square out. A student of other widths gets a 1x1 convolution, which the paper's
            pairs do not need. Mixed precision by default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from anomaly_bench.errors import UserError
from anomaly_bench.layers.distance import LossForm, cosine_map, stage_sum, unit_l2_map
from anomaly_bench.layers.regeneration import Regeneration, random_mask
from anomaly_bench.layers.teacher import Backbone, Teacher
from anomaly_bench.methods.base import DistillationMethod
from anomaly_bench.methods.options import Ours, Stated, check_idle, check_not_negative, check_share, check_stages
from anomaly_bench.methods.protocol import Protocol

PROTOCOL = Protocol(
    teacher="wide_resnet50_2.tv_in1k",  # "supplied by PyTorch", whose release is not stated: the first
    student="resnext50_32x4d.tv_in1k",  # likewise
    epochs=200,
    batch_size=32,
    lr=1e-3,
    betas=(0.9, 0.999),
    weight_decay=0.0,  # not stated
    image_size=256,
    precision="bf16-mixed",  # not stated
)


class MaskedFeatureRegeneration(DistillationMethod):
    """A pretrained student of another family regenerates its own masked features in the teacher's likeness.

    Args:
        teacher: the frozen network.
        student: the trained one, which sees the image.
        protocol: learning rate and the like.
        mfr_stages: stages with masked feature regeneration (Table 8); the others are compared as they are.
        mask_rate: r of Algorithm 1 (Fig. 6); 0 regenerates without masking.
        alpha: weight of the second distance, eq. 5.
        l2_squared: whether eq. 3 has its square.
        alignment: a 1x1 convolution where the student's widths are not the teacher's ("auto"), or none.
        loss_form: one angle a position ("pixel") or one for a whole stage ("global", of eq. 2 only).
    """

    revision = 1
    protocol = PROTOCOL
    stated = ("teacher", "student", "epochs", "batch_size", "lr", "betas", "image_size",
              "fusion", "sigma", "image_score", "mean_kernel")  # fmt: skip
    evaluation = MappingProxyType({"mean_kernel": 5})

    def __init__(
        self,
        teacher: Teacher,
        student: Backbone,
        protocol: Protocol = PROTOCOL,
        *,
        mfr_stages: Stated[tuple[int, ...]] = (1, 2, 3),
        mask_rate: Ours[float] = 0.5,  # Fig. 6 calls 0.3 and 0.5 best, and fixes neither
        alpha: Stated[float] = 1.0,
        l2_squared: Stated[bool] = True,
        alignment: Ours[Literal["auto", "none"]] = "auto",  # not stated; no pair of the paper needs one
        loss_form: Stated[LossForm] = "pixel",
    ) -> None:
        super().__init__(teacher, protocol)
        self.student = student
        self.mfr_stages, self.mask_rate = tuple(mfr_stages), mask_rate
        self.alpha, self.l2_squared, self.loss_form = alpha, l2_squared, loss_form
        widths = list(zip(student.widths, teacher.widths, strict=True))
        if alignment == "none" and student.widths != teacher.widths:
            raise UserError(
                f"student {student.architecture} has {student.widths} channels where teacher {teacher.architecture} "
                f"has {teacher.widths}; use --set alignment=auto, or a student of the teacher's widths."
            )
        self.heads = nn.ModuleList(self.head(stage, *widths[stage - 1]) for stage in self.stages)

    @classmethod
    def check(cls, protocol: Protocol, options: Mapping[str, Any]) -> None:
        check_stages("mfr_stages", options["mfr_stages"], may_be_empty=True)
        check_share("mask_rate", options["mask_rate"])
        check_not_negative("alpha", options["alpha"])
        if not options["mfr_stages"]:
            check_idle(cls, options, ["mask_rate"], "mfr_stages=[]")
        if not options["alpha"]:
            check_idle(cls, options, ["l2_squared"], "alpha=0")

    def head(self, stage: int, student_width: int, teacher_width: int) -> nn.Module:
        """What follows one stage of the student: MFR, or at most an alignment where there is none."""
        align = student_width != teacher_width
        if stage in self.mfr_stages:
            return Regeneration(student_width, teacher_width, align=align)
        return nn.Conv2d(student_width, teacher_width, kernel_size=1) if align else nn.Identity()

    def student_features(self, images: Tensor, teacher_features: Sequence[Tensor]) -> list[Tensor]:
        """F_s of the three stages, regenerated where MFR is on; masked in training only (sec. 3.4)."""
        regenerated = []
        for head, features in zip(self.heads, self.student(images), strict=True):
            if isinstance(head, Regeneration):
                regenerated.append(head(features, self.mask(features)))
            else:
                regenerated.append(head(features))
        return regenerated

    def mask(self, features: Tensor) -> Tensor | None:
        """Algorithm 1's mask of one stage, (N, 1, H, W); None at test."""
        if not self.training:
            return None
        return random_mask(features, self.mask_rate, self.noise.generator(features.device))

    def loss(self, teacher_features: Sequence[Tensor], student_features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Two terms: `cosine`, eq. 2, and `l2`, alpha times eq. 4."""
        cosine = stage_sum(teacher_features, student_features, self.loss_form)
        pairs = zip(teacher_features, student_features, strict=True)
        l2 = torch.stack([unit_l2_map(t, s, squared=self.l2_squared).mean() for t, s in pairs]).sum()
        return {"cosine": cosine, "l2": self.alpha * l2}

    def distance_map(self, teacher_feature: Tensor, student_feature: Tensor) -> Tensor:
        """D_cos + alpha D_L2 of one stage, (N, H, W); the paper measures both at test (sec. 3.4)."""
        l2 = unit_l2_map(teacher_feature, student_feature, squared=self.l2_squared)
        return cosine_map(teacher_feature, student_feature) + self.alpha * l2


METHOD = MaskedFeatureRegeneration
