"""The tables of a preparation: in a DuckDB file, spilled where they do not fit into memory."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from store_engine.prepare.readers.storage import literal


class Database:
    """A connection to a DuckDB file.

    Args:
        folder: Where the file is made, and what does not fit into memory is written.
        memory_gib: What DuckDB may hold in memory.
    """

    def __init__(self, folder: Path, memory_gib: float) -> None:
        self.connection = duckdb.connect(str(folder / "tables.duckdb"))
        threads = os.environ.get("OMP_NUM_THREADS", "")
        is_set = threads.isdigit() and int(threads) > 0
        settings = {
            "memory_limit": f"{int(memory_gib * 1024)}MiB",
            "temp_directory": str(folder / "spill"),
            "TimeZone": "UTC",
            "threads": threads if is_set else str(os.cpu_count() or 1),
            # tables live for minutes: choosing a compression took three quarters of reading a csv
            "force_compression": "uncompressed",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        }
        for name, value in settings.items():
            self.execute(f"SET {name} = {literal(value)}")

    def execute(self, sql: str) -> duckdb.DuckDBPyConnection:
        """Runs SQL; the rows of a query are fetched from what it returns."""
        return self.connection.execute(sql)

    def one(self, sql: str) -> tuple[Any, ...]:
        """Returns the only row of a query."""
        (row,) = self.all(sql)
        return row

    def all(self, sql: str) -> list[tuple[Any, ...]]:
        """Returns the rows of a query, which are few."""
        return list(self.execute(sql).fetchall())

    def arrays(self, sql: str) -> Iterator[list[NDArray[Any]]]:
        """Walks over the rows of a query of numbers: all columns, some of the rows at a time."""
        cursor = self.connection.cursor()  # may be read from while other statements run
        for batch in pa.RecordBatchReader.from_stream(cursor.sql(sql)):
            yield [column.to_numpy() for column in batch.columns]

    def make_table(self, name: str, column: str, values: NDArray[np.int32]) -> None:
        """Makes a table of one column of numbers."""
        self.connection.register("numbers", pa.table({column: values}))
        self.execute(f"CREATE TABLE {name} AS SELECT * FROM numbers")
        self.connection.unregister("numbers")

    def has_table(self, name: str) -> bool:
        """Tells whether there is a table of a name."""
        names = self.all("SELECT table_name FROM duckdb_tables()")
        return (name,) in names

    def close(self) -> None:
        """Closes the file."""
        self.connection.close()
