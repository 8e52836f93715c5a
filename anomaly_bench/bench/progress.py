"""What a run shows while it works, and the curve it keeps: onlookers, which change no number."""

from __future__ import annotations

import csv
import io
import math
import sys
from typing import Any

from lightning import Callback, LightningModule, Trainer
from tqdm import tqdm


def say(text: str) -> None:
    """A line for the user's eyes, beside any progress bar; results alone go to standard output."""
    tqdm.write(text, file=sys.stderr)


class TrainingDivergedError(Exception):
    """The loss is not finite any more."""


class Curves(Callback):
    """Mean loss terms of every epoch; a loss that is not finite ends the run."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        terms = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if not math.isfinite(terms.get("loss", 0.0)):  # what only gathers features has none
            raise TrainingDivergedError(f"the loss is {terms['loss']} in epoch {trainer.current_epoch + 1}")
        self.rows.append({"epoch": trainer.current_epoch + 1, **dict(sorted(terms.items()))})

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]

    def as_csv(self) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()


class Progress(Callback):
    """A bar of training steps and one of test batches; where there is no terminal, ten lines instead of the bar."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.bar: tqdm[Any] = tqdm(disable=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        steps = int(trainer.estimated_stepping_batches)
        done = trainer.current_epoch * int(trainer.num_training_batches)
        self.bar = tqdm(total=steps, initial=done, desc=f"train {self.label}", unit="step", disable=None, leave=False)
        if done:
            say(f"  {self.label}: goes on after epoch {trainer.current_epoch} of {trainer.max_epochs}")

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.bar.update()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert trainer.max_epochs is not None
        epoch = trainer.current_epoch + 1
        loss = trainer.callback_metrics.get("loss")
        done = f"epoch {epoch} of {trainer.max_epochs}" + ("" if loss is None else f", loss {float(loss):.4f}")
        self.bar.set_postfix_str(done)
        if self.bar.disable and epoch % max(trainer.max_epochs // 10, 1) == 0:
            say(f"  {self.label}: {done}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bar.close()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        batches = int(sum(trainer.num_predict_batches))
        self.bar = tqdm(total=batches, desc=f"evaluate {self.label}", unit="batch", disable=None, leave=False)

    def on_predict_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.bar.update()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bar.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.bar.close()
