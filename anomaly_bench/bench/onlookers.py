"""Who is to watch runs: Weights & Biases, and Lightning's loggers to CSV and TensorBoard; `watch` lets them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Literal, get_args

from anomaly_bench.errors import UserError, nearest

WandbMode = Literal["off", "offline", "online"]
LoggerName = Literal["none", "csv", "tensorboard"]


@dataclass(frozen=True)
class Onlookers:
    """Who is to watch; can be sent to another process.

    Attributes:
        wandb: Weights & Biases: into a folder on this machine ("offline"), or to its server.
        logger: one of Lightning's own loggers.
        profile: the profile's name, a tag.
        groups: by a run's id, the table that it is trained for.
    """

    wandb: WandbMode = "off"
    logger: LoggerName = "none"
    profile: str = ""
    groups: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for option, value, known in (("wandb", self.wandb, WandbMode), ("logger", self.logger, LoggerName)):
            if value not in get_args(known):
                raise UserError(f"unknown --{option} '{value}'{nearest(value, get_args(known))}")

    def check(self) -> None:
        """Raise UserError, before anything is trained, where a package is missing, or a key for W&B's server."""
        if self.logger == "tensorboard" and find_spec("tensorboard") is None:
            raise UserError("--logger tensorboard needs a package; pip install tensorboard, or use --logger csv.")
        if self.wandb != "off" and find_spec("wandb") is None:
            raise UserError(f"--wandb {self.wandb} needs a package; pip install wandb, or leave the option out.")
        if self.wandb == "online":
            from anomaly_bench.bench.wandb_run import require_key

            require_key()
