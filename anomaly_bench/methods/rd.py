"""RD: reverse distillation, the baseline of all four papers.

Paper       Deng and Li, "Anomaly Detection via Reverse Distillation from One-Class Embedding", CVPR 2022;
            restated in the FMM+SCSAtt paper, sec. 3.2 and eq. 12-13 (there F_E is T and F_G stands in for S).
Flow        x -> frozen teacher -> T1 T2 T3 -> bottleneck -> z -> decoder -> S1 S2 S3
Map         M_k(h, w) = 1 - cos(T_k(h, w), S_k(h, w))                eq. 12
Loss        L = sum_k mean_hw M_k                                    eq. 13; loss_form="pixel"
            L = sum_k 1 - cos(flat T_k, flat S_k)                    the authors' code; loss_form="global" (default)
Shapes      N images of 256x256, wide_resnet50_2:
            T1 S1 (N, 256, 64, 64)  T2 S2 (N, 512, 32, 32)  T3 S3 (N, 1024, 16, 16)  z (N, 2048, 8, 8)
Departures  the authors' unused fourth teacher stage and unused 1x1 convolution are not built; the teacher runs
            without a graph (their optimiser never held its weights, so nothing changes); mixed precision by default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from anomaly_bench.layers.blocks import mirror_plan
from anomaly_bench.layers.bottleneck import OneClassBottleneck
from anomaly_bench.layers.decoder import ReverseDecoder
from anomaly_bench.layers.distance import LossForm, stage_sum
from anomaly_bench.layers.teacher import Teacher
from anomaly_bench.methods.base import DistillationMethod
from anomaly_bench.methods.options import Released, check_image_size
from anomaly_bench.methods.protocol import Protocol

# From the authors' main.py, but for the precision: neither paper nor code states one (PyTorch's default is float32).
PROTOCOL = Protocol(
    teacher="wide_resnet50_2.tv_in1k",
    epochs=200,
    batch_size=16,
    lr=5e-3,
    betas=(0.5, 0.999),
    weight_decay=0.0,
    image_size=256,
    precision="bf16-mixed",
)


class ReverseDistillation(DistillationMethod):
    """A decoder learns to rebuild a frozen teacher's features, on normal images only.

    Args:
        teacher: the frozen network.
        protocol: learning rate and the like.
        loss_form: one angle for a whole stage ("global") or one a position ("pixel").
    """

    revision = 1
    protocol = PROTOCOL
    stated: ClassVar[tuple[str, ...]] = ("teacher", "epochs", "batch_size", "lr", "betas", "image_size")
    released: ClassVar[tuple[str, ...]] = ("weight_decay", "fusion", "sigma", "image_score")

    def __init__(
        self,
        teacher: Teacher,
        protocol: Protocol = PROTOCOL,
        *,
        loss_form: Released[LossForm] = "global",  # the paper prints "pixel"
    ) -> None:
        super().__init__(teacher, protocol)
        plan = mirror_plan(teacher.architecture)
        self.loss_form: LossForm = loss_form
        self.bottleneck = OneClassBottleneck(teacher.widths, plan)
        self.decoder = ReverseDecoder(teacher.widths, plan)

    @classmethod
    def check(cls, protocol: Protocol, options: Mapping[str, Any]) -> None:
        check_image_size(protocol.image_size)

    def student_features(self, images: Tensor, teacher_features: Sequence[Tensor]) -> list[Tensor]:
        """S1 S2 S3, shaped like `teacher_features`. RD's student never sees `images`."""
        return self.decoder(self.bottleneck(teacher_features))

    def loss(self, teacher_features: Sequence[Tensor], student_features: Sequence[Tensor]) -> dict[str, Tensor]:
        """One term, eq. 13 in the form that `loss_form` names, summed over stages."""
        return {"distillation": stage_sum(teacher_features, student_features, self.loss_form)}


METHOD = ReverseDistillation
