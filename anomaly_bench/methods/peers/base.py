"""What the peers share: anomalib's model on our frozen teacher, trained, recorded and evaluated like any other run.

anomalib is an optional extra and slow to import, so it is imported where a peer is built and nowhere else: lists,
plans and tables of peers do without it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor, nn

from anomaly_bench.errors import UserError
from anomaly_bench.layers.teacher import Teacher
from anomaly_bench.methods.base import DistillationMethod, ImageBatch, unit_range
from anomaly_bench.methods.options import ANOMALIB
from anomaly_bench.methods.protocol import Protocol

LAYERS = ("layer1", "layer2", "layer3")  # under which anomalib's models ask for T1 T2 T3


class Peer(DistillationMethod):
    """A method of anomalib's, with anomalib's settings; its anomaly maps are evaluated as ours are."""

    released_by = ANOMALIB
    evaluation: ClassVar[Mapping[str, Any]] = MappingProxyType({"sigma": 0.0})  # anomalib's maps are smoothed already

    @classmethod
    def require(cls) -> None:
        if find_spec("anomalib") is None:
            raise UserError(
                "peers are measured with anomalib, which is not installed; run pip install 'anomaly-bench[peers]', or "
                "leave the peers out."
            )

    @classmethod
    def check(cls, protocol: Protocol, options: Mapping[str, Any]) -> None:
        if protocol.precision != "32-true":
            raise UserError(
                f"peers run in float32, as in anomalib; leave precision at 32-true, not {protocol.precision}."
            )


class FittedPeer(Peer):
    """A peer that no gradient trains: one pass over the training images gathers features, and `fit` ends it.

    Attributes:
        model: anomalib's model, which gathers in training mode and gives anomaly maps in evaluation mode.
    """

    unused = ("epochs", "lr", "betas", "weight_decay")
    cacheable = False  # anomalib's models ask the teacher themselves, and once
    model: nn.Module

    def __init__(self, teacher: Teacher, protocol: Protocol) -> None:
        super().__init__(teacher, protocol)
        self.automatic_optimization = False

    def fit(self) -> None:
        """Make the model of normality of what was gathered."""
        raise NotImplementedError

    def training_step(self, batch: ImageBatch, batch_idx: int) -> None:  # type: ignore[override]  # there is no loss
        self.model(unit_range(batch.images))

    def on_train_batch_end(self, outputs: object, batch: ImageBatch, batch_idx: int) -> None:
        if self.trainer.is_last_batch:  # not at the end of the epoch, so that a checkpoint holds what was fitted
            self.fit()

    def stage_maps(self, images: Tensor) -> dict[str, Tensor]:
        """`stage1`: anomalib's anomaly map, (N, H, W)."""
        return {"stage1": self.model(images).anomaly_map[:, 0]}

    def configure_optimizers(self) -> None:  # type: ignore[override]  # nothing is optimised
        return None


def fitted_protocol(teacher: str) -> Protocol:
    """One pass over the images, 32 at a time; there is no optimiser, and its fields are never read."""
    return Protocol(
        teacher=teacher,
        epochs=1,
        batch_size=32,
        lr=1.0,
        betas=(0.0, 0.0),
        weight_decay=0.0,
        image_size=256,
        precision="32-true",
    )


class TeacherFeatures(nn.Module):
    """Our teacher where anomalib's models have their own backbone, which would download its weights.

    Args:
        teacher: the frozen network; it normalises the images by itself.
        layers: those of `LAYERS` that the model asks for.
    """

    def __init__(self, teacher: Teacher, layers: Sequence[str]) -> None:
        super().__init__()
        self.teachers = (teacher,)  # in a tuple PyTorch does not see it: its weights are the method's, and kept once
        self.layers = tuple(layers)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (N, 3, H, W) in [0, 1] to T_k by layer."""
        (teacher,) = self.teachers
        return {layer: stage for layer, stage in zip(LAYERS, teacher(images), strict=True) if layer in self.layers}


class StandIn(nn.Module):
    """Layers as wide as the teacher's stages: what a model of anomalib measures while it is built, and then loses.

    Args:
        widths: channels of T1 T2 T3.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.layer1, self.layer2, self.layer3 = (nn.Conv2d(3, width, 1, stride=16, bias=False) for width in widths)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.layer1(images), self.layer2(images), self.layer3(images)


def on_teacher(model: nn.Module, teacher: Teacher, layers: Sequence[str]) -> nn.Module:
    """A model that was built with a `StandIn`, now with the teacher in its place."""
    model.backbone = None  # type: ignore[assignment]  # the stand-in has done its part
    model.feature_extractor = TeacherFeatures(teacher, layers)
    return model


@contextmanager
def importing_anomalib() -> Iterator[None]:
    """Without the warnings of its import, which are about its own future."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
