"""The reader of W&B's files may meet one that W&B's own process is still writing."""

from __future__ import annotations

import struct
import zlib

import pytest

from tests.wandb_folder import BLOCK, FILE_HEADER, MAGIC, whole_records

WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def log(records: list[bytes]) -> bytes:
    """LevelDB's log, written as its description has it: no chunk crosses a block of 32 KiB."""
    data = MAGIC.ljust(FILE_HEADER, b"\0")
    for record in records:
        rest, begun = record, False
        while True:
            left = BLOCK - len(data) % BLOCK
            if left < 7:
                data += bytes(left)
                continue
            part, rest = rest[: left - 7], rest[left - 7 :]
            kind = (MIDDLE if begun else FIRST) if rest else (LAST if begun else WHOLE)
            text = bytes([kind]) + part
            data += struct.pack("<IH", zlib.crc32(text), len(part)) + text
            begun = True
            if not rest:
                break
    return data


@pytest.mark.parametrize("unwritten", [b"", bytes(BLOCK)], ids=["short", "zeros"])
def test_a_file_that_is_still_being_written_reads_as_the_records_that_are_whole(unwritten: bytes) -> None:
    records = [b"a", b"b" * 200, b"c" * (BLOCK - 240), b"d" * (2 * BLOCK), b"e" * 50]
    data = log(records)
    assert list(whole_records(data)) == records
    seen = set()
    for end in range(FILE_HEADER, len(data), 29):
        read = list(whole_records(data[:end] + unwritten))
        assert read == records[: len(read)]
        seen.add(len(read))
    assert seen == set(range(len(records)))
