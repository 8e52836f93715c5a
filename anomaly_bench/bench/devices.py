"""One run on several devices: the process that was started leads, and one follower joins it for each other device.

Followers  build data and method from the run's spec, take their images of every batch and their share of the test
           batches, and end. They claim nothing, look into no store, and write and print nothing.
Errors     What goes wrong in a follower is raised in the leader, which says it; of several, one that is no echo.
Ends       A follower ends with its leader, however that dies. Where a follower dies, the leader's next exchange with it
           fails, and where that waits for ever instead (NCCL's may), the leader is ended by force.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed

from anomaly_bench.bench.catalog import load_method, peer_names
from anomaly_bench.bench.processes import end_with_parent, how_it_ended
from anomaly_bench.bench.progress import say
from anomaly_bench.bench.resolve import option_defaults
from anomaly_bench.bench.spec import RunSpec
from anomaly_bench.data.base import AnomalyDataModule
from anomaly_bench.errors import UserError

CONTEXT = multiprocessing.get_context("spawn")  # not forked: CUDA and the threads of PyTorch do not survive that
READY = "ready"
HEARD_WITHIN, ENDED_WITHIN = 5.0, 30.0  # seconds: for a follower's last words, and for the leader to end by itself

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """One process's place among those that train a run together.

    Attributes:
        rank: from 0, which leads; also the number of its GPU.
        size: processes, one a device.
        meeting: address of the file through which they find each other.
    """

    rank: int = 0
    size: int = 1
    meeting: str = ""


Work = Callable[[Group], None]


class LostDeviceError(Exception):
    """A follower was killed, or ended without a word."""


class FollowerError(RuntimeError):
    """What went wrong in a follower, where the exception itself cannot be sent."""


def check_devices(spec: RunSpec, data: AnomalyDataModule, devices: int) -> None:
    """Raise UserError where a run cannot be shared by so many devices; `data` is set up."""
    assert data.train_pixels is not None
    gpus = torch.cuda.device_count()
    if gpus and devices > gpus:
        raise UserError(f"--devices {devices} is more than the GPUs there are; use at most {gpus}.")
    if spec.method in peer_names():  # some gather instead of training, some add up where ours average
        raise UserError(f"{spec.method} is measured as anomalib trains it, on one device; leave --devices out.")
    batch = min(spec.protocol.batch_size, len(data.train_pixels))
    if batch < devices * data.fewest_images:
        raise UserError(
            f"--devices {devices} leaves some of them without images enough of a batch of {batch}; use at most "
            f"{batch // data.fewest_images or 1}."
        )
    method, share = load_method(spec.method), replace(spec.protocol, batch_size=batch // devices)
    try:
        method.check(share, {**option_defaults(method), **dict(spec.options)})
    except UserError as error:
        raise UserError(
            f"--devices {devices} leaves each of them {share.batch_size} of a batch's {batch} images, and {error}"
        ) from error


@contextmanager
def gathered(devices: int, prepare: Callable[[], Work]) -> Iterator[Group]:
    """Processes for all devices but the first, which is the caller's; they end with the block.

    Args:
        devices: how many in all; one starts nothing.
        prepare: called in every follower, so something that can be pickled; what it returns is called when all have
            met, while the block does the leader's part of the same work.

    Raises:
        LostDeviceError: a follower died.
        Exception: what a follower raised.
    """
    if devices == 1:
        yield Group()
        return
    followers, left = list[Follower](), threading.Event()
    with tempfile.TemporaryDirectory(prefix="anomaly-bench-") as folder:
        group = Group(0, devices, (Path(folder) / "meeting").as_uri())
        try:
            for rank in range(1, devices):
                followers.append(Follower(replace(group, rank=rank), prepare))
            for follower in followers:
                follower.await_ready()
            threading.Thread(target=_end_if_stuck, args=(followers, left), daemon=True).start()
            yield from _led(group, followers)
        finally:
            left.set()
            for follower in followers:
                follower.end()


def _led(group: Group, followers: Sequence[Follower]) -> Iterator[Group]:
    try:
        _meet(group)
        yield group
    except RuntimeError as error:  # perhaps no more than the echo of what went wrong in a follower
        cause = min([*_last_words(followers), error], key=_distance)
        if cause is error:
            raise
        raise cause from error
    else:
        for follower in followers:
            follower.process.join(ENDED_WITHIN)
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _last_words(followers: Sequence[Follower]) -> list[BaseException]:
    """What went wrong in the followers, in the order in which they say so; they may be about to."""
    said = list[BaseException]()
    silent, end = {follower.channel: follower for follower in followers}, time.monotonic() + HEARD_WITHIN
    while silent and (heard := wait(list(silent), max(end - time.monotonic(), 0.0))):
        words = [silent.pop(channel).last_words() for channel in list(silent) if channel in heard]
        said += [error for error in words if error is not None]
        if any(isinstance(error, LostDeviceError) for error in said):
            break  # nothing that is still to come counts more
    return said


def _distance(error: BaseException) -> int:
    """How far from the cause an error may be: a process that dies or fails makes exchanges fail in all the others."""
    if isinstance(error, LostDeviceError):
        return 0
    echo = type(error) is RuntimeError or isinstance(error, distributed.DistError)  # gloo's has no class of its own
    return 2 if echo else 1


def _meet(group: Group) -> None:
    gpus = torch.cuda.is_available()
    if gpus:
        torch.cuda.set_device(group.rank)
    backend = "nccl" if gpus else "gloo"
    distributed.init_process_group(backend, init_method=group.meeting, rank=group.rank, world_size=group.size)


def in_turn(mine: list[T], group: Group) -> list[T]:
    """What was dealt out to all devices in turn, in its order; each gives what it has made of it."""
    everyone = [mine]
    if group.size > 1:
        everyone = [mine] * group.size
        distributed.all_gather_object(everyone, mine)
    missing = object()
    rounds = zip_longest(*everyone, fillvalue=missing)
    return [part for one_round in rounds for part in one_round if part is not missing]  # type: ignore[misc]


class Follower:
    """A follower as its leader sees it.

    Attributes:
        process: it.
        channel: by which it says that it is ready, and what went wrong in it; closed when it ends.
    """

    def __init__(self, group: Group, prepare: Callable[[], Work]) -> None:
        self.channel, theirs = CONTEXT.Pipe(duplex=False)
        self.process = CONTEXT.Process(target=_follow, args=(group, prepare, theirs))
        with _held_back(signal.SIGINT, signal.SIGTERM):  # for good in the follower: its leader decides
            self.process.start()
        theirs.close()

    def await_ready(self) -> None:
        """Return when it has prepared its work; raise what went wrong instead, or LostDeviceError if it has died."""
        try:
            said = self.channel.recv()
        except (EOFError, OSError) as error:
            raise self._death() from error
        if said != READY:
            raise said

    def last_words(self) -> BaseException | None:
        """What went wrong in it, once `channel` has something after all have met; None where its work is done."""
        try:
            error: BaseException = self.channel.recv()
        except (EOFError, OSError):
            death = self._death()
            return None if self.process.exitcode == 0 else death
        return error

    def end(self) -> None:
        """At once, where it has not ended by itself."""
        self.process.kill()
        self.process.join()
        self.channel.close()

    def _death(self) -> LostDeviceError:
        self.process.join(HEARD_WITHIN)
        return LostDeviceError(f"one of its processes {how_it_ended(self.process.exitcode)}")


def _end_if_stuck(followers: Sequence[Follower], left: threading.Event) -> None:
    running = list(followers)
    while running:
        ended = wait([follower.process.sentinel for follower in running])
        dead = [follower for follower in running if follower.process.sentinel in ended]
        running = [follower for follower in running if follower not in dead]
        killed = not left.is_set() and any(follower.process.exitcode != 0 for follower in dead)
        if killed and not left.wait(ENDED_WITHIN):
            say("error: one of the run's processes has died; the same command goes on from the last checkpoint.")
            os._exit(1)


@contextmanager
def _held_back(*signals: signal.Signals) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _follow(group: Group, prepare: Callable[[], Work], channel: Connection[Any, Any]) -> None:
    """A follower's whole life."""
    end_with_parent()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    try:
        work = prepare()
        channel.send(READY)
        _meet(group)
        work(group)
    except BaseException as error:
        error.add_note(f"On device {group.rank}:\n{traceback.format_exc()}")
        channel.send(_portable(error))
        os._exit(1)  # without taking leave of a group that no longer answers
    distributed.destroy_process_group()


def _portable(error: BaseException) -> BaseException:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return FollowerError(f"{type(error).__name__}: {error}")
    return error
