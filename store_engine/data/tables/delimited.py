"""Columns of csv, tsv and RecBole files, exactly as their writers meant them.

The suffix says what stands between the fields, unless the first lines agree better on something
else: a .csv may have semicolons, as where numbers have commas. A file without a quotation mark has
nothing to interpret: pyarrow splits it, at full speed. One with quotation marks is read by rules
that leave no row unnoticed:

- csv: Python's csv module in strict mode, RFC 4180. Text after a closing quote, or a quote that is
  never closed, is an error; a quote inside an unquoted field is a letter.
- tsv: a quotation mark may be a letter (no quoting, as in RecBole's and many other files) or
  quoting as in csv (pandas, Excel). A field is unquoted where it begins and ends with a quote and
  its quotes inside are doubled; what only begins with a quote stays as it is. `"Heroes"` is
  ambiguous: quotes around it are taken off if the header's names are quoted too. If lines have too
  few or too many fields, the file is read as csv is, with tabs; if both readings are possible, it
  is refused.

Whatever does not fit is refused with its line.
"""

import csv
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.csv

from store_engine.data.tables.dialects import (
    HEAD_BYTES,
    find_dialect,
    is_separator_line,
    whole_fields,
)
from store_engine.data.tables.lines import (
    MAX_FILE_BYTES,
    MAX_LINE_BYTES,
    read_lines,
    require_columns,
    suffix_of,
)
from store_engine.errors import InputError
from store_engine.files.regular import open_regular

_RECBOLE = (".inter", ".item", ".user")
SUFFIXES = (".csv", ".tsv", *_RECBOLE)
_GUESSED = {".csv": (",", ";", "\t", "|"), ".tsv": ("\t", ";", ",", "|")}  # the usual one first

_ROWS_PER_CHUNK = 1 << 16

Records = Iterator[tuple[int, list[str]]]  # line number (1 = first) and fields of each record


class _Marks(NamedTuple):
    """What a file's bytes say of how it may be read."""

    has_quote: bool
    has_line_feed: bool
    has_lone_return: bool  # a carriage return that is not part of CR LF
    has_nul: bool


def read_delimited(
    path: Path, names: list[str]
) -> tuple[dict[str, pa.ChunkedArray], Callable[[], Iterator[int]], tuple[str, ...]]:
    """Reads columns by name, all as strings.

    Args:
        path: The file.
        names: Columns to read.

    Returns:
        Name -> strings; a function that walks the file again for the line of each row; and notes
        on what could be read in two ways.

    Raises:
        InputError: The file cannot be read, is malformed or lacks a column.
    """
    marks = _scan(path)
    _check_encoding(path, marks)
    delimiter = _delimiter_of(path)
    read: Callable[[Path, str], Records]
    if not marks.has_quote:
        read = _plain_records
    elif suffix_of(path) == ".csv" or delimiter != "\t":
        read = _quoted_records
    else:
        read = _choose_tab_records(path)
    records = partial(_table_records, read, path, delimiter)
    number, header = next(records(), (1, []))
    if not header:
        raise InputError(f"{path}: is empty; expected a header with {', '.join(names)}")
    if suffix_of(path) in _RECBOLE:
        header = [name.partition(":")[0] for name in header]
    require_columns(f"{path} line {number}", header, names)

    def numbers() -> Iterator[int]:
        lines = (number for number, _ in records())
        next(lines)  # the header
        return lines

    if not marks.has_quote and not marks.has_lone_return:
        columns = _read_fast(path, delimiter, header, number, names)
        if columns is not None:
            return columns, numbers, ()
    columns, notes = _collect(path, delimiter, records(), header, names)
    return columns, numbers, notes


def _table_records(read: Callable[[Path, str], Records], path: Path, delimiter: str) -> Records:
    """Records from the header on."""
    for place, (number, record) in enumerate(read(path, delimiter)):
        if place or not is_separator_line(delimiter.join(record)):
            yield number, record


def _delimiter_of(path: Path) -> str:
    usual, *others = _GUESSED.get(suffix_of(path), ("\t",))
    if not others:
        return usual
    with open_regular(path, MAX_FILE_BYTES) as file:
        head = file.read(HEAD_BYTES)
    if len(head) == HEAD_BYTES:
        head = head[: head.rfind(b"\n") + 1] or head
    text = head.decode("utf-8-sig", errors="replace")
    first, _, rest = text.partition("\n")
    if is_separator_line(first):
        text = rest
    if dialect := find_dialect(text, (usual, *others)):
        return dialect.delimiter
    # its lines disagree: which one is wrong is said later
    header, _, _ = text.lstrip().partition("\n")
    return next((one for one in (usual, *others) if one in header), usual)


