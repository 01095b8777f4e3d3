"""The first rows of a table, as files of their own: what a dry run reads of large files."""

import csv
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from store_engine.files.regular import parse_errors
from store_engine.prepare.readers.line_ends import records, text_lines
from store_engine.prepare.readers.storage import Storage, place_of_copy


def with_first_rows(storage: Storage, folder: Path, max_rows: int) -> Storage:
    """Copies the first rows, in the order of the files; a JSON list is left whole.

    Args:
        storage: The files.
        folder: Where the copies are written, under the files' own names.
        max_rows: Rows to copy, at least 1.

    Returns:
        The copies; `storage` as it is where it has no more rows.

    Raises:
        InputError: A file cannot be read.
    """
    if storage.kind == "json" and storage.json_format != "newline_delimited":
        return storage
    copy_rows = _copy_parquet if storage.kind == "parquet" else _copy_text
    copies: list[Path] = []
    num_left, is_whole = max_rows, True
    for number, path in enumerate(storage.files):
        if not (num_left and is_whole):
            break
        copies.append(place_of_copy(path, number, folder))
        num_rows, is_whole = copy_rows(path, copies[-1], storage, num_left)
        num_left -= num_rows
    if is_whole and len(copies) == len(storage.files):
        return storage
    return replace(storage, files=tuple(copies), compression="none")


def _copy_text(path: Path, copy: Path, storage: Storage, max_rows: int) -> tuple[int, bool]:
    """Copies rows and what stands before them; how many there were, and whether all."""
    try:
        return _write(_rows(path, storage), copy, storage, max_rows)
    except csv.Error:  # a stray quote: a row is a line
        return _write(([line] for line in text_lines(path, storage)), copy, storage, max_rows)


def _rows(path: Path, storage: Storage) -> Iterator[list[str]]:
    if storage.kind == "delimited" and storage.quote:
        yield from records(path, storage)
    else:
        yield from ([line] for line in text_lines(path, storage))


def _write(
    rows: Iterator[list[str]], copy: Path, storage: Storage, max_rows: int
) -> tuple[int, bool]:
    num_before = storage.num_skipped + (storage.kind == "delimited" and storage.has_header)
    num_rows = -num_before
    with copy.open("w", encoding=storage.encoding, errors="surrogateescape", newline="") as text:
        for row in islice(rows, num_before + max_rows):
            text.writelines(row)
            num_rows += 1
    return max(num_rows, 0), next(rows, None) is None


def _copy_parquet(path: Path, copy: Path, storage: Storage, max_rows: int) -> tuple[int, bool]:
    """As `_copy_text`, of a parquet file."""
    with parse_errors(path, "a readable parquet file"):
        file = pa.parquet.ParquetFile(path)
        num_rows = min(max_rows, file.metadata.num_rows)
        with pa.parquet.ParquetWriter(copy, file.schema_arrow) as out:
            for batch in file.iter_batches(num_rows) if num_rows else ():
                out.write_batch(batch)
                break
    return num_rows, num_rows == file.metadata.num_rows
