"""What Lightning is told of a run on several devices, so that its steps are those of one as far as they can be.

Gradients   are the mean over the images of a batch, whichever device each was on.
Batch norm  takes its statistics from the whole batch on GPUs; on CPUs, for which PyTorch has no such layer, from each
            process's own images, and what is kept for the test images are then those of the first.
"""

from __future__ import annotations

import signal
import threading
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn

from anomaly_bench.bench.checkpoint import InOneFolder
from anomaly_bench.bench.devices import Group
from anomaly_bench.data.batches import SharedBatches
from anomaly_bench.methods.base import ImageBatch


def trainer_arguments(group: Group) -> dict[str, Any]:
    """Those of `Trainer` that depend on the devices."""
    if group.size == 1:
        # Alone, also inside a job of several Slurm tasks, whose other processes Lightning would wait for.
        return {"accelerator": "auto", "devices": 1, "plugins": [LightningEnvironment(), InOneFolder()]}
    return {
        "accelerator": "cuda" if torch.cuda.is_available() else "cpu",
        "devices": group.size,
        "strategy": WeighedDDP(),
        "plugins": [MetProcesses(group), InOneFolder()],
        "use_distributed_sampler": False,
    }


class WeighedDDP(DDPStrategy):
    """Lightning's, for batches that do not always fall into equal parts.

    DDP averages the gradients of the devices, so the loss of each must count as its images do.
    """

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        assert isinstance(loss, Tensor)
        assert self.lightning_module is not None
        return loss * shared_batches(self.lightning_module.trainer).weight(batch_idx)

    def reduce(self, tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        """Lightning would cut the mean of whole numbers, such as how many images each device had, to a whole one."""
        exact = tensor.double() if isinstance(tensor, Tensor) and not tensor.is_floating_point() else tensor
        return super().reduce(exact, group, reduce_op)


def shared_batches(trainer: Trainer) -> SharedBatches:
    """Those that are trained with."""
    assert trainer.train_dataloader is not None
    batches: SharedBatches = trainer.train_dataloader.sampler
    return batches


class MetProcesses(LightningEnvironment):
    """The processes are there and have met: Lightning has none to start."""

    def __init__(self, group: Group) -> None:
        super().__init__()
        self._rank = group.rank

    @property
    def creates_processes_externally(self) -> bool:
        return True

    def local_rank(self) -> int:
        return self._rank

    def node_rank(self) -> int:
        return 0


class EndsWhenTold(Callback):
    """On SIGTERM the leader stops where it is; Lightning would first exchange a word with followers that wait for
    another."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _stop)

    on_predict_start = on_train_start


def _stop(*_: object) -> None:
    raise SIGTERMException


def synchronise_batch_norm(method: nn.Module) -> None:
    """Batch norm of all layers but the frozen teacher's over all GPUs.

    Not by Lightning's switch: PyTorch's own conversion leaves out the activation that timm's batch norms may hold.
    """
    for name, child in list(method.named_children()):
        if name != "teacher":
            method.add_module(name, convert_sync_batchnorm(child))  # type: ignore[no-untyped-call]
