"""Very large images: read in bounded memory, however many threads there are."""

from __future__ import annotations

import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import pytest

from anomaly_bench.data.images import PixelBudget

PEAK = """
import sys
from pathlib import Path
from anomaly_bench.data.images import parallel, read_image, read_mask
def highest():  # kB; not `getrusage`, whose peak a process has from the one that started it
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1])
before = highest()
paths = [Path(name) for name in sys.argv[1:]]
image, mask = parallel(lambda path: (read_mask if "mask" in path.name else read_image)(path, 64), paths)
assert image.full_size == mask.full_size == (12000, 12000), image.full_size
assert (image.pixels == (7, 0, 0)).all() and mask.share == 0.5 and mask.pixels.mean() == 0.5
print((highest() - before) // 1024)
"""


def write_rows(path: Path, side: int, colour_type: int, rows: list[tuple[int, bytes]]) -> Path:
    """A square PNG of 8 bits from (count, row) pairs, never held in memory whole."""
    deflate = zlib.compressobj(1)
    content = b"".join(deflate.compress(b"\0" + row) for count, row in rows for _ in range(count)) + deflate.flush()
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, colour_type, 0, 0, 0)),
        (b"IDAT", content),
        (b"IEND", b""),
    ]
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, chunk in chunks:
            file.write(struct.pack(">I", len(chunk)) + kind + chunk + struct.pack(">I", zlib.crc32(kind + chunk)))
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_an_image_and_a_mask_of_12000x12000_are_read_in_bounded_memory(tmp_path: Path) -> None:
    side = 12000
    image = write_rows(tmp_path / "image.png", side, 2, [(side, b"\7\0\0" * side)])
    mask = write_rows(tmp_path / "mask.png", side, 0, [(side // 2, b"\1" * side), (side // 2, b"\0" * side)])
    command = [sys.executable, "-c", PEAK, str(image), str(mask)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert printed.stderr == "", "Pillow's warning about large images is not for the user"
    assert int(printed.stdout) < 650, "MB; the image alone has 576 in Pillow, and waits for no copy of itself"


def test_threads_together_hold_no_more_pixels_than_the_budget_and_a_larger_image_is_read_alone() -> None:
    budget, held, seen, lock = PixelBudget(100), [], [], threading.Lock()

    def hold(pixels: int) -> None:
        with budget.reserve(pixels):
            with lock:
                held.append(pixels)
                seen.append(sorted(held))
            time.sleep(0.01)
            with lock:
                held.remove(pixels)

    threads = [threading.Thread(target=hold, args=(pixels,)) for pixels in (40, 300, 60, 30, 101, 50, 40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert sorted(pixels for [pixels] in ([max(together)] for together in seen if max(together) > 100)) == [101, 300]
    assert all(len(together) == 1 or sum(together) <= 100 for together in seen)
    assert any(len(together) > 1 for together in seen)
    assert budget.free == 100