def _scan(path: Path) -> _Marks:
    num_quotes = num_feeds = num_returns = num_pairs = num_nuls = 0
    last = b""
    with open_regular(path, MAX_FILE_BYTES) as file:
        while block := file.read(MAX_LINE_BYTES):
            num_quotes += block.count(b'"')
            num_feeds += block.count(b"\n")
            num_returns += block.count(b"\r")
            num_pairs += block.count(b"\r\n") + (last == b"\r" and block[:1] == b"\n")
            num_nuls += block.count(b"\0")
            last = block[-1:]
    return _Marks(num_quotes > 0, num_feeds > 0, num_returns > num_pairs, num_nuls > 0)


def _check_encoding(path: Path, marks: _Marks) -> None:
    if marks.has_nul:
        for number, line in read_lines(path):
            if "\0" in line:
                raise InputError(
                    f"{path} line {number}: holds a NUL byte; a text file has none (UTF-16 has)"
                )
    if marks.has_lone_return and not marks.has_line_feed:
        raise InputError(f"{path} line 1: lines must end with LF or CR LF, not with CR alone")


def _read_fast(
    path: Path, delimiter: str, header: list[str], header_line: int, names: list[str]
) -> dict[str, pa.ChunkedArray] | None:
    """Columns by pyarrow; None where it finds a row that is to be looked at."""
    try:
        with open_regular(path, MAX_FILE_BYTES) as file:
            table = pa.csv.read_csv(
                file,
                pa.csv.ReadOptions(
                    column_names=header, skip_rows=header_line, block_size=MAX_LINE_BYTES
                ),
                pa.csv.ParseOptions(delimiter=delimiter, quote_char=False),
                pa.csv.ConvertOptions(
                    include_columns=names, column_types=dict.fromkeys(names, pa.string())
                ),
            )
    except (pa.ArrowException, ValueError):
        return None
    return {name: table[name] for name in names}


def _collect(
    path: Path, delimiter: str, records: Records, header: list[str], names: list[str]
) -> tuple[dict[str, pa.ChunkedArray], tuple[str, ...]]:
    """Columns of strings, and notes on records that could also be others."""
    places = [header.index(name) for name in names]
    chunks: list[list[pa.Array]] = [[] for _ in names]
    rows: list[list[str]] = []
    several: list[int] = []
    parted: list[int] = []

    def flush() -> None:
        for place, chunk in zip(places, chunks, strict=True):
            chunk.append(pa.array([row[place] for row in rows], pa.large_string()))
        rows.clear()

    next(records)  # the header
    for number, fields in records:
        record = whole_fields(fields, len(header), delimiter)
        _check_width(path, number, record, header)
        if len(record) < len(fields):
            parted.append(number)
        if _is_several(record, delimiter):
            several.append(number)
        rows.append(record)
        if len(rows) == _ROWS_PER_CHUNK:
            flush()
    flush()
    notes = [
        f"{path} line {number}: a quoted field holds a line break; were its quotes strays, these "
        f"were several rows ({len(several):,} such records)"
        for number in several[:1]
    ]
    notes += [
        f"{path} line {number}: the ; of an HTML entity is taken for a letter, not for the end of "
        f"a field ({len(parted):,} such records)"
        for number in parted[:1]
    ]
    columns = {name: pa.chunked_array(chunk) for name, chunk in zip(names, chunks, strict=True)}
    return columns, tuple(notes)


def _is_several(record: list[str], delimiter: str) -> bool:
    """Whether each line of a record that spans lines has as many delimiters as a record."""
    lines = delimiter.join(record).split("\n")
    return len(lines) > 1 and all(line.count(delimiter) == len(record) - 1 for line in lines)


def _check_width(path: Path, number: int, record: list[str], header: list[str]) -> None:
    if len(record) != len(header):
        spans = "; a quoted field spans lines" if any("\n" in field for field in record) else ""
        raise InputError(
            f"{path} line {number}: expected {len(header)} columns, got {len(record)}{spans}"
        )


