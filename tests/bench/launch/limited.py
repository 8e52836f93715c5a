"""A smoke table of two runs whose batch is large, in this process, which may take so much memory.

python -m tests.bench.launch.limited BATCH MEBIBYTES OPTION ...     # 0: as much as there is
"""

from __future__ import annotations

import re
import resource
import sys
from dataclasses import replace
from pathlib import Path

from anomaly_bench.bench.profiles import PROFILES
from anomaly_bench.cli import main

IMAGES = 32


def most_memory() -> int:
    """MiB of addresses that this process had at any time."""
    found = re.search(r"VmPeak:\s*(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) // 1024


if __name__ == "__main__":
    batch, limit, options = int(sys.argv[1]), int(sys.argv[2]) << 20, sys.argv[3:]
    sizes = {"batch_size": batch, "image_size": 256, "epochs": 1, "train_images": IMAGES, "test_images": 4}
    smoke = PROFILES["smoke"]
    PROFILES["smoke"] = replace(
        smoke, settings={**smoke.settings, **sizes, "precision": "32-true"}, categories=("brick",)
    )
    if limit:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    # Without the cache the teacher's activations come and go with the batch, as the student's do.
    status = main(["table", "fmm_scsatt/table5", "--profile", "smoke", "--no-feature-cache", *options])
    print(f"took {most_memory()} MiB")
    sys.exit(status)
