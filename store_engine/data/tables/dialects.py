"""How a text file parts its fields: told from its first lines, for every command that reads one."""

import csv
import html.entities
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from store_engine.data.tables.lines import MAX_LINE_BYTES

HEAD_BYTES = 1 << 20
MAX_SAMPLE_ROWS = 2000
DELIMITERS = ("\t", "::", ";", "|", ",", " ")
MIN_AGREEMENT = 0.9  # share of the lines that must have the commonest number of fields

# what may stand before the `;` of an HTML entity, also of one that was escaped again
_ENTITY = re.compile(r"&(?:amp;)*(#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31})$")


class Dialect(NamedTuple):
    """How fields are parted and quoted.

    Attributes:
        delimiter: Between fields.
        quote: The quotation mark, "" where it is a letter.
        escape: What stands before a quotation mark inside quotes.
        rows: The first lines' fields.
    """

    delimiter: str
    quote: str
    escape: str
    rows: list[list[str]]


def find_dialect(text: str, delimiters: Sequence[str] = DELIMITERS) -> Dialect | None:
    """Finds the dialect that most lines agree on; None where no delimiter gives rows.

    Args:
        text: A file's first whole lines.
        delimiters: Those to try; of equals the first one is taken.
    """
    best = None
    for delimiter in delimiters:
        for quote, escape in (('"', '"'), ('"', "\\"), ("", "")):
            rows = read_rows(text, delimiter, quote, escape)
            if not rows:
                continue
            ((width, count),) = Counter(map(len, rows)).most_common(1)
            agreement = count / len(rows)
            if width < 2 or agreement < MIN_AGREEMENT or len(rows[0]) != width:
                continue
            # tabs and `::` are no part of prose; of others the one that agrees best, then most
            # fields; quoting only where it explains more than letters do
            score = (round(agreement, 3), delimiter in "\t::", width)
            if best is None or score > best[0]:
                best = (score, Dialect(delimiter, quote, escape, rows))
    return None if best is None else best[1]


def is_separator_line(line: str) -> bool:
    """Tells whether a first line is Excel's `sep=;`, which is no part of the table."""
    return re.fullmatch(r"\ufeff?sep=.?\s*", line) is not None


def split_lines(text: str) -> list[str]:
    """Parts lines that end with LF or CR LF: a text may hold what else Python ends lines at."""
    return text.replace("\r\n", "\n").split("\n")


def read_rows(text: str, delimiter: str, quote: str, escape: str) -> list[list[str]]:
    """Reads the first rows of a text; none where the quotes do not fit."""
    if not quote or len(delimiter) > 1:
        if quote:
            return []
        lines = split_lines(text)[: MAX_SAMPLE_ROWS + 1]
        return _whole([line.split(delimiter) for line in lines if line], delimiter)
    if escape == "\\" and '\\"' not in text:
        return []
    if delimiter == "\t" and not any(
        field.startswith('"') and field.endswith('"') and len(field) > 1
        for line in split_lines(text)[:MAX_SAMPLE_ROWS]
        for field in line.split("\t")
    ):
        return []  # a quotation mark in a tab-separated file is a letter
    reader = csv_reader(io.StringIO(text, newline=""), delimiter, quote, escape)
    rows = []
    try:
        for row in reader:
            if row:
                rows.append(row)
            if len(rows) > MAX_SAMPLE_ROWS:
                break
    except csv.Error:
        return []
    return _whole(rows, delimiter)


def csv_reader(
    lines: Iterable[str], delimiter: str, quote: str, escape: str, strict: bool = False
) -> Any:
    """Makes Python's reader of a dialect; a strict one raises csv.Error for a stray quote."""
    csv.field_size_limit(max(MAX_LINE_BYTES, csv.field_size_limit()))
    if not quote:
        return csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    escaping: dict[str, Any] = {"doublequote": escape == quote}
    if escape != quote:
        escaping["escapechar"] = escape
    return csv.reader(lines, delimiter=delimiter, quotechar=quote, strict=strict, **escaping)


def whole_fields(fields: list[str], width: int, delimiter: str) -> list[str]:
    """Puts together what the `;` of HTML entities parted, as in `7;K&ouml;ln;12`.

    Args:
        fields: Of one row.
        width: Fields that a row has.
        delimiter: Of the file.

    Returns:
        `width` fields, if that makes as many of a row with more; else the fields as they are.
    """
    if delimiter != ";" or len(fields) <= width:
        return fields
    whole = fields[:1]
    for field in fields[1:]:
        if _ends_in_entity(whole[-1]):
            whole[-1] += ";" + field
        else:
            whole.append(field)
    return whole if len(whole) == width else fields


def _whole(rows: list[list[str]], delimiter: str) -> list[list[str]]:
    return [whole_fields(row, len(rows[0]), delimiter) for row in rows]


def _ends_in_entity(text: str) -> bool:
    found = _ENTITY.search(text, max(0, len(text) - 64))
    return found is not None and (found[1][0] == "#" or f"{found[1]};" in html.entities.html5)
