"""Files of which HTML entities part fields: `7;K&ouml;ln;12` has three where `;` parts them."""

import csv
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from store_engine.data.tables.dialects import csv_reader, whole_fields
from store_engine.prepare.readers.line_ends import text_lines
from store_engine.prepare.readers.storage import Storage, place_of_copy


def with_whole_fields(storage: Storage, folder: Path) -> tuple[Storage, int]:
    """Writes such files anew, quoted as RFC 4180 has it; other tables are returned as they are.

    Args:
        storage: The files.
        folder: Where the copies are written, under the files' own names.

    Returns:
        The files, and the number of rows that were put together.

    Raises:
        InputError: A file cannot be read.
    """
    if storage.kind != "delimited" or storage.delimiter != ";":
        return storage, 0
    width = len(storage.columns)
    try:
        num_parted = sum(
            len(row) > width == len(whole_fields(row, width, ";"))
            for path in storage.files
            for row in _rows(path, storage)
        )
    except csv.Error:  # a stray quote: DuckDB counts the rows that are broken
        return storage, 0
    if not num_parted:
        return storage, 0
    copies = []
    for number, path in enumerate(storage.files):
        copies.append(place_of_copy(path, number, folder))
        with copies[-1].open("w", encoding="utf-8", errors="surrogateescape", newline="") as text:
            writer = csv.writer(text, delimiter=";", lineterminator="\n")
            writer.writerows(whole_fields(row, width, ";") for row in _rows(path, storage))
    form: dict[str, Any] = {
        "num_skipped": 0,
        "compression": "none",
        "encoding": "utf-8",
        "quote": '"',
        "escape": '"',
        "line_end": "",
    }
    return replace(storage, files=tuple(copies), **form), num_parted


def _rows(path: Path, storage: Storage) -> Iterator[list[str]]:
    rows = csv_reader(text_lines(path, storage), ";", storage.quote, storage.escape, strict=True)
    yield from islice(rows, storage.num_skipped, None)
