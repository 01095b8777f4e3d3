"""Named columns out of a file: csv, tsv, RecBole's atomic files, jsonl or parquet.

| suffix | form |
|---|---|
| .csv | RFC 4180: fields may be quoted, a header; commas, semicolons, tabs or bars, as is found |
| .tsv | tabs, or what else is found; fields may be quoted, a header |
| .inter .item .user | RecBole: as .tsv, header names carry a type, `item_id:token` |
| .jsonl | one object per line |
| .parquet | typed columns |

A file is read whole and exactly, or refused with the line (parquet: the row) that is wrong. Readers
give Arrow columns or plain values; from there on one set of rules makes ids, times and texts of
them, so that a value means the same in every form.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from store_engine.data.report import DataReport
from store_engine.data.tables.arrow_values import plain_values
from store_engine.data.tables.bad_rows import BadRows
from store_engine.data.tables.cell_text import cell_text, clean_text
from store_engine.data.tables.delimited import SUFFIXES as TEXT_SUFFIXES
from store_engine.data.tables.delimited import read_delimited
from store_engine.data.tables.json_lines import read_json_lines
from store_engine.data.tables.keys import Keys, read_keys
from store_engine.data.tables.lines import suffix_of
from store_engine.data.tables.parquet import read_parquet
from store_engine.data.tables.times import Times, read_times
from store_engine.errors import InputError
from store_engine.files.packed import NUM_BYTES, refuse_packed
from store_engine.files.regular import open_regular

_SUFFIXES = (*TEXT_SUFFIXES, ".jsonl", ".parquet")


@dataclass(frozen=True)
class Table:
    """Columns of one file.

    Args:
        path: Where they came from.
        columns: Name -> values, all of one length: an Arrow column (strings of text files, what a
            parquet file holds), or the plain values of JSON.
        numbers: Walks the file once more and gives the line (parquet: the row) of each row.
        notes: What in the file could be read in two ways.
    """

    path: Path
    columns: dict[str, pa.ChunkedArray | list[Any]]
    numbers: Callable[[], Iterator[int]]
    notes: tuple[str, ...] = ()

    @property
    def num_rows(self) -> int:
        """Rows of every column."""
        return len(next(iter(self.columns.values())))

    def keys(self, name: str) -> Keys:
        """Reads a column of ids."""
        return read_keys(self.columns[name], name)

    def times(self, name: str) -> Times:
        """Reads a column of timestamps."""
        return read_times(self.columns[name], name)

    def texts(self, name: str, report: DataReport) -> tuple[str, ...]:
        """Reads a column as text, one clean line per row.

        Args:
            name: The column.
            report: Counts empty texts and replaced characters.

        Raises:
            InputError: A value cannot be written as text; names its row.
        """
        values = self.columns[name]
        try:
            plain = values if isinstance(values, list) else plain_values(values)
        except ValueError as error:
            raise InputError(f"{self.path}: {name} {error}") from error
        texts = []
        for row, value in enumerate(plain):
            try:
                text = value if isinstance(value, str) else cell_text(value)
            except ValueError as error:
                raise InputError(f"{self.where(row)}: {name} {error}") from error
            texts.append(clean_text(text, report))
        report.num_empty[name] = texts.count("")
        return tuple(texts)

    def where(self, row: int) -> str:
        """Returns `file line N` of a row of the columns; `file row N` for parquet."""
        return f"{self.path} {self._place(row)}"

    def refuse(self, bad: Sequence[BadRows]) -> None:
        """Raises one error that tells of all bad rows, the first one first.

        Raises:
            InputError: There are bad rows.
        """
        if not bad:
            return
        first, *others = sorted(bad, key=lambda rows: rows.row)
        parts = [f"{self.path} {self._sentence(first)}"]
        parts += [f"also {self._sentence(rows)}" for rows in others]
        raise InputError("; ".join(parts))

    def _sentence(self, bad: BadRows) -> str:
        text = f"{self._place(bad.row)}: {bad.what}"
        if bad.other_row is not None:
            text += f" {self._place(bad.other_row)}"
        return text + (f" ({bad.num_rows:,} rows have this fault)" if bad.num_rows > 1 else "")

    def _place(self, row: int) -> str:
        unit = "row" if suffix_of(self.path) == ".parquet" else "line"
        return f"{unit} {next(islice(self.numbers(), row, None), '?')}"  # ?: the file has changed


def read_table(path: str | Path, columns: Sequence[str]) -> Table:
    """Reads columns by name.

    Args:
        path: The file; its suffix says the form.
        columns: Names to read; a name may come twice.

    Raises:
        InputError: The file is missing, empty, malformed, not UTF-8 or lacks a column; names the
            line where there is one.
    """
    path, names = Path(path), list(dict.fromkeys(columns))
    suffix = suffix_of(path)
    if suffix not in _SUFFIXES:
        raise InputError(
            f"{path}: the suffix must be one of {', '.join(_SUFFIXES)}; `store-engine prepare` "
            f"reads .json, .gz, .zst, .txt and many more"
        )
    try:
        with open_regular(path) as file:
            refuse_packed(path, file.read(NUM_BYTES))
        if suffix == ".parquet":
            return Table(path, *read_parquet(path, names))
        if suffix == ".jsonl":
            return Table(path, *read_json_lines(path, names))
        return Table(path, *read_delimited(path, names))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except MemoryError as error:
        raise InputError(f"{path}: too large to be read, out of memory") from error
