"""Where an option's default comes from, and what options may be.

`Stated[float]` is the paper's own value, `Released[float]` that of its authors' code, `OfAnomalib[float]` that of
anomalib, where a method is anomalib's, and `Ours[float]` fills a gap.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

from anomaly_bench.errors import UserError

T = TypeVar("T")
STATED, RELEASED, OURS = "stated in the paper", "the authors' code", "our choice"
ANOMALIB = "anomalib's code"
SOURCES = (STATED, RELEASED, ANOMALIB, OURS)
Stated = Annotated[T, STATED]
Released = Annotated[T, RELEASED]
OfAnomalib = Annotated[T, ANOMALIB]
Ours = Annotated[T, OURS]


def option_source(annotation: Any) -> str:
    """One of `SOURCES`; raises TypeError for an annotation that names none."""
    for source in getattr(annotation, "__metadata__", ()):
        if source in SOURCES:
            return str(source)
    raise TypeError(f"{annotation} is none of Stated[...], Released[...], OfAnomalib[...] and Ours[...].")


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


def check_not_negative(name: str, value: float) -> None:
    """Raise UserError for a value below 0."""
    if value < 0:
        raise UserError(f"{name} must be 0 or more, not {value:g}.")


def check_idle(method: type, options: Mapping[str, Any], names: Sequence[str], because: str) -> None:
    """Raise UserError for any of `names` that is not at its default: two runs of one thing must not differ in name."""
    defaults = method.__init__.__kwdefaults__  # type: ignore[misc]
    for name in names:
        if options[name] != defaults[name]:
            raise UserError(f"{name} has no effect with {because}; leave it out.")


def check_image_size(size: int) -> None:
    """Raise UserError for images whose 1/32, the bottleneck's map, cannot be doubled back to the teacher's 1/4."""
    if size % 32:
        below = size // 32 * 32
        raise UserError(
            f"image_size must be a multiple of 32, not {size}: the student doubles its maps back to the teacher's "
            f"sizes; use {below} or {below + 32}."
        )
