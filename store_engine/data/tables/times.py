"""Timestamps out of a column, as numbers that sort exactly as the times do.

Arrow casts whole columns where that is exact. Everything else, a column of JSON values, decimals,
numbers of more digits than a float64 holds, is read value by value, compared exactly, and comes
out as ranks.
"""

import contextlib
import math
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from numpy.typing import NDArray

from store_engine.data.tables.arrow_values import plain_values
from store_engine.data.tables.bad_rows import BadRows, Faults
from store_engine.data.tables.lines import shown

_FLOAT_DIGITS = 15  # decimal numbers of at most so many digits differ as float64 too
_MAX_EXPONENT = 64
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,4})?", re.ASCII)
_FRACTION = re.compile(r"(?<![+-])(\d\d:\d\d:\d\d|(?<=[T ])\d{6})[.,](\d+)", re.ASCII)
_EPOCH = datetime(1970, 1, 1)
# what Unix times of the years 1985 to 2128 are in each unit: no two of them can be one unit's
_UNITS = {
    "seconds": (5e8, 5e9),
    "milliseconds": (5e11, 5e12),
    "microseconds": (5e14, 5e15),
    "nanoseconds": (5e17, 5e18),
}
_EXPECTED = {
    "number": "a finite number",
    "local": "a time in ISO 8601 without a zone, as before",
    "zoned": "a time in ISO 8601 with a zone, as before",
}


class Times(NamedTuple):
    """A column of timestamps."""

    order: NDArray[Any]  # (num_rows,) int64 or float64: compares as the times do
    bad: list[BadRows]  # rows without a usable time; their number means nothing


def read_times(values: pa.ChunkedArray | list[Any], name: str) -> Times:
    """Reads timestamps: numbers of any one unit, or times in ISO 8601, with or without a zone.

    Args:
        values: An Arrow column, or plain values.
        name: The column's name, for messages.
    """
    if isinstance(values, list):
        if set(map(type, values)) == {int}:
            with contextlib.suppress(OverflowError):  # beyond int64
                ticks = np.array(values, dtype=np.int64)
                return Times(ticks, _mixed_units(ticks, name))
        return _from_values(values, name)
    if pt.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    kind, numbers = _cast(values)
    if numbers is not None:
        return Times(numbers, [] if pt.is_temporal(kind) else _mixed_units(numbers, name))
    try:
        return _from_values(plain_values(values), name)
    except ValueError as error:
        return Times(np.zeros(len(values), np.int64), [BadRows(0, f"{name} {error}")])


def read_times_together(columns: Sequence[pa.ChunkedArray | list[Any]], name: str) -> list[Times]:
    """Reads the timestamps of several tables, so that they compare with each other.

    Args:
        columns: As `read_times` takes them.
        name: What they are called, for messages.

    Returns:
        For each its times. A row that does not go with those before it is bad.
    """
    kinds = {None if isinstance(column, list) else column.type for column in columns}
    if len(kinds) == 1 and None not in kinds:
        chunks = [chunk for column in columns for chunk in column.chunks]  # type: ignore[union-attr]
        whole = read_times(pa.chunked_array(chunks, *kinds), name)
    else:
        values = [c if isinstance(c, list) else plain_values(c) for c in columns]
        whole = read_times([value for column in values for value in column], name)
    ends = np.cumsum([0, *map(len, columns)]).tolist()
    return [
        Times(
            whole.order[begin:end],
            [bad._replace(row=bad.row - begin) for bad in whole.bad if begin <= bad.row < end],
        )
        for begin, end in pairwise(ends)
    ]


def _cast(values: pa.ChunkedArray) -> tuple[pa.DataType, NDArray[Any] | None]:
    """The form that the column is read as, and its numbers; None if the cast is not exact."""
    kind = values.type
    if values.null_count:
        return kind, None
    if pt.is_string(kind) or pt.is_large_string(kind):
        return _cast_strings(values)
    try:
        if pt.is_date32(kind):
            values = values.cast(pa.int32())
        if pt.is_date(kind) or pt.is_timestamp(kind) or pt.is_duration(kind) or pt.is_integer(kind):
            return kind, _numbers(values.cast(pa.int64()))
        if pt.is_floating(kind):
            return kind, _finite(values.cast(pa.float64()))
    except pa.ArrowInvalid:  # an integer beyond int64
        pass
    return kind, None


