"""The user's files -> catalogue and histories, every mistake named with its file and line."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from store_engine.data.catalog import Catalog
from store_engine.data.histories import Histories
from store_engine.data.tables import Table, read_table
from store_engine.errors import InputError


@dataclass(frozen=True)
class EventColumns:
    """How the columns of an interactions file are called."""

    user_id: str = "user_id"
    item_id: str = "item_id"
    timestamp: str = "timestamp"


def read_items(path: str | Path, id_column: str, text_columns: Sequence[str]) -> Catalog:
    """Reads a catalogue; rows keep the file's order.

    Args:
        path: csv, tsv, parquet, jsonl or RecBole .item; see tables.py.
        id_column: Column with the item ids: strings or integers.
        text_columns: Columns with text, the title first. Runs of white space become one space, a
            list becomes its parts with ", " between, null becomes "".

    Raises:
        InputError: The file cannot be read, has no item, or an id is empty or appears twice.
    """
    if not text_columns:
        raise InputError(f"{path}: text_fields must name at least one column")
    table = read_table(path, [id_column, *text_columns])
    ids = _keys(table, id_column)
    if not len(ids):
        raise InputError(f"{path}: the catalogue is empty, expected at least one item")
    codes, unique = _encode(ids)
    if len(unique) < len(codes):
        # a code that is not a new maximum has been there before
        row = int(np.argmax(np.diff(np.maximum.accumulate(codes)) == 0)) + 1
        first = int(np.argmax(codes == codes[row]))
        raise InputError(
            f"{table.where(row)}: item id {unique[codes[row]]!r} appears twice "
            f"(first on {table.where(first)})"
        )
    fields = {name: tuple(map(_text, table.columns[name].to_pylist())) for name in text_columns}
    return Catalog(tuple(unique), fields)


def read_interactions(
    path: str | Path,
    catalog: Catalog,
    columns: EventColumns = EventColumns(),
    min_events: int = 3,
    ties: Literal["file", "shuffle"] = "file",
    seed: int = 0,
) -> tuple[Histories, int]:
    """Reads events and sorts them by user, then time; users in the order they first appear.

    Args:
        path: csv, tsv, parquet, jsonl or RecBole .inter; see tables.py.
        catalog: The items that the events name.
        columns: Column names. A timestamp is a number, or a time in ISO 8601.
        min_events: Users with fewer events are dropped.
        ties: What orders a user's events of one timestamp: the file, or chance. Where times are
            coarse (Amazon's are per day) the file's order decides which event is the test.
        seed: For `ties="shuffle"`.

    Returns:
        The histories, and how many users were dropped.

    Raises:
        InputError: The file cannot be read, an item id is not in the catalogue, a user id or a
            timestamp is empty, a timestamp is NaN or no time, or no user is left.
    """
    table = read_table(path, [columns.user_id, columns.item_id, columns.timestamp])
    rows = _catalog_rows(table, columns.item_id, catalog)
    users, user_ids = _encode(_keys(table, columns.user_id))
    times = _times(table, columns.timestamp)
    num_events = np.bincount(users, minlength=len(user_ids))
    is_kept = num_events >= min_events
    if not is_kept.any():
        raise InputError(
            f"{path}: no user has at least {min_events} events; "
            f"got {len(user_ids)} users and {len(rows)} events"
        )
    # lexsort is stable and sorts by its last key first
    keys = [times, users]
    if ties == "shuffle":
        keys.insert(0, np.random.default_rng(seed).permutation(len(rows)))
    order = np.lexsort(keys)
    order = order[is_kept[users[order]]]
    histories = Histories(
        tuple(user_id for user_id, kept in zip(user_ids, is_kept, strict=True) if kept),
        rows[order],
        np.concatenate([[0], np.cumsum(num_events[is_kept])]).astype(np.int64),
    )
    return histories, int((~is_kept).sum())


def _catalog_rows(table: Table, column: str, catalog: Catalog) -> NDArray[np.int32]:
    codes, unique = _encode(_keys(table, column))
    try:
        row_of_code = np.array([catalog.row_of(item_id) for item_id in unique], dtype=np.int32)
    except InputError as error:
        # codes count up in the order of first appearance, so the first unknown one fails
        known = set(catalog.item_ids)
        code = next(c for c, item_id in enumerate(unique) if item_id not in known)
        raise InputError(f"{table.where(int(np.argmax(codes == code)))}: {error}") from error
    rows: NDArray[np.int32] = row_of_code[codes]
    return rows


def _keys(table: Table, column: str) -> pa.ChunkedArray:
    """A column of ids as strings; refuses empty ones."""
    values = _decoded(table.columns[column])
    kind = values.type
    is_key = pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if len(values) and not is_key:
        raise InputError(f"{table.path}: {column} must hold strings or integers, got {kind}")
    keys = values.cast(pa.large_string())
    is_empty = pc.equal(pc.fill_null(keys, ""), "").to_numpy()
    if is_empty.any():
        raise InputError(f"{table.where(int(np.argmax(is_empty)))}: {column} is empty")
    return keys


def _encode(keys: pa.ChunkedArray) -> tuple[NDArray[np.int64], list[str]]:
    """Codes that count up in the order of first appearance, and what each stands for."""
    encoded = pc.dictionary_encode(keys.combine_chunks())
    unique: list[str] = encoded.dictionary.to_pylist()
    return encoded.indices.to_numpy().astype(np.int64), unique


def _times(table: Table, column: str) -> NDArray[Any]:
    """A column of timestamps as int64 or float64, in any one unit."""
    values = _decoded(table.columns[column])
    times = _first_cast(values) if len(values) else None
    if times is not None and times.null_count == 0:
        array: NDArray[Any] = times.to_numpy()
        if np.isfinite(array).all():
            return array
    is_number = _is_number(values[0].as_py()) if len(values) else True
    expected = "a finite number" if is_number else "a time in ISO 8601"
    for row, value in enumerate(values.to_pylist()):
        if not (_is_number(value) if is_number else _is_time(value)):
            got = "nothing" if value is None or value == "" else repr(value)
            raise InputError(f"{table.where(row)}: {column} must be {expected}, got {got}")
    if not len(values):
        return np.empty(0, dtype=np.int64)
    raise InputError(f"{table.path}: {column} must hold numbers or times of one form")


def _first_cast(values: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """The first form that fits all: integer (exact beyond 2^53), float, time without or with zone.

    Times become microseconds, so that they compare as integers.
    """
    forms = [pa.int64(), pa.float64(), pa.timestamp("us"), pa.timestamp("us", "UTC")]
    if not pa.types.is_string(values.type):
        forms = [values.type] if _is_numeric(values.type) else forms[2:]
    for form in forms:
        try:
            times = values.cast(form)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            continue
        return times.cast(pa.int64()) if pa.types.is_timestamp(form) else times
    return None


def _is_numeric(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _is_number(value: object) -> bool:
    try:
        return math.isfinite(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def _is_time(value: object) -> bool:
    try:
        return not isinstance(value, str) or bool(datetime.fromisoformat(value))
    except ValueError:
        return False


def _decoded(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Dictionary-encoded values (pandas' categories) as what they stand for."""
    is_encoded = pa.types.is_dictionary(values.type)
    return values.cast(values.type.value_type) if is_encoded else values


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(filter(None, map(_text, value)))
    return " ".join(str(value).split())
