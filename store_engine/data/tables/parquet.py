"""Columns of parquet files."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from store_engine.data.tables.lines import MAX_FILE_BYTES, require_columns
from store_engine.errors import InputError
from store_engine.files.regular import open_regular, parse_errors

_MAX_ROWS = 2**31 - 1


def read_parquet(
    path: Path, names: list[str]
) -> tuple[dict[str, pa.ChunkedArray], Callable[[], Iterator[int]]]:
    """Reads columns by name.

    Args:
        path: The file.
        names: Its columns to read.

    Returns:
        Name -> values, and a function that numbers the rows.

    Raises:
        InputError: The file cannot be read, or lacks a column.
    """
    what = "a readable parquet file"
    with open_regular(path, MAX_FILE_BYTES) as file:
        try:
            with parse_errors(path, what):
                parquet = pa.parquet.ParquetFile(file)
                found, num_rows = parquet.schema_arrow.names, parquet.metadata.num_rows
            require_columns(str(path), found, names)
            if not 0 <= num_rows <= _MAX_ROWS:
                raise InputError(f"{path}: must have at most {_MAX_ROWS:,} rows, has {num_rows:,}")
            with parse_errors(path, what):
                table = parquet.read(columns=names)
                columns = {name: table[name] for name in names}
        except pa.ArrowException as error:
            reason = " ".join(str(error).split())[:400]
            raise InputError(f"{path}: not {what}: {reason}") from error
    return columns, partial(itertools.count, 1)
