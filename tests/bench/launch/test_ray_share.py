"""What each of several tasks asks for, that a Ray cluster has room for all of them."""

from __future__ import annotations

import pytest

from anomaly_bench.bench.launch.on_ray import task_share
from anomaly_bench.errors import UserError

Node = dict[str, float]


def node(cpus: float, gpus: float = 0.0) -> Node:
    """As Ray describes it: what there is none of has no entry."""
    held = {"CPU": cpus, "GPU": gpus}
    return {"memory": 1e10, **{name: count for name, count in held.items() if count}}


@pytest.mark.parametrize(
    ("nodes", "workers", "cpus", "gpus"),
    [
        ([node(4), node(16), node(16)], 1, 16, 0),  # no node has the sum of all
        ([node(16)] * 3, 2, 16, 0),
        ([node(16)] * 3, 4, 8, 0),
        ([node(32), node(16, 2)], 2, 8, 1),  # both where the GPUs are
        ([node(32), node(16, 2)], 1, 16, 2),
        ([node(1), node(1)], 2, 1, 0),
        ([node(2)], 3, 0.6666, 0),
        ([node(1)], 3, 0.3333, 0),
        ([node(8, 1)], 4, 2, 0.25),
        ([node(16, 2)], 3, 5, 0.5),  # two thirds of a GPU would leave the third task none
        ([node(16, 4), node(16, 1)], 3, 8, 1),
        ([node(0.5), node(0.5)], 2, 0.5, 0),
        ([node(4), node(0, 2)], 2, 2, 0),  # a GPU without a core is of no use
        ([node(0), node(3)], 2, 1, 0),
        ([node(7, 1)], 7, 1, 0.1428),
    ],
)
def test_all_tasks_fit_on_the_nodes_there_are(nodes: list[Node], workers: int, cpus: float, gpus: float) -> None:
    share = task_share(nodes, workers)
    assert share == {"num_cpus": cpus, "num_gpus": gpus}
    assert all(part < 1 or isinstance(part, int) for part in share.values())  # as Ray wants it


@pytest.mark.parametrize("nodes", [[], [node(0)], [node(0, 2)]])
def test_a_cluster_without_a_cpu_is_one_sentence(nodes: list[Node]) -> None:
    with pytest.raises(UserError, match="no node of the Ray cluster has a CPU for a run; start one"):
        task_share(nodes, 2)
