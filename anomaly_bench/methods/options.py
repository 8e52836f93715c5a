"""Where an option's default comes from: `Stated[float]` is the paper's own value, `Ours[float]` fills a gap."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from anomaly_bench.errors import UserError

T = TypeVar("T")
STATED, OURS = "stated in the paper", "our choice"
Stated = Annotated[T, STATED]
Ours = Annotated[T, OURS]


def option_source(annotation: Any) -> str:
    """`STATED` or `OURS` of an annotation; raises TypeError for one that says neither."""
    for source in getattr(annotation, "__metadata__", ()):
        if source in (STATED, OURS):
            return str(source)
    raise TypeError(f"{annotation} is neither Stated[...] nor Ours[...].")


def option_sources(function: Any) -> dict[str, str]:
    """Where the default of every keyword-only option of a constructor comes from."""
    hints = typing.get_type_hints(function, include_extras=True)
    return {name: option_source(hints[name]) for name in function.__kwdefaults__ or {}}


def check_stages(name: str, stages: Sequence[int], *, may_be_empty: bool = False) -> None:
    """Raise UserError unless `stages` are distinct ones of 1, 2, 3 in rising order."""
    if list(stages) != sorted(set(stages) & {1, 2, 3}) or not (stages or may_be_empty):
        example = "[1,2,3] or [2]" + (" or []" if may_be_empty else "")
        raise UserError(f"{name} must name stages of 1, 2, 3 in rising order, such as {example}, not {list(stages)}.")


def check_share(name: str, value: float) -> None:
    """Raise UserError unless 0 <= value < 1."""
    if not 0 <= value < 1:
        raise UserError(f"{name} must be at least 0 and below 1, not {value:g}.")
