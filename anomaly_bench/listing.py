"""What the terminal shows of methods, peers, data sets, tables and runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from anomaly_bench.bench.catalog import dataset_names, load_method, method_names, peer_names
from anomaly_bench.bench.recall import recalled
from anomaly_bench.bench.spec import as_set
from anomaly_bench.bench.store import Failure, Record, Store
from anomaly_bench.methods.options import OURS, STATED, option_sources

if TYPE_CHECKING:
    from anomaly_bench.methods.base import DistillationMethod
    from anomaly_bench.methods.protocol import Protocol


def lines(what: str, store: Store) -> Iterator[str]:
    """The lines of one list, `methods`, `peers`, `datasets`, `tables` or `runs`."""
    if what == "methods":
        for name in method_names():
            yield from _recalled_method(name)
        yield from _common()
    elif what == "peers":
        for name in peer_names():
            yield from _recalled_method(name)
    elif what == "datasets":
        yield from dataset_names()
    elif what == "tables":
        yield from _tables()
    else:
        for entry in store:
            shown = f"failed: {entry.reason}" if isinstance(entry, Failure) else _metrics(entry)
            yield f"{entry.spec.run_id}  {entry.spec.title}  {_described(entry.spec.protocol)}  {shown}"


def _recalled_method(name: str) -> list[str]:
    answer: list[str] = recalled(["method", name], lambda: list(_method(name)))
    return answer


def _method(name: str) -> Iterator[str]:
    """Options, protocol and evaluation of one method: value, type, and where the value comes from."""
    from anomaly_bench.bench.resolve import EVALUATION, known_settings, option_defaults, own_evaluation, readable

    method = load_method(name)
    yield f"{name}: {(method.__doc__ or '').splitlines()[0]}"
    types, sources = known_settings(method), option_sources(method.__init__)
    for option, default in option_defaults(method).items():
        yield f"  {option}={as_set(default)}  ({readable(types[option])}; {sources[option]})"
    for option, value in asdict(method.protocol).items():
        if option in types:
            yield f"  {option}={as_set(value)}  ({readable(types[option])}; protocol, {_source(method, option)})"
    for option, hint in EVALUATION.items():
        value = getattr(own_evaluation(name), option)
        yield f"  {option}={as_set(value)}  ({readable(hint)}; evaluation, never retrains, {_source(method, option)})"


def _source(method: type[DistillationMethod], field: str) -> str:
    """Where a value of the protocol or of the evaluation comes from."""
    if field in method.stated:
        return f"{STATED}, the weights' release {OURS}" if field in ("teacher", "student") else STATED
    return method.released_by if field in method.released else OURS


def _common() -> Iterator[str]:
    """What `--set` takes whatever the method."""
    from anomaly_bench.bench.resolve import SUBSET, readable

    yield "every method:"
    for name, hint in SUBSET.items():
        yield f"  {name}=null  ({readable(hint)}; null for all)"


def _tables() -> Iterator[str]:
    from anomaly_bench.tables.spec import load_table, table_names

    for name in table_names():
        yield f"{name}: {load_table(name).title}"


def _described(protocol: Protocol) -> str:
    """Networks, epochs, rates, image size and precision in one line."""
    size = f"{protocol.image_size}x{protocol.image_size}"
    rates = f"learning rate {protocol.lr:g}, weight decay {protocol.weight_decay:g}"
    return f"{protocol.summary}, {rates}, {size}, {protocol.precision}"


def _metrics(record: Record) -> str:
    from anomaly_bench.bench.caveats import caveats
    from anomaly_bench.bench.few_images import shown_metrics

    metrics, _ = shown_metrics(record, record.evaluation)
    keys = ("image_auroc", "pixel_auroc", "aupro")
    shown = "  ".join(f"{key} {'-' if metrics[key] is None else format(metrics[key], '.4f')}" for key in keys)
    return "  ".join([shown, *(f"[{caveat}]" for caveat in caveats(record, record.evaluation))])


def run_lines(record: Record, eval_id: str) -> Iterator[str]:
    """What `run` says of a finished run: how it was trained, its metrics, and how far they are comparable."""
    from anomaly_bench.bench.caveats import caveats
    from anomaly_bench.bench.few_images import shown_metrics

    yield f"  {_described(record.spec.protocol)}"
    yield from metric_lines(*shown_metrics(record, eval_id))
    for caveat in caveats(record, eval_id):
        yield f"  note: {caveat}"


def metric_lines(metrics: Mapping[str, float | None], undefined: Mapping[str, str]) -> Iterator[str]:
    """Every metric with four decimals, or why it is undefined."""
    from anomaly_bench.metrics import METRIC_KEYS

    for name in METRIC_KEYS:
        value = metrics[name]
        yield f"  {name:<14}{'undefined: ' + undefined[name] if value is None else format(value, '.4f')}"
