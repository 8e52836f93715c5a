"""PaDiM: a Gaussian of the teacher's features at every position, as anomalib has it.

Paper       Defard et al., "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and Localization",
            ICPR 2020.
Flow        x -> frozen teacher -> T1 T2 T3, enlarged to T1's size -> `n_features` channels, drawn at random
            all training images -> mean and covariance at every position
Map         the Mahalanobis distance to that Gaussian, enlarged and smoothed (anomalib's `AnomalyMapGenerator`)
Shapes      N images of 256x256: features (N, n_features, 64, 64); inverse covariances (4096, n_features, n_features)
Departures  of anomalib's: the weights are those that our methods use; the image score is that of `EvalSpec`, the
            map's largest value, which for PaDiM is anomalib's too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

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

PROTOCOL = fitted_protocol("resnet18.tv_in1k")
FEATURES = {"resnet18": 100, "wide_resnet50_2": 550}  # the paper's; of another teacher as many as of ResNet18


class Padim(FittedPeer):
    """Measures how far the teacher's features are from those that normal images have at the same position.

    Args:
        teacher: the frozen network.
        protocol: batch size and image size.
        n_features: channels that are kept; None for the paper's number for the teacher.
    """

    revision = 1
    protocol = PROTOCOL
    stated: ClassVar[tuple[str, ...]] = ("teacher",)
    released: ClassVar[tuple[str, ...]] = ("batch_size", "image_size", "precision", "sigma", "image_score")

    def __init__(
        self, teacher: Teacher, protocol: Protocol = PROTOCOL, *, n_features: OfAnomalib[int | None] = None
    ) -> None:
        super().__init__(teacher, protocol)
        kept = n_features or FEATURES.get(teacher.architecture, FEATURES["resnet18"])
        if kept > sum(teacher.widths):
            raise UserError(
                f"{teacher.architecture} has {sum(teacher.widths)} channels, of which n_features cannot keep {kept}."
            )
        with importing_anomalib():
            from anomalib.models.image.padim.torch_model import PadimModel
        model = PadimModel(layers=list(LAYERS), backbone=StandIn(teacher.widths), n_features=kept)
        self.model = on_teacher(model, teacher, LAYERS)

    @classmethod
    def check(cls, protocol: Protocol, options: Mapping[str, Any]) -> None:
        super().check(protocol, options)
        if options["n_features"] is not None and options["n_features"] < 1:
            raise UserError(f"n_features must be at least 1 or null, not {options['n_features']}.")

    def fit(self) -> None:
        # anomalib takes views that a network in channels-last order does not allow.
        gathered: list[Tensor] = self.model.memory_bank  # type: ignore[assignment]
        self.model.memory_bank = [features.contiguous() for features in gathered]  # type: ignore[assignment]
        self.model.fit()  # type: ignore[operator]


METHOD = Padim
