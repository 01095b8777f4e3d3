"""Shards of a batch: histories in, recommendations out, one file of the one for each of the other.

An input shard has a row per user, with columns `user_id` and `history`, a list of item ids, oldest
first (in a csv text: `50,181` or a JSON list). It is read whole before the first user is served, so
that a bad row costs no time. An output shard is a Parquet file with `user_id`, `item_ids` (list of
text, best first) and `scores` (list of float32). It appears in one step and says in its schema's
metadata what it was made from.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from store_engine.data.catalog import unknown_item
from store_engine.data.histories import Histories
from store_engine.data.id_lists import parse_ids
from store_engine.data.tables.arrow_values import plain_values
from store_engine.data.tables.bad_rows import BadRows
from store_engine.data.tables.delimited import SUFFIXES as TEXT_SUFFIXES
from store_engine.data.tables.keys import Keys, read_keys
from store_engine.data.tables.lines import suffix_of
from store_engine.data.tables.table import Table, read_table
from store_engine.errors import InputError
from store_engine.files.atomic import atomic_open
from store_engine.files.regular import open_regular

Unknown = Literal["error", "skip"]  # what to do with an item id that no item has
Origin = dict[str, Any]  # what an output shard was made from

_KEY = b"store_engine.recommend"
_SCHEMA = pa.schema(
    {"user_id": pa.string(), "item_ids": pa.list_(pa.string()), "scores": pa.list_(pa.float32())}
)


class Shard(NamedTuple):
    """A file of histories and the file of recommendations that it becomes."""

    source: Path
    output: Path


class ReadShard(NamedTuple):
    """The histories of a shard, in rows of the catalogue."""

    histories: Histories
    num_unknown: int  # events left out, because no item has their id


class Recommended(NamedTuple):
    """What some users get, best first."""

    user_ids: list[str]
    item_ids: list[list[str]]
    scores: list[list[float]]


def plan_shards(source: Path, output: Path) -> list[Shard]:
    """Says which file becomes which.

    Args:
        source: A file, or a folder whose files are all shards; names that begin with "." or "_",
            such as Spark's _SUCCESS, are none.
        output: A .parquet file; for a folder a folder, where a shard keeps its name.

    Raises:
        InputError: There is no shard, two would become one, or `output` is of the other kind.
    """
    if not source.is_dir():
        if output.suffix != ".parquet" or output.is_dir():
            raise InputError(f"{output}: the output of a file must be a .parquet file")
        return [Shard(source, output)]
    if output.is_file() or output.suffix == ".parquet":
        raise InputError(f"{output}: the output of a folder must be a folder")
    if output.resolve() == source.resolve():
        raise InputError(f"{output}: is read, name another --output")
    try:
        names = sorted(path.name for path in source.iterdir() if path.name[0] not in "._")
    except OSError as error:
        raise InputError(f"{source}: cannot be read: {error.strerror}") from error
    shards = [Shard(source / name, (output / name).with_suffix(".parquet")) for name in names]
    if not shards:
        raise InputError(f"{source}: holds no shard")
    seen: dict[Path, Path] = {}
    for shard in shards:
        if shard.source.is_dir():
            raise InputError(f"{shard.source}: is a folder; the shards must lie side by side")
        if shard.output in seen:
            raise InputError(f"{shard.source} and {seen[shard.output]} would become one output")
        seen[shard.output] = shard.source
    return shards


def read_shard(path: Path, row_of: Mapping[str, int], unknown: Unknown) -> ReadShard:
    """Reads the histories of a shard.

    Args:
        path: Of any form that `read_table` reads; a text file spells its lists as for `parse_ids`.
        row_of: Item id -> catalogue row.
        unknown: "error" refuses an id that is not there, "skip" leaves it out.

    Raises:
        InputError: The file cannot be read, or a row has no user id, no list of ids, or an unknown
            item; names the row.
    """
    table = read_table(path, ["user_id", "history"])
    users = table.keys("user_id")
    table.refuse(users.bad)
    flat, ends = _flat(table)
    items = read_keys(flat, "history")
    table.refuse([_in_list(bad, ends) for bad in items.bad])
    rows = _rows(items, row_of)
    is_known = rows >= 0
    if unknown == "error" and not is_known.all():
        first = int(np.argmin(is_known))
        error = unknown_item(items.unique[items.codes[first]], row_of, len(row_of))
        num = int((~is_known).sum())
        table.refuse([_in_list(BadRows(first, f"history: {error}", num), ends)])
    kept = np.concatenate([[0], np.cumsum(is_known)])  # events before each, without the unknown
    offsets = np.concatenate([[0], kept[ends]]).astype(np.int64)
    user_ids = tuple(users.unique[code] for code in users.codes.tolist())
    histories = Histories(user_ids, rows[is_known].astype(np.int32), offsets)
    return ReadShard(histories, int((~is_known).sum()))


def _flat(table: Table) -> tuple[pa.ChunkedArray | list[Any], NDArray[np.int64]]:
    """The items of all lists, and where each list ends in them."""
    column = table.columns["history"]
    if suffix_of(table.path) in TEXT_SUFFIXES:
        column = _written_lists(table)
    if isinstance(column, list):
        for row, value in enumerate(column):
            if value is not None and not isinstance(value, list):
                table.refuse([BadRows(row, "history must be a list of item ids")])
        lists = [value or [] for value in column]
        return [item for one in lists for item in one], np.cumsum([len(one) for one in lists])
    kind = column.type
    if pa.types.is_fixed_size_list(kind):  # a null in one is as long as a list
        column = column.cast(pa.large_list(kind.value_type))
    elif not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise InputError(f"{table.path}: history must be a column of lists, is {kind}")
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    return pc.list_flatten(column), np.cumsum(lengths)


def _written_lists(table: Table) -> list[Any]:
    """The lists that the fields of a text file spell."""
    lists = []
    for row, text in enumerate(plain_values(table.columns["history"])):
        try:
            lists.append(parse_ids(text or ""))
        except InputError as error:
            table.refuse([BadRows(row, f"history: {error}")])
    return lists


def _in_list(bad: BadRows, ends: NDArray[np.int64]) -> BadRows:
    """The same fault, told of the row of the list that the item stands in."""
    return bad._replace(row=int(np.searchsorted(ends, bad.row, side="right")))


def _rows(items: Keys, row_of: Mapping[str, int]) -> NDArray[np.int64]:
    rows = np.array([row_of.get(item_id, -1) for item_id in items.unique], dtype=np.int64)
    return rows[items.codes]


def write_shard(path: Path, origin: Origin, parts: Iterable[Recommended]) -> None:
    """Writes an output shard, which stands complete or not at all.

    Args:
        path: The file.
        origin: What it is made from, for `is_made_from`.
        parts: Users in the order of the input.

    Raises:
        InputError: The file cannot be written.
    """
    schema = _SCHEMA.with_metadata({_KEY: _canonical(origin)})
    with atomic_open(path) as file, pq.ParquetWriter(file, schema) as writer:
        for part in parts:
            writer.write_batch(pa.record_batch(list(part), schema=schema))


def is_made_from(path: Path, origin: Origin, overwrite: bool = False) -> bool:
    """Tells whether an output shard is there and was made from this and nothing else.

    Args:
        path: The output.
        origin: What it should be made from.
        overwrite: One that was made from something else, or is no output, may be replaced.

    Raises:
        InputError: There is such a file, and it may not be replaced.
    """
    if not path.exists():
        return False
    with open_regular(path) as file:
        try:
            found = (pq.read_schema(file).metadata or {}).get(_KEY)
        except (pa.ArrowException, OSError, ValueError):
            found = None
    if found == _canonical(origin):
        return True
    if overwrite:
        return False
    if found is None:
        raise InputError(f"{path}: is there and was not written by recommend; move it away")
    raise InputError(
        f"{path}: was made from another run, input or options; --overwrite replaces it"
    )


def digest(value: Any) -> str:
    """SHA-256 of a value that JSON can hold, in hexadecimal."""
    return hashlib.sha256(_canonical(value)).hexdigest()


def _canonical(value: Any) -> bytes:
    """JSON that is the same for equal values."""
    return json.dumps(value, sort_keys=True).encode()
