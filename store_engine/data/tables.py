"""Named columns out of a file: csv, tsv, parquet, jsonl, or RecBole's atomic files.

pyarrow reads; where it meets something wrong, a slow second look at the file finds the line to
name. So the common case is fast (1e7 events in seconds) and the error is still exact.

| suffix | form |
|---|---|
| .csv | RFC 4180: commas, fields may be quoted, a header |
| .tsv | tabs, no quoting (a quotation mark is a letter), a header |
| .inter .item .user | RecBole: as .tsv, header names carry a type, `item_id:token` |
| .jsonl | one object per line |
| .parquet | typed columns |
"""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from store_engine.errors import InputError

_RECBOLE = (".inter", ".item", ".user")
_DELIMITERS = {".csv": ",", ".tsv": "\t"} | dict.fromkeys(_RECBOLE, "\t")
_SUFFIXES = (*_DELIMITERS, ".jsonl", ".parquet")
_BLOCK_BYTES = 1 << 24  # the longest line pyarrow can take


@dataclass(frozen=True)
class Table:
    """Columns of one file.

    Args:
        path: Where they came from.
        columns: Name -> values, all of one length. Text files give strings, jsonl and parquet
            what they hold.
    """

    path: Path
    columns: dict[str, pa.ChunkedArray]

    def where(self, row: int) -> str:
        """`file line N` (`file row N` for parquet, 1 = the first) of a row of the columns."""
        if self.path.suffix == ".parquet":
            return f"{self.path} row {row + 1}"
        if self.path.suffix == ".jsonl":
            numbers = (number for number, _ in _json_objects(self.path))
        else:
            numbers = (number for number, _ in _records(self.path))
            next(numbers)  # the header
        return f"{self.path} line {next(n for i, n in enumerate(numbers) if i == row)}"


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
    if path.suffix not in _SUFFIXES:
        raise InputError(f"{path}: the suffix must be one of {', '.join(_SUFFIXES)}")
    try:
        if path.suffix == ".parquet":
            return Table(path, _read_parquet(path, names))
        if path.suffix == ".jsonl":
            return Table(path, _read_jsonl(path, names))
        return Table(path, _read_csv(path, names))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error


def _read_csv(path: Path, names: list[str]) -> dict[str, pa.ChunkedArray]:
    number, header = next(_records(path), (1, []))
    if path.suffix in _RECBOLE:
        header = [name.partition(":")[0] for name in header]
    _require_columns(f"{path} line {number}", header, names)
    delimiter = _DELIMITERS[path.suffix]
    is_quoted = path.suffix == ".csv"
    try:
        table = pa.csv.read_csv(
            path,
            # the header row is read and dropped as data: a skipped row could not be quoted
            pa.csv.ReadOptions(
                column_names=header, skip_rows_after_names=1, block_size=_BLOCK_BYTES
            ),
            pa.csv.ParseOptions(
                delimiter=delimiter,
                quote_char='"' if is_quoted else False,
                newlines_in_values=is_quoted,
            ),
            pa.csv.ConvertOptions(
                include_columns=names, column_types=dict.fromkeys(names, pa.string())
            ),
        )
        if is_quoted and _count_quotes(path) % 2:
            # pyarrow takes a quote that is never closed; reading by hand refuses it
            for _ in _records(path):
                pass
    except pa.ArrowInvalid as error:
        for number, record in _records(path):
            if len(record) != len(header):
                raise InputError(
                    f"{path} line {number}: expected {len(header)} columns, got {len(record)}"
                ) from error
        raise InputError(f"{path}: {error}") from error
    return {name: table[name] for name in names}


def _count_quotes(path: Path) -> int:
    with path.open("rb") as file:
        return sum(block.count(b'"') for block in iter(lambda: file.read(_BLOCK_BYTES), b""))


def _read_jsonl(path: Path, names: list[str]) -> dict[str, pa.ChunkedArray]:
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for number, item in _json_objects(path):
        for name, values in columns.items():
            if name not in item:
                _require_columns(f"{path} line {number}", list(item), names)
            values.append(item[name])
    try:
        return {name: pa.chunked_array([pa.array(v)]) for name, v in columns.items()}
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: a column must hold one type: {error}") from error


def _read_parquet(path: Path, names: list[str]) -> dict[str, pa.ChunkedArray]:
    try:
        with pa.parquet.ParquetFile(path) as file:
            _require_columns(str(path), file.schema_arrow.names, names)
            table = file.read(columns=names)
    except pa.ArrowException as error:
        raise InputError(f"{path}: not a readable parquet file: {error}") from error
    return {name: table[name] for name in names}


def _require_columns(where: str, header: list[str], names: list[str]) -> None:
    for name in names:
        if header.count(name) != 1:
            problem = "appears twice" if name in header else "is missing"
            found = ", ".join(header) or "none"
            raise InputError(f"{where}: column {name} {problem}; columns: {found}")


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number (1 = first) and fields of each record, by the rules pyarrow follows."""
    if path.suffix != ".csv":
        for number, line in _lines(path):
            if text := line.rstrip("\r\n"):  # pyarrow skips empty lines too
                yield number, text.split("\t")
        return
    csv.field_size_limit(_BLOCK_BYTES)  # a field can hold a whole product description
    reader = csv.reader((line for _, line in _lines(path)), strict=True)
    begin = 1
    try:
        for record in reader:
            if record:
                yield begin, record
            begin = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path} line {begin}: not valid csv: {error}") from error


def _json_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path} line {number}: not valid JSON: {error}") from error
        if not isinstance(item, dict):
            raise InputError(f"{path} line {number}: expected a JSON object")
        yield number, item


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line number (1 = first) and text of every line, without a byte order mark."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path} line {number}: not UTF-8 (byte 0x{line[error.start]:02x} "
                    f"at position {error.start + 1})"
                ) from error
