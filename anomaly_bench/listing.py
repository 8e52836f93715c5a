"""`anomaly-bench list`: methods with their options, data sets, tables, runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from anomaly_bench.bench.catalog import dataset_names, load_method, method_names
from anomaly_bench.bench.store import Failure, Store


def lines(what: str, store: Store) -> Iterator[str]:
    """The lines of one list, `methods`, `datasets`, `tables` or `runs`."""
    if what == "methods":
        for name in method_names():
            yield from _method(name)
        yield from _common()
    elif what == "datasets":
        yield from dataset_names()
    elif what == "tables":
        yield from _tables()
    else:
        for entry in store:
            shown = f"failed: {entry.reason}" if isinstance(entry, Failure) else _metrics(entry.metrics)
            protocol = entry.spec.protocol
            yield f"{entry.spec.run_id}  {entry.spec.title}  {protocol.teacher}, {protocol.epochs} epochs  {shown}"


def _method(name: str) -> Iterator[str]:
    from anomaly_bench.bench.resolve import option_defaults, option_types, readable

    method = load_method(name)
    yield f"{name}: {(method.__doc__ or '').splitlines()[0]}"
    types = option_types(method)
    for option, default in option_defaults(method).items():
        yield f"  {option}={default}  ({readable(types[option])})"
    yield "  protocol: " + ", ".join(f"{key}={value}" for key, value in asdict(method.protocol).items())


def _common() -> Iterator[str]:
    """What `--set` takes whatever the method."""
    from anomaly_bench.bench.resolve import EVALUATION, SUBSET, readable
    from anomaly_bench.bench.spec import EvalSpec

    yield "every method, beside its protocol:"
    for name, hint in EVALUATION.items():
        yield f"  {name}={getattr(EvalSpec(), name)}  ({readable(hint)}; evaluation, never retrains)"
    for name, hint in SUBSET.items():
        yield f"  {name}=all  ({readable(hint)})"


def _tables() -> Iterator[str]:
    from anomaly_bench.tables.spec import load_table, table_names

    for name in table_names():
        yield f"{name}: {load_table(name).title}"


def _metrics(metrics: dict[str, float | None]) -> str:
    keys = ("image_auroc", "pixel_auroc", "aupro")
    return "  ".join(f"{key} {'-' if metrics[key] is None else format(metrics[key], '.4f')}" for key in keys)
