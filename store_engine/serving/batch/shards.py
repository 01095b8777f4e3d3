"""Input shards: histories of many users, and which file of recommendations each becomes.

A shard has a row per user, with columns `user_id` and `history`, a list of item ids, oldest first
(in a csv text: `50,181` or a JSON list). It is read whole before the first user is served, so that
a bad row costs no time.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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
from store_engine.serving.batch.outputs import check_form, is_form

Unknown = Literal["error", "skip"]  # what to do with an item id that no item has


class Shard(NamedTuple):
    """A file of histories and the file of recommendations that it becomes."""

    source: Path
    output: Path


class ReadShard(NamedTuple):
    """The histories of a shard, in rows of the catalogue."""

    histories: Histories
    num_unknown: int  # events left out, because no item has their id


def plan_shards(source: Path, output: Path) -> list[Shard]:
    """Says which file becomes which.

    Args:
        source: A file, or a folder whose files are all shards; names that begin with "." or "_",
            such as Spark's _SUCCESS, are none.
        output: A file, see `check_form`; for a folder a folder, where a shard keeps its name but
            for the suffix, and is Parquet.

    Raises:
        InputError: There is no shard, two would become one, or `output` is of the other kind.
    """
    if not source.is_dir():
        check_form(output)
        return [Shard(source, output)]
    if output.is_file() or is_form(output):
        raise InputError(f"{output}: the output of a folder must be a folder, of Parquet files")
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
