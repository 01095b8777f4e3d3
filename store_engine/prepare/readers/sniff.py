"""What a file's first megabyte tells of its layout.

Bytes decide, not names: a gzip file is one by its first two bytes. Nothing is read beyond the first
megabyte here; DuckDB scans the rest when a later step runs the SQL.
"""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from store_engine.data.tables.arrow_values import plain_values
from store_engine.data.tables.cell_text import cell_text
from store_engine.data.tables.dialects import (
    DELIMITERS,
    HEAD_BYTES,
    MAX_SAMPLE_ROWS,
    MIN_AGREEMENT,
    Dialect,
    find_dialect,
    is_separator_line,
    read_rows,
    split_lines,
)
from store_engine.errors import InputError
from store_engine.files.packed import NUM_BYTES, compression_of, refuse_archive
from store_engine.files.regular import open_regular, parse_errors
from store_engine.prepare.readers.literal_lines import parse_literal, unpacked
from store_engine.prepare.readers.storage import Kind, Storage
from store_engine.prepare.readers.windows_1252 import decode_windows_1252

ATOMIC = re.compile(r"[^:]+:(token|token_seq|float|float_seq)")  # a RecBole file's column


def read_storage(path: Path, like: Storage | None = None) -> Storage:
    """Looks at the first megabyte of a file.

    Args:
        path: The file.
        like: What is known of delimited text: its marks and whether it has a header are taken from
            there instead of being found.

    Raises:
        InputError: It is missing, empty, packed in an archive, or of no known layout.
    """
    with open_regular(path) as file:
        start = file.read(NUM_BYTES)
    if start.startswith(b"PAR1"):
        return _parquet(path)
    refuse_archive(path, start)
    compression = compression_of(start)
    head, is_whole = _head(path, compression)
    text, encoding = _decode(path, head, is_whole)
    first = text.lstrip()[:2]
    if not first:
        raise InputError(f"{path}: is empty")
    if first[0] == "{" or (first[0] == "[" and text.lstrip()[1:].lstrip()[:1] in ("{", "]")):
        return _json(path, text, is_whole, compression, encoding)
    if like is not None and like.kind == "lines":
        return _sequences(path, text, compression, encoding)
    known = like if like is not None and like.kind == "delimited" else None
    return _delimited(path, text, compression, encoding, known)


def _head(path: Path, compression: str) -> tuple[bytes, bool]:
    """The first megabyte, unpacked, and whether it is all there is."""
    with open_regular(path) as file, parse_errors(path, f"a readable {compression} file"):
        stream = unpacked(file, compression)
        head = b""
        while len(head) <= HEAD_BYTES and (block := stream.read(HEAD_BYTES + 1 - len(head))):
            head += block
    return head[:HEAD_BYTES], len(head) <= HEAD_BYTES