def _cast_strings(values: pa.ChunkedArray) -> tuple[pa.DataType, NDArray[Any] | None]:
    zones = (None, "UTC")
    forms = [pa.int64(), *(pa.timestamp(unit, zone) for unit in ("us", "ns") for zone in zones)]
    if (pc.max(pc.binary_length(values)).as_py() or 0) <= _FLOAT_DIGITS:
        forms.insert(1, pa.float64())
    for form in forms:
        if pt.is_timestamp(form) and form.unit == "ns" and not _fits_nanoseconds(values):
            break
        try:
            ticks = values.cast(form)
        except pa.ArrowInvalid:
            continue
        if pt.is_floating(form):
            return form, _finite(ticks)
        return form, _numbers(ticks.cast(pa.int64()))
    return values.type, None


def _fits_nanoseconds(values: pa.ChunkedArray) -> bool:
    """Whether all years are such: pyarrow before 23 casts others to moments that they are not."""
    years = pc.min_max(pc.utf8_slice_codeunits(values, 0, 4)).as_py()
    return bool(years["min"] >= "1678" and years["max"] <= "2261")


def _numbers(values: pa.ChunkedArray) -> NDArray[Any]:
    numbers: NDArray[Any] = values.to_numpy()
    return numbers


def _finite(values: pa.ChunkedArray) -> NDArray[Any] | None:
    numbers = _numbers(values)
    return numbers if np.isfinite(numbers).all() else None


def _from_values(values: list[Any], name: str) -> Times:
    faults, forms, keys = Faults(), [], []
    for value in values:
        form, key = _parse_time(value)
        forms.append(form)
        keys.append(key)
    first = next((form for form in forms if form is not None), None)
    expected = _EXPECTED[first] if first else "a finite number or a time in ISO 8601"
    for row, form in enumerate(forms):
        if form is None or form != first:
            value = values[row]
            got = "nothing" if value is None or value == "" else _quoted(value)
            if form is None and first in ("local", "zoned"):
                text = f"{name} must be a time in ISO 8601, got {got}"
            else:
                text = f"{name} must be {expected}, got {got}"
            faults.add("time", row, text)
    if faults.rows():
        return Times(np.zeros(len(values), np.int64), faults.rows())
    rank = {key: position for position, key in enumerate(sorted(set(keys)))}
    bad = []
    if first == "number":
        bad = _mixed_units(np.array([float(key) for key in keys]), name)
    return Times(np.array([rank[key] for key in keys], dtype=np.int64), bad)


def _parse_time(value: object) -> tuple[str | None, Any]:
    """The form of a time (None: it is none), and what it is compared by."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        text = value.strip()
        if not _NUMBER.fullmatch(text):
            return _parse_iso(text)
        value = Decimal(text)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None, None
    if isinstance(value, int):
        value = value if abs(value) < 10**_MAX_EXPONENT else None
    elif not math.isfinite(value) or (
        isinstance(value, Decimal) and value and abs(value.adjusted()) > _MAX_EXPONENT
    ):
        value = None
    return (None, None) if value is None else ("number", value)


def _parse_iso(text: str) -> tuple[str | None, Any]:
    # fromisoformat would cut a fraction after six digits
    found = _FRACTION.search(text)
    whole = text if found is None else text[: found.end(1)] + text[found.end() :]
    try:
        parsed = datetime.fromisoformat(whole)
    except ValueError:
        return None, None
    offset = parsed.utcoffset()
    since = parsed.replace(tzinfo=None) - _EPOCH - (offset or timedelta(0))
    fraction = "" if found is None else found[2].rstrip("0")
    return "local" if offset is None else "zoned", (since, fraction)


def _mixed_units(times: NDArray[Any], name: str) -> list[BadRows]:
    """Two Unix times of which one must be in another unit than the other."""
    found: dict[str, int] = {}
    sizes = np.abs(times)
    for unit, (low, high) in _UNITS.items():
        is_unit = (sizes >= low) & (sizes < high)
        if is_unit.any():
            found[unit] = int(np.argmax(is_unit))
    if len(found) < 2:
        return []
    (first, other), (second, row) = sorted(found.items(), key=lambda item: item[1])[:2]
    what = f"{name} {times[row]:.0f} looks like {second}, {times[other]:.0f} like {first} on"
    return [BadRows(row, what, other_row=other)]


def _quoted(value: object) -> str:
    return str(value) if isinstance(value, Decimal) else shown(value)
