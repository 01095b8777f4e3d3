"""Ids out of a column: exact text, coded by order of first appearance, bad rows named."""

import contextlib
import math
import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from numpy.typing import NDArray

from store_engine.data.tables.arrow_values import plain_values
from store_engine.data.tables.bad_rows import BadRows, Faults
from store_engine.data.tables.cell_text import bytes_text
from store_engine.data.tables.lines import shown

_EXACT_FLOAT = 2**53  # a float beyond may stand for several integers
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Keys(NamedTuple):
    """A column of ids."""

    codes: NDArray[np.int64]  # (num_rows,) counts up in the order of first appearance
    unique: list[str]  # the id of each code
    bad: list[BadRows]  # rows without a usable id; their code means nothing


def read_keys(values: pa.ChunkedArray | list[Any], name: str) -> Keys:
    """Reads ids: text as it stands, whole numbers as their digits (1.0 in a column of floats is 1).

    Args:
        values: An Arrow column, or plain values.
        name: The column's name, for messages.
    """
    if isinstance(values, list):
        if set(map(type, values)) != {str}:
            return _from_values(values, name)
        with contextlib.suppress(UnicodeEncodeError):  # half a character: found value by value
            return _from_strings(pa.chunked_array([pa.array(values, pa.large_string())]), name)
        return _from_values(values, name)
    if pt.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    kind = values.type
    if pt.is_integer(kind) or pt.is_string(kind) or pt.is_large_string(kind):
        with contextlib.suppress(UnicodeDecodeError):  # not UTF-8: likewise
            return _from_strings(values.cast(pa.large_string()), name)
    try:
        return _from_values(plain_values(values), name)
    except ValueError as error:
        return Keys(np.zeros(len(values), np.int64), [], [BadRows(0, f"{name} {error}")])


def _from_strings(values: pa.ChunkedArray, name: str) -> Keys:
    encoded = pc.dictionary_encode(pc.fill_null(values, "").combine_chunks())
    codes = encoded.indices.to_numpy().astype(np.int64)
    unique: list[str] = encoded.dictionary.to_pylist()
    faults = Faults()
    found: dict[tuple[str, str], list[int]] = {}
    for code, key in enumerate(unique):
        if what := _fault(key):
            found.setdefault(what, []).append(code)
    for (kind, text), unfit in found.items():
        rows = np.flatnonzero(np.isin(codes, unfit))
        faults.add(kind, int(rows[0]), f"{name} {text}", len(rows))
    return Keys(codes, unique, faults.rows())


def _from_values(values: Iterable[object], name: str) -> Keys:
    code_of: dict[str, int] = {}
    codes, faults = [], Faults()
    for row, value in enumerate(values):
        try:
            key = _key(value)
        except ValueError as error:
            faults.add("type", row, f"{name} {error}")
            codes.append(0)
            continue
        if what := _fault(key):
            faults.add(what[0], row, f"{name} {what[1]}")
        codes.append(code_of.setdefault(key, len(code_of)))
    return Keys(np.array(codes, dtype=np.int64), list(code_of), faults.rows())


def _key(value: object) -> str:
    if value is None or (isinstance(value, float | Decimal) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return bytes_text(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        if abs(value) > _EXACT_FLOAT:
            raise ValueError(f"is a float too large to be exact, {value!r}")
        return str(int(value))
    if isinstance(value, Decimal) and _is_whole(value):
        return str(int(value))
    got = str(value) if isinstance(value, Decimal) else shown(value)
    raise ValueError(f"must be text or a whole number, got {got}")


def _is_whole(value: Decimal) -> bool:
    # a number of a million digits is no id, and would take long to write
    return value.is_finite() and abs(value.adjusted()) < 40 and value == int(value)


def _fault(key: str) -> tuple[str, str] | None:
    """The kind of fault of an id, and the words for it."""
    if not key.strip():
        return "empty", "is empty"
    if not key.isprintable() and (match := _UNFIT.search(key)):
        return "unfit", f"holds a control character or half a character, {shown(match[0])}"
    return None
