"""The commands of data: `data fetch` and `data check`."""

from __future__ import annotations

import json
from pathlib import Path

from jsonargparse import Namespace


def fetch_command(fetch: Namespace) -> int:
    """`anomaly-bench data fetch`."""
    from anomaly_bench.bench.catalog import load_dataset
    from anomaly_bench.data.fetch import fetch_data_set

    fetch_data_set(load_dataset(fetch.dataset), Path(fetch.data_root), url=fetch.url, sha256=fetch.sha256,
                   allow_unverified=fetch.allow_unverified_data, say=lambda line: print(line, flush=True))  # fmt: skip
    return 0


def check_command(check: Namespace) -> int:
    """`anomaly-bench data check`."""
    from anomaly_bench.bench.catalog import load_dataset
    from anomaly_bench.data.check import check_data_set, report_lines

    dataset = load_dataset(check.dataset)
    reports = check_data_set(dataset, Path(check.data_root), allow_unverified=check.allow_unverified_data)
    if check.json:
        print(json.dumps([report.as_json() for report in reports], indent=2))
    else:
        print("\n".join(report_lines(reports)))
    return 0 if all(report.sound for report in reports) else 1
