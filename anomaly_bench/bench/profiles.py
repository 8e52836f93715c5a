"""Three ways to run everything: as the papers say, as a CPU can, and as a smoke test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from anomaly_bench.errors import UserError, nearest


@dataclass(frozen=True)
class Profile:
    """What a profile replaces; all that is not named here stays the paper's.

    Attributes:
        name: as on the command line.
        label: one line for a table's header.
        settings: values of the protocol and the subset that replace the method's own.
        seeds: seeds that a table trains where the user names none.
        dataset: stands in for every data set of a table, or None.
        categories: those of the stand-in that a table uses, or () for all.
        architectures: those that a table's rows may name beside the profile's own; None for any. A number of ResNet18
            beside the label `WideResNet50` would be a lie, so the others' rows are left out.
        untrained: networks that a table's rows name have random weights.
    """

    name: str
    label: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    dataset: str | None = None
    categories: tuple[str, ...] = ()
    architectures: frozenset[str] | None = None
    untrained: bool = False

    def named_network(self, name: str) -> str | None:
        """What stands for a network that a table names, or None where this profile leaves it out."""
        architecture = name.partition(".")[0]
        if self.architectures is not None and architecture not in self.architectures:
            return None
        return f"{architecture}.random" if self.untrained else name


PROFILES = {
    profile.name: profile
    for profile in (
        # No paper says how many seeds; three show the spread that their tables lack.
        Profile("paper", "PAPER: the paper's protocol", seeds=(0, 1, 2)),
        Profile(
            "lite",
            "LITE: a ResNet18 teacher in place of every larger network, an EfficientNet-Lite0 student in place of a "
            "pretrained one, 30 epochs, all else as in the paper",
            # A student that sees the image must be of another family than its teacher.
            {"teacher": "resnet18.tv_in1k", "student": "tf_efficientnet_lite0.in1k", "epochs": 30},
            architectures=frozenset({"resnet18", "tf_efficientnet_lite0"}),
        ),
        Profile(
            "smoke",
            "SMOKE: generated images, a tiny subset, a small teacher; shows that everything runs, and nothing else",
            {
                "teacher": "tf_efficientnet_lite0.in1k",
                "student": "resnet18.random",
                "epochs": 3,
                "batch_size": 8,
                "image_size": 128,
                "train_images": 24,
                "test_images": 24,
            },
            dataset="synthetic",
            categories=("brick", "coins"),
            untrained=True,
        ),
    )
}


def load_profile(name: str) -> Profile:
    """The profile; raises UserError with the nearest name."""
    if name not in PROFILES:
        raise UserError(f"unknown profile '{name}'{nearest(name, PROFILES)}")
    return PROFILES[name]
