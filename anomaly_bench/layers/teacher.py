"""The networks that see the image: the frozen one whose features are distilled, and a student that is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor, nn


class FeatureNetwork(Protocol):
    """What we need of timm's image models."""

    def forward_intermediates(
        self, x: Tensor, indices: list[int], *, stop_early: bool, intermediates_only: bool
    ) -> list[Tensor]: ...


class Backbone(nn.Module):
    """Three stages (strides 4, 8, 16) of an image network.

    Args:
        network: a timm model, already pruned to its third stage.
        architecture: timm's name of it, by which the student is shaped.
        stages: indices of the three stages among the network's intermediate features.
        widths: their channels C1, C2, C3.
        mean: per-channel mean that the network was trained with, images in [0, 1].
        std: per-channel standard deviation.
        shallow: names of two layers by what they give, "stem" (before the first stage) and "layer1" (the first stage).

    Attributes:
        frozen: whether its parameters are out of every optimiser's reach.
    """

    frozen: ClassVar[bool] = False
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        architecture: str,
        *,
        stages: Sequence[int],
        widths: Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        shallow: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.architecture = architecture
        self.stages = list(stages)
        self.widths = list(widths)
        self.shallow = dict(shallow or {})
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        if self.frozen:
            self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (N, 3, H, W) in [0, 1] to T1 (N, C1, H/4, W/4), T2 (N, C2, H/8, W/8), T3 (N, C3, H/16, W/16)."""
        normalised = (images - self.mean) / self.std
        network: FeatureNetwork = self.network  # type: ignore[assignment]
        return network.forward_intermediates(normalised, self.stages, stop_early=True, intermediates_only=True)


class Teacher(Backbone):
    """A pretrained backbone: no gradient, evaluation mode for ever; arguments as `Backbone`."""

    frozen = True

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode: running statistics of the batch norms must not drift towards the category."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """As `Backbone.forward`, without a graph."""
        return super().forward(images)

    @torch.no_grad()
    def forward_changed(self, images: Tensor, layer: str, change: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """T1 T2 T3 where the output of one shallow layer, "stem" or "layer1", has gone through `change`.

        Raises:
            LookupError: no such layer is known, or the network does not call it as a whole.
        """
        module, reached = self.network.get_submodule(self.shallow[layer]), []

        def replace(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            reached.append(layer)
            return change(output)

        handle = module.register_forward_hook(replace)
        try:
            features = self(images)
        finally:
            handle.remove()
        if not reached:
            raise LookupError(f"{self.architecture} does not call its {self.shallow[layer]}")
        return features
