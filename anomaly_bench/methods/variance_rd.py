"""Variance-loss RD: reverse distillation whose student is also asked to give alike features for alike images.

Paper       Song, Buayai and Mao, "Enhancing Reverse Distillation for Anomaly Detection through Variance Loss
            Optimization", sec. III; the network is RD's, see methods/rd.py.
Loss        L = L_model + lambda L_var                                                        eq. 1
            F_i = flatten(f_i), f_i the decoder's output D^k for image i of a batch           eq. 2
            F_mean = 1/N sum_i F_i                                                            eq. 3
            L_var = 1/N sum_i (1 - cos(F_i, F_mean))                                          eq. 4-5
            distance="l1", "l2": |F_i - F_mean|_1 or |F_i - F_mean|_2 in place of 1 - cos     Table III
Shapes      N images of 256x256, wide_resnet50_2: D^1 (N, 256, 64, 64), D^2 (N, 512, 32, 32), D^3 (N, 1024, 16, 16)
Departures  the paper's 225x225 images do not fit RD's decoder (maps of 15, 29, 57 against 16, 32, 64): 256 here, where
            RD's own numbers in its tables come from; resize_student=True allows 225. D^1 is taken as the largest map,
            for the text calls it "finer-grained". Mixed precision by default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_bench.errors import UserError
from anomaly_bench.layers.distance import LossForm
from anomaly_bench.layers.teacher import Teacher
from anomaly_bench.layers.variance import Distance, Reduction, variance_loss
from anomaly_bench.methods.options import Ours, Stated, check_idle, check_not_negative, check_stages
from anomaly_bench.methods.protocol import Protocol
from anomaly_bench.methods.rd import ReverseDistillation

PROTOCOL = Protocol(
    teacher="wide_resnet50_2.tv_in1k",  # "WideResNet", whose depth is not stated: RD's
    epochs=200,  # not stated; RD's
    batch_size=16,
    lr=5e-3,
    betas=(0.5, 0.999),  # not stated; RD's
    weight_decay=0.0,  # not stated; RD's
    image_size=256,  # the paper's 225 cannot have been run as it stands, see the head of this file
    precision="bf16-mixed",  # not stated
)


class VarianceReverseDistillation(ReverseDistillation):
    """RD with a second loss that draws the decoder's outputs of one batch together.

    Args:
        teacher: the frozen network.
        protocol: learning rate and the like.
        variance_stages: the decoder's outputs that carry the loss, 1 for D^1 and so on (Table V); their terms add up.
        variance_weight: lambda of eq. 1 (Fig. 4).
        distance: between an image's features and the batch's mean (Table III).
        reduction: whether "l1" and "l2" are those of the whole vector ("sum") or of its mean element ("mean").
        detach_mean: whether the gradient stops at the mean.
        resize_student: bring the student's maps to the teacher's size, so that any image size can be tried; both
            losses are of the maps as resized.
        loss_form: of L_model, as in RD.
    """

    revision = 1
    protocol = PROTOCOL
    stated = ("batch_size", "lr")
    released = ()

    def __init__(
        self,
        teacher: Teacher,
        protocol: Protocol = PROTOCOL,
        *,
        variance_stages: Stated[tuple[int, ...]] = (1,),
        variance_weight: Ours[float] = 0.1,  # Fig. 4 alone would tell; keeps L_var the smaller term
        distance: Stated[Distance] = "cosine",
        reduction: Ours[Reduction] = "sum",  # not stated; would explain Table III's collapse under L1 and L2
        detach_mean: Ours[bool] = False,  # not stated; as printed
        resize_student: Ours[bool] = False,  # not stated
        loss_form: Ours[LossForm] = "global",  # "the original loss" of RD: its code's
    ) -> None:
        super().__init__(teacher, protocol, loss_form=loss_form)
        self.variance_stages, self.variance_weight = tuple(variance_stages), variance_weight
        self.distance, self.reduction, self.detach_mean = distance, reduction, detach_mean
        self.resize_student = resize_student

    @classmethod
    def check(cls, protocol: Protocol, options: Mapping[str, Any]) -> None:
        if not options["resize_student"]:
            super().check(protocol, options)
        check_stages("variance_stages", options["variance_stages"])
        check_not_negative("variance_weight", options["variance_weight"])
        if options["distance"] == "cosine":
            check_idle(cls, options, ["reduction"], "distance=cosine")
        if not options["variance_weight"]:
            names = ["variance_stages", "distance", "reduction", "detach_mean"]
            check_idle(cls, options, names, "variance_weight=0")
        if protocol.batch_size < 2 and options["variance_weight"]:
            raise UserError("batch_size must be at least 2: the variance loss compares the images of a batch.")

    def student_features(self, images: Tensor, teacher_features: Sequence[Tensor]) -> list[Tensor]:
        """S1 S2 S3 as in RD, brought to the teacher's sizes where that is asked for."""
        decoded = super().student_features(images, teacher_features)
        if not self.resize_student:
            return decoded
        pairs = zip(decoded, teacher_features, strict=True)
        return [F.interpolate(s, t.shape[2:], mode="bilinear", align_corners=True) for s, t in pairs]

    def loss(self, teacher_features: Sequence[Tensor], student_features: Sequence[Tensor]) -> dict[str, Tensor]:
        """RD's term, and `variance`, lambda times eq. 5 summed over `variance_stages`."""
        variances = [
            variance_loss(student_features[stage - 1], self.distance, self.reduction, detach_mean=self.detach_mean)
            for stage in self.variance_stages
        ]
        variance = self.variance_weight * torch.stack(variances).sum()
        return {**super().loss(teacher_features, student_features), "variance": variance}


METHOD = VarianceReverseDistillation