def _decode(path: Path, head: bytes, is_whole: bool) -> tuple[str, str]:
    """Text of the head up to its last whole line, and its encoding."""
    if head[:2] == b"\xfe\xff":
        raise InputError(f"{path}: is UTF-16 of the big-endian kind: save it as UTF-8 first")
    if head[:2] == b"\xff\xfe":
        return head[: len(head) // 2 * 2].decode("utf-16", errors="ignore"), "utf-16"
    if b"\0" in head:
        raise InputError(f"{path}: holds NUL bytes, it is no text, json or parquet file")
    if not is_whole:
        head = head[: head.rfind(b"\n") + 1] or head
    text = head.decode("utf-8-sig", errors="replace")
    num_wrong = text.count("\ufffd")
    # one damaged line among good ones is a damaged line; where most are wrong, it is Windows-1252
    if num_wrong and num_wrong * 2 > sum(character > "\x7f" for character in text):
        return decode_windows_1252(head), "windows-1252"
    return text, "utf-8"


def _parquet(path: Path) -> Storage:
    with parse_errors(path, "a readable parquet file"):
        file = pa.parquet.ParquetFile(path)
        schema = file.schema_arrow
        batch = next(file.iter_batches(MAX_SAMPLE_ROWS), None)
    columns = tuple(schema.names)
    texts = [] if batch is None else [_column_texts(column) for column in batch.columns]
    sample = tuple(zip(*texts, strict=True))
    types = tuple(str(field.type) for field in schema)
    return Storage((path,), "parquet", columns, sample, types=types)


def _column_texts(column: pa.Array) -> list[str]:
    try:
        return [_shown(value) for value in plain_values(pa.chunked_array([column]))]
    except ValueError:  # what has no text is no id, time or text
        return [""] * len(column)


def _shown(value: object) -> str:
    try:
        return cell_text(value)
    except ValueError:
        return str(value)


def _json(path: Path, text: str, is_whole: bool, compression: str, encoding: str) -> Storage:
    lines = [line for line in split_lines(text) if line.strip()]
    kind: Kind = "json"
    form = "newline_delimited"
    parsed = map(_parsed, lines[:MAX_SAMPLE_ROWS])
    objects: list[Any] = [value for value in parsed if isinstance(value, dict)]
    if len(objects) * 2 < min(len(lines), MAX_SAMPLE_ROWS):
        if text.lstrip()[0] == "{" and (first := parse_literal(lines[0])) is not None:
            kind = "literal"
            objects = [first, *filter(None, map(parse_literal, lines[1:200]))]
        else:
            form = "array" if text.lstrip()[0] == "[" else "unstructured"
            objects = _stream(text)
    rows = [row for row in objects if isinstance(row, dict)]
    if not rows:
        raise InputError(f"{path}: not json of objects, nor Python literals: one a line, or a list")
    if len(rows) == 1 and all(isinstance(v, dict | list) for v in rows[0].values()) and is_whole:
        raise InputError(
            f"{path}: is one object of columns; objects are wanted, one a line "
            f"(pandas: to_json(orient='records', lines=True))"
        )
    columns = tuple(dict.fromkeys(key for row in rows for key in row))
    sample = tuple(tuple(_shown(row.get(name)) for name in columns) for row in rows)
    return Storage((path,), kind, columns, sample, compression, encoding, json_format=form)


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _stream(text: str) -> list[Any]:
    """Objects that follow each other or stand in a list, as far as they are whole."""
    objects: list[Any] = []
    decoder, place = json.JSONDecoder(), 0
    while len(objects) < MAX_SAMPLE_ROWS:
        while place < len(text) and text[place] in " \t\r\n,[":
            place += 1
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            return objects
        objects.append(value)
    return objects


def _delimited(
    path: Path, text: str, compression: str, encoding: str, known: Storage | None
) -> Storage:
    if "\r" in text and "\n" not in text:
        raise InputError(f"{path}: lines must end with LF or CR LF, not with CR alone")
    num_skipped = int(is_separator_line(split_lines(text)[0]))
    text = text.partition("\n")[2] if num_skipped else text
    header = split_lines(text)[0].split("\t")
    if known is not None:
        found: Dialect | None = _dialect_like(text, known)
    elif all(ATOMIC.fullmatch(name) for name in header):
        found = Dialect("\t", "", "", read_rows(text, "\t", "", ""))
    else:
        found = find_dialect(text)
    if found is None:
        return _sequences(path, text, compression, encoding)
    delimiter, quote, escape, rows = found
    has_header = _is_header(rows) if known is None else known.has_header
    if has_header:
        columns = tuple(name.strip() or f"column_{place}" for place, name in enumerate(rows[0]))
        if len(set(columns)) < len(columns):
            twice = next(name for name, count in Counter(columns).items() if count > 1)
            raise InputError(f"{path} line 1: column {twice} appears twice")
    else:
        columns = tuple(f"column_{place}" for place in range(len(rows[0])))
    body = rows[1:] if has_header else rows
    sample = tuple(tuple(row) for row in body if len(row) == len(columns))
    return Storage(
        (path,), "delimited", columns, sample[:MAX_SAMPLE_ROWS],
        compression, encoding, delimiter, quote, escape, has_header, num_skipped=num_skipped,
    )  # fmt: skip


def _dialect_like(text: str, known: Storage) -> Dialect:
    """The dialect of other files; where their quotes do not fit, quotes are letters."""
    if rows := read_rows(text, known.delimiter, known.quote, known.escape):
        return Dialect(known.delimiter, known.quote, known.escape, rows)
    return Dialect(known.delimiter, "", "", read_rows(text, known.delimiter, "", "") or [[""]])


def _is_header(rows: list[list[str]]) -> bool:
    """Whether the first row names columns: no name is a number, and none comes again.

    A name may be empty where the column is, as of rows that end with a separator, and the first.
    """
    first, others = rows[0], rows[1:200]
    if any(map(_is_number, first)):
        return False
    for place, name in enumerate(first[1:], 1):
        if not name.strip() and any(row[place : place + 1] not in ([], [""]) for row in others):
            return False
    for place, name in enumerate(first):
        values = [row[place] for row in others if len(row) > place and row[place]]
        if values and all(map(_is_number, values)):
            return True  # a word above numbers
        if name in values:
            return False
    named = [name for name in first if name.strip()]
    return all(len(name) <= 40 for name in named) and len(set(named)) == len(named)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _sequences(path: Path, text: str, compression: str, encoding: str) -> Storage:
    """Lines of a user and the user's items."""
    lines = [line for line in split_lines(text)[:MAX_SAMPLE_ROWS] if line.strip()]
    for delimiter in ("\t", " ", ",", ";"):
        rows = [line.split(delimiter) for line in lines]
        tokens = [token for row in rows for token in row]
        if (
            len(rows) > 1
            and sum(len(row) > 1 for row in rows) >= MIN_AGREEMENT * len(rows)
            and all(len(token) <= 64 and " " not in token for token in tokens)
        ):
            sample = tuple((line,) for line in lines)
            return Storage((path,), "lines", ("line",), sample, compression, encoding, delimiter,
                           has_header=False)  # fmt: skip
    raise InputError(
        f"{path}: no layout fits its first megabyte: rows of as many fields, separated by one of "
        f"({', '.join(map(repr, DELIMITERS))}), a user and items per line, json, or parquet"
    )
