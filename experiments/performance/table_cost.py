"""How long does each table take on this machine?

The training step of every kind of run (method, networks, batch and image size; options at their defaults, random
weights) is timed here on random images, one kind after the other; a run takes its epochs times its category's official
training images over the batch of such steps. So what a table takes is calculated from measured steps: decoding,
evaluation and the start of the process are left out, which add seconds to each run. A run that tables share is counted
in each of them, and once in the last row.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from machine import device, device_slug, hardware
from rows import publish
from techniques import PRODUCT, training_step
from torch import Tensor

from anomaly_bench.bench.catalog import load_dataset, load_method
from anomaly_bench.bench.execute import build_method, find_networks
from anomaly_bench.bench.profiles import load_profile
from anomaly_bench.bench.spec import RunSpec
from anomaly_bench.tables.suite import suite_runs

Kind = RunSpec  # with everything that does not decide a step's time at one value


def main() -> int:
    """Measure, print a line for each kind and each table, write the CSV if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profiles", nargs="+", default=["lite", "paper"], help="one row a table for each")
    parser.add_argument("--repeats", type=int, default=3, help="steps of each kind, after one; medians are reported")
    parser.add_argument("--out", type=Path, help="folder of the CSV; none is written without")
    options = parser.parse_args()
    rows = [row for profile in options.profiles for row in table_rows(profile, options.repeats)]
    publish(f"table_cost_{device_slug()}", rows, options.out)
    return 0


def table_rows(profile: str, repeats: int) -> list[dict[str, Any]]:
    """One row a table that trains anything, and one for all of them."""
    suite = suite_runs(load_profile(profile), Path("datasets"))
    specs = {table: list(dict.fromkeys(run.spec for run in runs)) for table, runs in suite.items() if runs}
    distinct = list(dict.fromkeys(spec for table in specs.values() for spec in table))
    seconds = step_seconds(dict.fromkeys(map(kind_of, distinct)), repeats)
    hours = {spec: steps(spec) * seconds[kind_of(spec)] / 3600 for spec in distinct}
    return [row(profile, table, needed, hours) for table, needed in {**specs, "all, each run once": distinct}.items()]


def row(profile: str, table: str, specs: list[RunSpec], hours: dict[RunSpec, float]) -> dict[str, Any]:
    """One line of the CSV."""
    return {
        "profile": profile,
        "table": table,
        "runs": len(specs),
        "hours": round(sum(hours[spec] for spec in specs), 1),
        **hardware(),
    }


def kind_of(spec: RunSpec) -> Kind:
    """The spec of which one step is timed for all that are alike."""
    networks: dict[str, Any] = {
        role: f"{name.partition('.')[0]}.random" for role, name in spec.protocol.networks.items()
    }
    protocol = replace(spec.protocol, epochs=1, **networks)
    return replace(spec, dataset="synthetic", data_revision=0, category="", protocol=protocol, options=(), seed=0)


def steps(spec: RunSpec) -> int:
    """Training steps of a run on its whole category."""
    official = load_dataset(spec.dataset).official(spec.category)
    assert official is not None
    return spec.protocol.epochs * math.ceil(official.counts.train / spec.protocol.batch_size)


def step_seconds(kinds: Iterable[Kind], repeats: int) -> dict[Kind, float]:
    """Median seconds of a training step as the product does it, teacher's features cached where a run caches them."""
    found = {}
    for kind in kinds:
        step = step_of(kind)
        step()
        found[kind] = statistics.median(timed(step) for _ in range(repeats))
        protocol = kind.protocol
        print(f"{kind.method} {protocol.teacher} {protocol.student} batch {protocol.batch_size}: {found[kind]:.3f} s")
    return found


def step_of(kind: Kind) -> Callable[[], Tensor]:
    """A training step on one batch of random images."""
    protocol = kind.protocol
    shape = (protocol.batch_size, 3, protocol.image_size, protocol.image_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8).to(device())
    method = build_method(kind, find_networks(kind, None)).to(device()).train()
    return training_step(replace(PRODUCT, cache=load_method(kind.method).cacheable), method, images)


def timed(step: Callable[[], Tensor]) -> float:
    """Seconds of one call; reading the loss waits for the device."""
    start = time.perf_counter()
    float(step())
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
