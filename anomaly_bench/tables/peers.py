"""A table with its peers measured too: lines that are otherwise only quoted, run under the same protocol as ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from anomaly_bench.bench.catalog import peer_names
from anomaly_bench.bench.store import Record
from anomaly_bench.errors import UserError
from anomaly_bench.tables.spec import Line, TableSpec

# Methods that anomalib has and that are no peers here, and why.
UNFIT = {"DRAEM": "it learns from photographs of textures that are downloaded, and has no teacher"}


def with_peers(table: TableSpec) -> TableSpec:
    """The same table, where each line that names a peer is measured; printed and measured are not compared.

    The printed numbers of a peer are copied from paper to paper, from settings that the table's paper does not give.

    Raises:
        UserError: no line names a peer.
    """
    rows, columns = _measured(table.rows), _measured(table.columns)
    if (rows, columns) == (table.rows, table.columns):
        raise UserError(f"{table.name} compares with no method that anomalib has; leave --peers out.")
    with_them = replace(table, rows=rows, columns=columns, peers=True, title=f"{table.title}, with measured peers")
    return replace(with_them, notes=(*_remarks(with_them), *table.notes))


def _measured(lines: Sequence[Line]) -> tuple[Line, ...]:
    return tuple(
        replace(line, query=line.peer.over(line.query), compare=False) if line.peer else line for line in lines
    )


def _remarks(table: TableSpec) -> list[str]:
    """What the reader must know of the lines that are measured, and of those that stay quoted."""
    names = [line.name for line in (*table.rows, *table.columns) if line.peer]
    remarks = [
        f"Peers ({', '.join(names)}) are anomalib's models with anomalib's settings, on the data, the teacher's "
        "weights and the metrics of all the others. The printed numbers beside them are from other settings, so no "
        "difference is given."
    ]
    quoted = _never_measured(table)
    unfit = [f"{name} ({UNFIT[method]})" for name in quoted for method in [name.partition(" ")[0]] if method in UNFIT]
    lacking = [name for name in quoted if name.partition(" ")[0] not in UNFIT]
    remarks += [f"Only quoted, for anomalib has no such method: {', '.join(lacking)}."] if lacking else []
    return [*remarks, f"Only quoted, although anomalib has it: {', '.join(unfit)}."] if unfit else remarks


def _never_measured(table: TableSpec) -> list[str]:
    """Names of the rows and columns without a single measurable cell."""
    rows = [row.name for row in table.rows if not any(table.query(row, c).measurable for c in table.columns)]
    columns = [c.name for c in table.columns if not any(table.query(row, c).measurable for row in table.rows)]
    return [*rows, *columns]


def peer_versions(records: Sequence[Record]) -> dict[str, list[str]]:
    """Measured peers by the version of anomalib that they were measured with."""
    versions: dict[str, set[str]] = {}
    for record in records:
        if record.spec.method in peer_names():
            versions.setdefault(record.provenance["versions"]["anomalib"], set()).add(record.spec.method)
    return {version: sorted(versions[version]) for version in sorted(versions)}
