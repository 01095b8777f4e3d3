"""The tables of a preparation: in a DuckDB file, spilled where they do not fit into memory."""

import os
from pathlib import Path
from typing import Any

import duckdb

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
        row = self.execute(sql).fetchone()
        assert row is not None
        return tuple(row)

    def all(self, sql: str) -> list[tuple[Any, ...]]:
        """Returns the rows of a query, which are few."""
        return list(self.execute(sql).fetchall())

    def has_table(self, name: str) -> bool:
        """Tells whether there is a table of a name."""
        names = self.all("SELECT table_name FROM duckdb_tables()")
        return (name,) in names

    def close(self) -> None:
        """Closes the file."""
        self.connection.close()
