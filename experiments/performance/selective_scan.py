"""How fast is the chunked selective scan, forward and with its backward, beside a bare loop over the steps?

All three run in this process, in turn, on the same random sequences of DLKD's three scales (4 directions, 16 states,
images of 256x256), for one sample and for a batch of eight. The loop keeps nothing for a backward. Peak memory is what
a call allocates beyond its arguments, taken in a call of its own. Exit status 1 if loop and scan differ by more than
1e-4 of the largest value.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from metrics_panel import timed
from rows import publish
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from anomaly_bench.bench.processor import cpu_name
from anomaly_bench.layers.selective_scan import selective_scan

TOLERANCE = 1e-4
DIRECTIONS, STATES = 4, 16
SCALES = ((4096, 512), (1024, 1024), (256, 2048))  # steps, channels of all directions together


def main() -> int:
    """Compare on every scale and batch, print a line for each, write the CSV if asked; 1 if values differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=7, help="runs of each, after one that is not counted")
    parser.add_argument("--out", type=Path, help="folder of the CSV; none is written without")
    options = parser.parse_args()
    rows = []
    for (steps, channels), batch in itertools.product(SCALES, options.batches):
        rows.append(compare(steps, channels, batch, options.repeats))
    publish("selective_scan_cpu", rows, options.out)
    return int(not all(row["max_relative_difference"] <= TOLERANCE for row in rows))


def compare(steps: int, channels: int, batch: int, repeats: int) -> dict[str, Any]:
    """One row: seconds and peak memory of loop, forward, and forward with backward."""
    given = random_sequences(steps, channels, batch)
    calls: dict[str, Callable[[], Tensor]] = {
        "loop": lambda: step_loop(*given),
        "forward": lambda: selective_scan(*given),
        "forward_backward": lambda: forward_backward(given),
    }
    expected, y, _ = (call() for call in calls.values())
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _, (name, call) in itertools.product(range(repeats), calls.items()):
        timed(seconds[name], call)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "steps": steps,
        "channels": channels,
        "states": STATES,
        "batch": batch,
        **{f"seconds_median_{name}": round(value, 4) for name, value in medians.items()},
        **{f"seconds_min_{name}": round(min(values), 4) for name, values in seconds.items()},
        "ratio_loop_to_forward": round(medians["loop"] / medians["forward"], 2),
        "ratio_forward_backward_to_forward": round(medians["forward_backward"] / medians["forward"], 2),
        **{f"peak_mib_{name}": round(peak_bytes(call) / 2**20, 1) for name, call in calls.items()},
        "all_states_mib": steps * channels * STATES * batch * 4 / 2**20,
        "max_relative_difference": float((y - expected).abs().max() / expected.abs().max()),
        "torch": torch.__version__,
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
    }


def random_sequences(steps: int, channels: int, batch: int) -> list[Tensor]:
    """u, delta, a, b, c, d as a fresh model gives them, the same on every call."""
    generator = torch.Generator().manual_seed(0)
    r = channels // DIRECTIONS
    u, b, c = (torch.randn(batch, DIRECTIONS, steps, width, generator=generator) for width in (r, STATES, STATES))
    delta = 10 ** (2 * torch.rand(u.shape, generator=generator) - 3)  # log-uniform from 0.001 to 0.1
    a = -torch.arange(1.0, STATES + 1).expand(DIRECTIONS, r, STATES).clone()
    return [u, delta, a, b, c, torch.ones(DIRECTIONS, r)]


def step_loop(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The recurrence step by step, nothing but its arithmetic."""
    state, inflow, y = torch.zeros(len(u), *a.shape), delta * u, torch.empty_like(u)
    for t in range(u.shape[2]):
        state = torch.exp(delta[:, :, t, :, None] * a) * state + inflow[:, :, t, :, None] * b[:, :, t, None]
        y[:, :, t] = (state * c[:, :, t, None]).sum(3)
    return y + d[:, None] * u


def forward_backward(given: list[Tensor]) -> Tensor:
    """The scan, and the gradients of all its arguments."""
    leaves = [tensor.detach().requires_grad_() for tensor in given]
    y = selective_scan(*leaves)
    torch.autograd.grad(y, leaves, torch.ones_like(y))
    return y


def peak_bytes(call: Callable[[], object]) -> int:
    """The most memory that PyTorch had allocated on the CPU at once during the call."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
    return max(itertools.accumulate(size for _, size in changes))


if __name__ == "__main__":
    sys.exit(main())
