"""What becomes of a run on several devices when something goes wrong in one of its processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from torch import distributed

from anomaly_bench.bench import devices as devices_module
from anomaly_bench.bench.devices import Group, LostDeviceError, Work, gathered
from anomaly_bench.errors import UserError


def refuse() -> NoReturn:
    raise UserError("this follower has no data; give it some.")


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def fail_amid_an_exchange() -> Work:
    def work(group: Group) -> None:
        raise MemoryError("not enough")

    return work


def let_the_last_die() -> Work:
    def work(group: Group) -> None:
        if group.rank == group.size - 1:
            die()
        distributed.barrier()

    return work


def let_the_last_fail() -> Work:
    def work(group: Group) -> None:
        if group.rank == group.size - 1:
            raise MemoryError("not enough")
        distributed.barrier()

    return work


def do_nothing() -> Work:
    def work(group: Group) -> None:
        pass

    return work


@pytest.mark.slow
def test_what_goes_wrong_in_a_follower_is_raised_in_its_leader() -> None:
    with pytest.raises(UserError, match="this follower has no data"), gathered(2, refuse):
        raise AssertionError("there is no group")
    with pytest.raises(LostDeviceError, match="killed by SIGKILL"), gathered(2, die):
        raise AssertionError("there is no group")
    with pytest.raises(MemoryError, match="not enough"), gathered(2, fail_amid_an_exchange):
        distributed.barrier()
    assert not distributed.is_initialized()


@pytest.mark.slow
def test_of_three_processes_the_one_that_died_or_failed_is_named_and_no_echo_of_it() -> None:
    with pytest.raises(LostDeviceError, match="killed by SIGKILL"), gathered(3, let_the_last_die):
        distributed.barrier()
    with pytest.raises(MemoryError, match="not enough"), gathered(3, let_the_last_fail):
        distributed.barrier()
    assert not distributed.is_initialized()


@pytest.mark.slow
def test_a_follower_whose_work_is_done_is_not_blamed_for_what_goes_wrong_in_its_leader() -> None:
    with pytest.raises(RuntimeError, match="of the leader's own"), gathered(2, do_nothing):
        raise RuntimeError("of the leader's own")


def test_a_leader_that_would_wait_for_ever_for_a_dead_follower_is_ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dead: Any = SimpleNamespace(process=multiprocessing.get_context("fork").Process(target=os._exit, args=(3,)))
    dead.process.start()
    statuses: list[int] = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    monkeypatch.setattr(devices_module, "ENDED_WITHIN", 0.0)
    left = threading.Event()
    devices_module._end_if_stuck([dead], left)
    assert statuses == [1]
    assert "one of the run's processes has died" in capsys.readouterr().err
    left.set()
    devices_module._end_if_stuck([dead], left)
    assert statuses == [1]
