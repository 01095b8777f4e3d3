"""Arrow columns as plain Python values, without loss.

pyarrow's own `to_pylist` fails on nanoseconds, on structs with two fields of one name and on types
it has no Python value for, makes 19.899999618530273 of the float32 19.9, and writes maps as lists
of pairs, which cannot be told from lists of lists. Here times become ISO 8601 text, a float32 the
float with the same shortest text, and a map's entries tuples.
"""

import uuid
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}  # of a second, after the decimal point
_LISTS = (
    pt.is_list,
    pt.is_large_list,
    pt.is_fixed_size_list,
    pt.is_list_view,
    pt.is_large_list_view,
)
_PLAIN = (
    pt.is_null,
    pt.is_boolean,
    pt.is_integer,
    pt.is_float64,
    pt.is_decimal,
    pt.is_string,
    pt.is_large_string,
    pt.is_string_view,
    pt.is_binary,
    pt.is_large_binary,
    pt.is_binary_view,
    pt.is_fixed_size_binary,
)


def plain_values(values: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Takes the values out of a column.

    Args:
        values: Any Arrow column.

    Returns:
        None, str, bytes, bool, int, float, Decimal, lists of these, dicts (structs), and lists of
        tuples of two (maps), one per row. A string that is not UTF-8 stays bytes.

    Raises:
        ValueError: There is no rule for the type.
    """
    if isinstance(values, pa.ChunkedArray):
        return [value for chunk in values.chunks for value in plain_values(chunk)]
    kind = values.type
    plain: list[Any]
    if _is_plain(kind):
        try:
            plain = values.to_pylist()
            return plain
        except UnicodeDecodeError:  # value by value below
            pass
    if pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind):
        return [_decoded(value) for value in values.cast(pa.large_binary()).to_pylist()]
    if isinstance(kind, pa.BaseExtensionType):
        plain = plain_values(values.storage)
        if kind.extension_name == "arrow.uuid":
            return [None if value is None else str(uuid.UUID(bytes=value)) for value in plain]
        return plain
    if pt.is_dictionary(kind):
        words = plain_values(values.dictionary)
        return [None if code is None else words[code] for code in values.indices.to_pylist()]
    if pt.is_run_end_encoded(kind):
        return plain_values(pc.run_end_decode(values))
    if pt.is_float16(kind) or pt.is_float32(kind):
        numbers = values.to_numpy(zero_copy_only=False)
        return _per_value(values, [float(str(number)) for number in numbers])
    if pt.is_temporal(kind):
        return _per_value(values, _iso(values))
    if pt.is_struct(kind):
        return _structs(values)
    if pt.is_map(kind):
        return [_pairs(scalar) if scalar.is_valid else None for scalar in values]
    if any(is_kind(kind) for is_kind in _LISTS):
        return [plain_values(scalar.values) if scalar.is_valid else None for scalar in values]
    raise ValueError(f"holds {kind}, which has no text")


def _is_plain(kind: pa.DataType) -> bool:
    """Whether `to_pylist` gives every value of this type exactly."""
    if isinstance(kind, pa.BaseExtensionType):
        return False
    if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        return _is_plain(kind.value_type)
    if pt.is_struct(kind):
        names = [field.name for field in kind]
        return len(set(names)) == len(names) and all(_is_plain(field.type) for field in kind)
    return any(is_kind(kind) for is_kind in _PLAIN)


def _decoded(value: bytes | None) -> str | bytes | None:
    try:
        return None if value is None else value.decode("utf-8")
    except UnicodeDecodeError:
        return value


def _structs(values: pa.Array) -> list[Any]:
    """Lists of pairs, not dicts: two fields may have one name."""
    names = [field.name for field in values.type]
    columns = [plain_values(column) for column in values.flatten()]
    rows = zip(*columns, strict=True) if columns else [()] * len(values)
    return _per_value(values, [list(zip(names, row, strict=True)) for row in rows])


def _pairs(scalar: Any) -> list[Any]:
    keys, items = scalar.values.flatten()
    return list(zip(plain_values(keys), plain_values(items), strict=True))


def _per_value(values: pa.Array, plain: list[Any]) -> list[Any]:
    if not values.null_count:
        return plain
    is_valid = values.is_valid().to_pylist()
    return [value if valid else None for value, valid in zip(plain, is_valid, strict=True)]


def _iso(values: pa.Array) -> list[str]:
    """Dates and times in ISO 8601; instants in UTC with a Z; durations in seconds."""
    kind = values.type
    if pt.is_interval(kind):
        raise ValueError(f"holds {kind}, which has no text")
    is_narrow = pt.is_date32(kind) or pt.is_time32(kind)
    ticks = values.cast(pa.int32()).cast(pa.int64()) if is_narrow else values.cast(pa.int64())
    numbers = ticks.fill_null(0).to_numpy()
    if pt.is_date(kind):
        days = numbers if pt.is_date32(kind) else numbers // 86_400_000
        return [str(day) for day in days.astype("M8[D]")]
    if pt.is_timestamp(kind):
        zone = "Z" if kind.tz else ""
        texts = np.datetime_as_string(numbers.view(f"M8[{kind.unit}]")).tolist()
        return [_trimmed(text) + zone for text in texts]
    digits = _DIGITS[kind.unit]
    if pt.is_duration(kind):
        return [f"{_decimal(n, digits)} s" for n in numbers.tolist()]
    return [_clock(n, digits) for n in numbers.tolist()]


def _clock(ticks: int, digits: int) -> str:
    minutes, rest = divmod(ticks, 60 * 10**digits)
    seconds, fraction = divmod(rest, 10**digits)
    text = f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}.{fraction:0{digits}}"
    return _trimmed(text) if digits else text[:8]


def _decimal(ticks: int, digits: int) -> str:
    whole, fraction = divmod(abs(ticks), 10**digits)
    sign = "-" if ticks < 0 else ""
    return sign + (_trimmed(f"{whole}.{fraction:0{digits}}") if digits else str(whole))


def _trimmed(text: str) -> str:
    """Without the zeros at the end of a fraction."""
    return text.rstrip("0").rstrip(".") if "." in text else text
