"""How much memory is free, for this process and not only for the machine; and giving back what nothing uses."""

from __future__ import annotations

import ctypes
import gc
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch

# What PyTorch says without a GPU, and what CUDA and its libraries say by themselves: as a RuntimeError.
NO_MEMORY = (
    "not enough memory",
    "can't allocate memory",
    "Storage size calculation overflowed",
    "CUDA error: out of memory",
    "STATUS_ALLOC_FAILED",
)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
LARGEST_BLOCK = 2**30  # bytes; all that a step asks for is smaller
LARGEST_OF_OLD = 2**25
CONTROL_GROUPS = Path("/sys/fs/cgroup")
# By the hierarchy's version: the folder of its memory controller, and the files of limit and use.
FILES = {2: ("", "memory.max", "memory.current"), 1: ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes")}


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had on `device`: of a GPU its own, else the machine's, or less under a job's limit."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        reserved, allocated = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
        share = int(total * torch.cuda.get_per_process_memory_fraction(device))  # a worker's, where several share it
        return min(free, share - reserved) + reserved - allocated  # PyTorch keeps what was freed for the next to ask
    return min([_machine_memory(Path("/proc/meminfo")), *_group_memory(Path("/proc/self/cgroup"), CONTROL_GROUPS)])


def keep_freed_memory() -> None:
    """From now on the C library keeps large blocks for the next step, and does not give them back to the system, which
    would fill them with zeros again: RD trains 1.1 times as fast on a CPU. Only GNU's library can be told, and what the
    user has told it stays."""
    library = _gnu_library()
    told = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & set(os.environ)
    if library is None or told or "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", ""):
        return
    # Older ones refuse blocks so large; and either threshold, once set, ends the other's growing by itself.
    if library.mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK) or library.mallopt(M_MMAP_THRESHOLD, LARGEST_OF_OLD):
        library.mallopt(M_TRIM_THRESHOLD, LARGEST_BLOCK)


def is_for_memory(error: Exception) -> bool:
    """Whether it says that there was too little memory."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in str(error) for words in NO_MEMORY)


def give_memory_back() -> None:
    """What a training in this process held that is over: its parts refer to each other, so that they outlive it until
    they are looked for, and PyTorch keeps a GPU's memory in pieces of the sizes that it had."""
    gc.collect()
    torch.cuda.empty_cache()  # does nothing where CUDA was not started
    if library := _gnu_library():
        library.malloc_trim(0)


@cache
def _gnu_library() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None) if os.name == "posix" else None
    return library if library is not None and hasattr(library, "gnu_get_libc_version") else None


def _machine_memory(meminfo: Path) -> int:
    """What Linux says can be had without swapping; elsewhere all there is."""
    if not meminfo.exists():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 1024 * int(_number(r"MemAvailable:\s*(\d+)", meminfo.read_text()))


def _group_memory(memberships: Path, groups: Path) -> Iterator[int]:
    """What the limits of the process's control groups leave, such as a container's or a batch job's; file pages that
    would give way count as free."""
    lines = memberships.read_text().splitlines() if memberships.exists() else []
    for line in lines:
        hierarchy, controllers, path = line.split(":", 2)
        version = 2 if hierarchy == "0" else 1
        if version == 1 and "memory" not in controllers.split(","):
            continue
        root, limit_name, use_name = FILES[version]
        own = groups / root / path.lstrip("/")
        for folder in {own, groups / root}:  # a container sees its own group as the root
            limit = folder / limit_name
            if limit.exists() and (most := limit.read_text().strip()) != "max":
                pages = _number(r"^(?:total_)?inactive_file (\d+)", (folder / "memory.stat").read_text())
                yield int(most) - int((folder / use_name).read_text()) + pages


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text, re.MULTILINE)
    return int(found[1]) if found else 0
