"""A Ray cluster of two nodes, one of which is lost in the middle.

The cluster is started as a user would:

    ray start --head --port 6379 --num-cpus 1
    ray start --address 127.0.0.1:6379 --num-cpus 1        # on every other machine
    RAY_ADDRESS=127.0.0.1:6379 anomaly-bench table ... --launcher ray --workers 2
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.bench.launch.suite import RUNS, processes, records, start

pytest.importorskip("ray", reason="needs the extra `ray`")
pytestmark = pytest.mark.slow


@dataclass
class Cluster:
    """Two nodes; `second` is the process group of the one that can be killed."""

    address: str
    second: subprocess.Popen[bytes]


def ray(*words: str) -> list[str]:
    return [str(Path(sys.executable).with_name("ray")), *words]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")
    shared = ["--num-cpus", "1", "--object-store-memory", str(100 << 20), "--block"]
    head = ["--head", "--port", address.split(":")[1], "--include-dashboard", "false"]
    log = (tmp_path / "ray.log").open("wb")
    nodes = [
        subprocess.Popen(ray("start", *words, *shared), stdout=log, stderr=log, start_new_session=True)
        for words in (head, ["--address", address])
    ]
    monkeypatch.setenv("RAY_ADDRESS", address)
    yield Cluster(address, nodes[1])
    for node in nodes:
        if node.poll() is None:
            os.killpg(node.pid, signal.SIGTERM)
    for node in nodes:
        node.wait(60)
    log.close()


def wait_for_nodes(cluster: Cluster) -> None:
    look = f"import ray; ray.init('{cluster.address}', log_to_driver=False); print(ray.cluster_resources().get('CPU'))"
    for _ in range(60):
        seen = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=False)
        if seen.stdout.strip() == "2.0":
            return
        time.sleep(1)
    raise AssertionError(seen.stderr)


def test_a_table_survives_the_loss_of_a_node(cluster: Cluster, data_root: Path, tmp_path: Path) -> None:
    wait_for_nodes(cluster)
    results = tmp_path / "results"
    process = start(results, data_root, "--launcher", "ray", "--workers", "2")
    while len(list(results.glob("runs/.*.lock"))) < 2:  # both nodes are at work
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    os.killpg(cluster.second.pid, signal.SIGKILL)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    assert f"[{RUNS} of {RUNS}]" in output
    assert len(records(results)) == RUNS
    assert not [path for path in (results / "runs").iterdir() if path.name.startswith(".")]


def test_a_cluster_that_does_not_answer_is_one_sentence(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    process = start(tmp_path, data_root, "--launcher", "ray")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2, output
    assert "error: the Ray cluster does not answer" in output
    assert "Traceback" not in output
    assert processes(tmp_path) == []
