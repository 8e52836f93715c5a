"""Reads an offline W&B run back from its folder: what was logged, not what was meant to be."""

from __future__ import annotations

import json
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as wire

MAGIC = b":W&B"
# LevelDB's log. A chunk's header is its checksum (of kind and text), length and kind.
FILE_HEADER, BLOCK, CHUNK_HEADER = 7, 1 << 15, struct.Struct("<IHB")
LAST_CHUNKS = (1, 4)  # a record in one chunk, the last of several


@dataclass
class LoggedRun:
    """One W&B run; keys of nested values are joined by dots."""

    folder: Path
    run: wire.RunRecord = field(default_factory=wire.RunRecord)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, dict[str, str]] = field(default_factory=dict)  # by name: its files
    exit_code: int | None = None

    def rows(self, key: str) -> list[dict[str, Any]]:
        """A `wandb.Table`, a dictionary a row."""
        files = [files for files in self.artifacts.values() if f"{key}.table.json" in files]
        table = json.loads(Path(files[0][f"{key}.table.json"]).read_text())
        return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def read_runs(results: Path) -> list[LoggedRun]:
    """Every run below `<results>/wandb`, in the order in which they were started."""
    folders = sorted((results / "wandb").glob("offline-run-*"))
    return sorted(map(_read_to_the_end, folders), key=lambda run: run.run.start_time.ToNanoseconds())


def _read_to_the_end(folder: Path) -> LoggedRun:
    """W&B's own process writes the end of the file a while after `finish` has returned."""
    patience = time.monotonic() + 60
    while (logged := _read(folder)).exit_code is None:
        assert time.monotonic() < patience, f"{folder} has no end"
        time.sleep(0.05)
    return logged


def _read(folder: Path) -> LoggedRun:
    logged = LoggedRun(folder)
    for text in whole_records(next(folder.glob("*.wandb")).read_bytes()):
        record = wire.Record.FromString(text)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            logged.run = record.run
            logged.config |= _values(record.run.config.update)
        elif kind == "history":
            logged.history.append(_values(record.history.item))
        elif kind == "summary":
            logged.summary |= _values(record.summary.update)
        elif kind == "request" and record.request.HasField("log_artifact"):
            _add_artifact(logged, record.request.log_artifact.artifact)
        elif kind == "artifact":
            _add_artifact(logged, record.artifact)
        elif kind == "exit":
            logged.exit_code = record.exit.exit_code
    return logged


def _add_artifact(logged: LoggedRun, artifact: wire.ArtifactRecord) -> None:
    logged.artifacts[artifact.name] = {entry.path: entry.local_path for entry in artifact.manifest.contents}


def _values(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def whole_records(data: bytes) -> Iterator[bytes]:
    """The records that are wholly there: what is still being written ends in a chunk that is not."""
    assert MAGIC.startswith(data[: len(MAGIC)])
    position, record = FILE_HEADER, b""
    while position + CHUNK_HEADER.size <= len(data):
        left = BLOCK - position % BLOCK
        if left < CHUNK_HEADER.size:
            position += left
            continue
        checksum, length, kind = CHUNK_HEADER.unpack_from(data, position)
        start, end = position + CHUNK_HEADER.size, position + CHUNK_HEADER.size + length
        if zlib.crc32(data[start - 1 : end]) != checksum:
            return
        record += data[start:end]
        position = end
        if kind in LAST_CHUNKS:
            yield record
            record = b""
