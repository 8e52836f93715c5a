"""Decoded images kept between runs, so that a suite decodes a category once and not for every run.

Entry     `<what was decoded>-<checksum>.decoded` in the cache folder, in safetensors' format. The first part hashes the
          path, size and times of change of every file, so an entry whose files have changed is never asked for again.
Safety    Written aside and renamed. An entry that is cut short or altered, so that its checksum is another, is removed
          and made anew. A folder that cannot be written to costs a line of warning and the time to decode.
Bound     `MOST_BYTES` for all entries; those that were not used for longest go first.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import xxhash
from safetensors.torch import load, save
from torch import Tensor

MOST_BYTES = 8 * 2**30  # MVTec AD, BTAD and CIFAR-10 together at 256x256 need about 2.5 GB
ENDING = ".decoded"
logger = logging.getLogger(__name__)


def fingerprint(facts: Iterable[object], paths: Iterable[Path]) -> str:
    """Hash of `facts` and of each file's path, size and times of change; reads no file."""
    lines = [repr(fact) for fact in facts]
    for path in sorted(set(paths)):
        try:
            stat = path.stat()
            lines.append(f"{path.absolute()!r} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}")
        except OSError:  # whoever decodes it says so
            lines.append(f"{path.absolute()!r} unreadable")
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def cached(folder: Path | None, key: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What `make()` gives, from the cache where it is; `key` is a `fingerprint`; no cache where `folder` is None."""
    if folder is None:
        return make()
    found = _load(folder, key)
    if found is not None:
        return found
    made = make()
    try:
        _save(folder, key, made)
    except OSError as error:
        logger.warning(
            "decoded images cannot be kept in %s (%s); the next run decodes them again", folder, error.strerror
        )
    return made


def _load(folder: Path, key: str) -> dict[str, Tensor] | None:
    for path in folder.glob(f"{key}-*{ENDING}"):
        try:
            content = path.read_bytes()
            if path.name == _entry_name(key, content):
                os.utime(path)  # used now
                return load(content)
            logger.warning("%s is damaged; the images are decoded again", path)
            path.unlink()
        except OSError as error:
            logger.warning("%s cannot be used (%s); the images are decoded again", path, error.strerror)
    return None


def _save(folder: Path, key: str, tensors: dict[str, Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = save(tensors)
    _make_room(folder, MOST_BYTES - len(content))
    aside = folder / f"{key}.{os.getpid()}{ENDING}-partial"
    try:
        aside.write_bytes(content)
        aside.replace(folder / _entry_name(key, content))
    finally:
        aside.unlink(missing_ok=True)


def _entry_name(key: str, content: bytes) -> str:
    return f"{key}-{xxhash.xxh3_128_hexdigest(content)}{ENDING}"


def _make_room(folder: Path, most_bytes: int) -> None:
    """Remove what was not used for longest, left-overs of killed processes too, until the rest fits."""
    found = []
    for path in folder.glob(f"*{ENDING}*"):
        with suppress(FileNotFoundError):  # another process makes room too
            found.append((path.stat().st_mtime, path.stat().st_size, path))
    used = 0
    for _, size, path in sorted(found, reverse=True):
        used += size
        if used > most_bytes:
            path.unlink(missing_ok=True)
