"""Texts in files: JSON that is the same for the same content, and a file that is never half of one."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def to_text(plain: dict[str, Any]) -> str:
    """Sorted JSON, one value a line; NaN is refused."""
    return json.dumps(plain, indent=2, sort_keys=True, allow_nan=False) + "\n"


def write_json(path: Path, plain: dict[str, Any]) -> None:
    path.write_text(to_text(plain), encoding="utf-8")


def replace_text(path: Path, text: str) -> None:
    """Write a file by rename: readers see the old text or the new, never half of one."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    staged = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        staged.chmod(0o644)
        staged.replace(path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
