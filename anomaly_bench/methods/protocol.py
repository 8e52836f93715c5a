"""How a paper trains. Plain data, so that plans and tables need no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from anomaly_bench.errors import UserError

LARGEST_SIZE = 4096  # pixels a side; a network then wants gigabytes for a single image
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


@dataclass(frozen=True)
class Protocol:
    """How a paper trains: a method file states its own, a profile or `--set` may replace values.

    The optimiser is Adam unless a method has another; it then names what it has no use for as `unused`.

    All of it is part of a run's identity. A field added later needs a default that changes nothing, and is left out
    of the identity where it has that default.

    Attributes:
        teacher: timm name of the frozen network and its weights.
        epochs: passes over the training images; the last one counts.
        batch_size: images a step; a short last batch is kept.
        lr: the optimiser's learning rate.
        betas: Adam's decay rates.
        weight_decay: the optimiser's L2 coefficient (the gradient's term is `weight_decay * w`).
        image_size: height and width that images are resized to, in pixels.
        precision: Lightning's name of it; no paper states one.
        student: timm name of a trained network that sees the image, and of its first weights; None where the method
            builds its student itself.
    """

    teacher: str
    epochs: int
    batch_size: int
    lr: float
    betas: tuple[float, float]
    weight_decay: float
    image_size: int
    precision: Precision
    student: str | None = None

    @property
    def networks(self) -> dict[str, str]:
        """Names of the networks with weights of their own, by role."""
        return {"teacher": self.teacher} | ({"student": self.student} if self.student is not None else {})

    @property
    def summary(self) -> str:
        """`resnet18.tv_in1k, 30 epochs, batches of 16`: what tells the runs of one list apart."""
        return f"{' -> '.join(self.networks.values())}, {self.epochs} epochs, batches of {self.batch_size}"

    @property
    def weights_evidence(self) -> dict[str, str]:
        """Under which name a record's evidence has the weights of each of `networks`, by role."""
        return {role: "weights" if role == "teacher" else f"{role}_weights" for role in self.networks}

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not 0 < self.lr < math.inf:
            raise UserError(f"lr must be above 0, not {self.lr}.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"betas must be in [0, 1), not {list(self.betas)}.")
        if not 0 <= self.weight_decay < math.inf:
            raise UserError(f"weight_decay must be 0 or more, not {self.weight_decay}.")
        if not 32 <= self.image_size <= LARGEST_SIZE:
            raise UserError(f"image_size must be 32 to {LARGEST_SIZE} pixels, not {self.image_size}.")
