"""The state of a training that is not done yet, kept so that a killed run goes on where it was."""

from __future__ import annotations

import pickle
import time
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from anomaly_bench.bench.progress import say

MOST_OF_THE_TIME = 0.05  # part of the training time that saving may take


class InOneFolder(TorchCheckpointIO):
    """Writes a checkpoint to its own disk alone.

    Lightning's would come by way of the folder for temporary files: a small one would stop the training in the name of
    the wrong disk, and a killed process would leave its checkpoint there for good.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        content = BytesIO()  # PyTorch, given a path, would hide a full disk behind a RuntimeError
        torch.save(checkpoint, content)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content.getbuffer())


class Checkpoints(Callback):
    """Saves the whole training at the end of an epoch, so often that little is lost and little time goes into it.

    Args:
        path: the file, replaced by rename.
        origin: data, weights and versions that the training rests on; with others it does not go on.
        seconds: least time between two.

    Attributes:
        spent: seconds of training before this process took over.
        resumed: how often the training has been taken over.
        fruitless: this process goes on from a checkpoint, and has not come to the end of an epoch yet.
    """

    def __init__(self, path: Path, origin: Mapping[str, Any], seconds: float) -> None:
        self.path, self.origin, self.seconds = path, dict(origin), seconds
        self.spent, self.resumed, self.fruitless = 0.0, 0, False
        self._start = self._saved = time.monotonic()
        self._took = 0.0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.fruitless = False
        now = time.monotonic()
        due = now - self._saved >= max(self.seconds, self._took / MOST_OF_THE_TIME)
        if trainer.strategy.broadcast(due):
            self._save(trainer)
            self._saved = time.monotonic()
            self._took = self._saved - now

    def _save(self, trainer: Trainer) -> None:
        staged = self.path.with_suffix(".part")
        try:
            trainer.save_checkpoint(staged)
            if trainer.is_global_zero:
                staged.replace(self.path)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise

    def state_dict(self) -> dict[str, Any]:
        return {"origin": self.origin, "spent": self.total_spent(), "resumed": self.resumed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.spent, self.resumed = state_dict["spent"], state_dict["resumed"] + 1

    def total_spent(self) -> float:
        """Seconds of training so far, those before this process took over among them."""
        return self.spent + time.monotonic() - self._start

    def found(self) -> Path | None:
        """The checkpoint to go on from; None where there is none, or where it cannot be used, which is then said."""
        if not self.path.exists():
            return None
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
            same = saved["callbacks"][self.state_key]["origin"] == self.origin
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
            say(f"{self.path} is broken ({type(error).__name__}); training starts anew.")
            return None
        if not same:
            say(f"{self.path} is of other data, weights, versions or devices; training starts anew.")
            return None
        self.fruitless = True
        return self.path
