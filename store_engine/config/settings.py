"""How a config's field is declared: its range, and whether a run may change it later.

Every number has a range, so that what would hang, overflow or divide by 0 after an hour is refused
at once. A run-time key (where the data are, threads, how often to save) may be changed by
`--resume`; every other key makes the run what it is.
"""

import dataclasses
import math
from typing import Any, NamedTuple

from store_engine.errors import InputError


class Range(NamedTuple):
    """The smallest and the largest value that a number may have."""

    low: float
    high: float


def setting(
    default: Any,
    low: float | None = None,
    high: float | None = None,
    *,
    is_runtime: bool = False,
) -> Any:
    """Declares a field of a section.

    Args:
        default: Its default.
        low: The smallest value of a number; None for what is no number.
        high: The largest.
        is_runtime: The key may be changed when a run is resumed.
    """
    bounds = None if low is None or high is None else Range(low, high)
    metadata = {"range": bounds, "is_runtime": is_runtime}
    return dataclasses.field(default=default, metadata=metadata)


def range_of(declared: dataclasses.Field[Any]) -> Range | None:
    """Returns the range of a field, None if it has none."""
    bounds: Range | None = declared.metadata.get("range")
    return bounds


def is_runtime(declared: dataclasses.Field[Any]) -> bool:
    """Tells whether a key may be changed when a run is resumed."""
    return bool(declared.metadata.get("is_runtime"))


def check_ranges(section: Any, name: str) -> None:
    """Refuses numbers outside of their ranges.

    Args:
        section: An instance of a section.
        name: The section's name, for the message.

    Raises:
        InputError: A number is not finite or outside of its range.
    """
    for declared in dataclasses.fields(section):
        bounds, value = range_of(declared), getattr(section, declared.name)
        if bounds is None:
            continue
        if not math.isfinite(value):
            raise InputError(f"{name}.{declared.name} must be finite, got {value}")
        if not bounds.low <= value <= bounds.high:
            raise InputError(
                f"{name}.{declared.name} must be in [{_in_words(bounds.low)}, "
                f"{_in_words(bounds.high)}], got {value}"
            )


def require(condition: bool, message: str) -> None:
    """Raises InputError with `message` if `condition` does not hold."""
    if not condition:
        raise InputError(message)


def _in_words(bound: float) -> str:
    return f"{bound:g}" if isinstance(bound, float) else str(bound)