def _plain_records(path: Path, delimiter: str) -> Records:
    """Records of a file without quoting."""
    for number, line in read_lines(path):
        if text := line.rstrip("\r\n"):
            yield number, text.split(delimiter)


def _quoted_records(path: Path, delimiter: str) -> Records:
    """Records by RFC 4180."""
    # a field can hold a whole product description; the limit is the process's, so never lower it
    csv.field_size_limit(max(MAX_LINE_BYTES, csv.field_size_limit()))
    hides_returns = False

    def lines() -> Iterator[str]:
        # Python's reader refuses a carriage return in an unquoted field, which Python's writer
        # leaves unquoted; NUL, which the file does not hold, stands in for it
        nonlocal hides_returns
        for _, line in read_lines(path):
            text = line.rstrip("\r\n")
            if "\r" in text:
                hides_returns = True
                line = text.replace("\r", "\0") + line[len(text) :]
            yield line

    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    begin = 1
    try:
        for record in reader:
            if hides_returns:
                record = [field.replace("\0", "\r") for field in record]
            if record:
                yield begin, record
            begin = reader.line_num + 1
    except csv.Error as error:
        kind = suffix_of(path).removeprefix(".")
        reason = _explain(str(error), reader.line_num)
        raise InputError(f"{path} line {begin}: not valid {kind}: {reason}") from error


def _explain(error: str, line: int) -> str:
    if "expected after" in error:
        return (
            f"a stray quote: text follows a closing quote on line {line}; "
            f"inside a quoted field a quote is written twice"
        )
    if "unexpected end of data" in error:
        return "a stray quote: it opens a field that is never closed"
    if "field larger" in error:
        return f"a quoted field is longer than {MAX_LINE_BYTES:,} characters; is it never closed?"
    return error


def _choose_tab_records(path: Path) -> Callable[[Path, str], Records]:
    """Which of the two readings of a tsv with quotation marks is the right one.

    Raises:
        InputError: Neither is possible, or both are and differ.
    """
    problem: InputError | None = None
    opened = 0  # the first line with a field that begins with a quote and is not a quoted field
    header: list[str] = []
    for number, record in _plain_records(path, "\t"):
        header = header or record
        try:
            _check_width(path, number, record, header)
        except InputError as error:
            problem = error
            break
        if not opened and any(f[:1] == '"' and not _is_quoted(f) for f in record):
            opened = number
    if problem is None and not opened:
        return _letter_records
    try:
        quoted_header: list[str] = []
        for number, record in _quoted_records(path, "\t"):
            quoted_header = quoted_header or record
            _check_width(path, number, record, quoted_header)
    except InputError:
        if problem is not None:
            raise problem from None
        return _letter_records
    if problem is None:
        raise InputError(
            f"{path} line {opened}: a quote begins a field, which may be one quoted field of "
            f"several lines or several rows with a quote as a letter; quote every field, or write "
            f"no line breaks into fields"
        )
    return _quoted_records


def _letter_records(path: Path, delimiter: str) -> Records:
    """Records whose fields are unquoted one by one."""
    is_quoting = None
    for number, record in _plain_records(path, delimiter):
        if is_quoting is None:
            is_quoting = all(map(_is_quoted, record))
        yield number, [_unquoted(f, is_quoting, path, number) for f in record]


def _is_quoted(field: str) -> bool:
    """Whether it begins and ends with a quote and has only doubled quotes between."""
    is_enclosed = len(field) > 1 and field[0] == field[-1] == '"'
    return is_enclosed and '"' not in field[1:-1].replace('""', "")


def _unquoted(field: str, is_quoting: bool, path: Path, number: int) -> str:
    """What a field stands for.

    Args:
        field: As it stands in the file.
        is_quoting: The file's writer quotes every text.
        path: The file, for the message.
        number: The line, for the message.
    """
    if field[:1] != '"':
        return field
    inner = field[1:-1]
    if _is_quoted(field):
        # a writer that quotes only what needs it quotes these
        is_needed = '""' in inner or "\r" in inner or not inner
        return inner.replace('""', '"') if is_quoting or is_needed else field
    is_escaped = field[-1] == '"' and '"' not in inner.replace('\\"', "") and '"' in inner
    if is_quoting or is_escaped:
        raise InputError(
            f"{path} line {number}: not valid tsv: a stray quote; inside a quoted field a quote "
            f"is written twice"
        )
    return field
