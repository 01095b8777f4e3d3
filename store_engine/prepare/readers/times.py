"""The form of a column of times: the one that most values fit, over the whole column.

A time stays what it is: whole numbers of any unit, decimals, or moments in UTC; `float64` is
never used, which has too few digits for both.
"""

import re
from typing import NamedTuple

import duckdb

from store_engine.errors import InputError
from store_engine.prepare.readers.storage import literal

_SAMPLE_ROWS = 100_000
# formats of strptime beside ISO 8601; the second of a pair swaps day and month
_FORMATS = (
    "%Y-%m-%d %H:%M:%S %z",  # Shopify; without the space it is ISO 8601
    "%a %b %d %H:%M:%S %z %Y",  # Goodreads
    "%m/%d/%Y %I:%M:%S %p",  # MIND
    "%m/%d/%y %I:%M %p",
    "%m/%d/%Y %I:%M %p",
    "%m %d, %Y",  # Amazon's reviewTime
    "Posted %B %d, %Y.",  # Steam, users' reviews
    "%B %d, %Y",
    "%d-%b-%Y",  # MovieLens' release dates
    "%d.%m.%y %H:%M",
    "%d.%m.%y",
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%d.%m.%Y",
    "%d-%m-%Y %H:%M:%S",
    "%m-%d-%Y %H:%M:%S",
    "%d-%m-%Y %H:%M",
    "%m-%d-%Y %H:%M",
    "%d-%m-%Y",
    "%m-%d-%Y",
    "%m/%d/%y %H:%M",
    "%d/%m/%y %H:%M",
    "%m/%d/%y",
    "%d/%m/%y",
    "%m/%d/%Y %H:%M:%S",
    "%d/%m/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M",
    "%d/%m/%Y %H:%M",
    "%m/%d/%Y",
    "%d/%m/%Y",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d",
    "%Y%m%d%H%M%S",
    "%a, %d %b %Y %H:%M:%S %Z",
)
# whole numbers in these ranges are seconds, milli-, micro-, nanoseconds of the years 1985 to 2128
_UNITS = {
    "seconds": (5 * 10**8, 5 * 10**9),
    "milliseconds": (5 * 10**11, 5 * 10**12),
    "microseconds": (5 * 10**14, 5 * 10**15),
    "nanoseconds": (5 * 10**17, 5 * 10**18),
}


class TimeForm(NamedTuple):
    """How a column of times is read.

    Attributes:
        name: For the report.
        sql: SQL of the time, NULL where the text is none; `{}` stands for the column.
        note: What could be read in two ways.
    """

    name: str
    sql: str
    note: str = ""


_TEXT = "nullif(trim({}), '')"
_WHOLE = TimeForm(
    "whole numbers",
    # nearly every text is the number's own: a regular expression takes three times as long
    f"CASE WHEN try_cast({{}} AS BIGINT)::VARCHAR = {{}} THEN try_cast({{}} AS BIGINT) "
    f"WHEN regexp_full_match({_TEXT}, '[+-]?[0-9]+([.]0*)?') THEN "
    f"try_cast(split_part({_TEXT}, '.', 1) AS BIGINT) END",
)
_DECIMAL = TimeForm(
    "decimals",
    f"CASE WHEN regexp_full_match({_TEXT}, '[+-]?[0-9]*[.]?[0-9]+([eE][+-]?[0-9]+)?[.]?') THEN "
    f"try_cast({_TEXT} AS DECIMAL(38, 9)) END",
)


def _of_four_digits(sql: str) -> str:
    """No moment where the year was written in two digits and read as one of the first century."""
    return f"CASE WHEN {sql} >= TIMESTAMP '1000-01-01' THEN {sql} END"


_MOMENT = f"try_cast({_TEXT} AS TIMESTAMPTZ)::TIMESTAMP"
_ISO = TimeForm("ISO 8601, without a zone taken as UTC", _of_four_digits(_MOMENT))


def choose_time_form(
    connection: duckdb.DuckDBPyConnection, table: str, column: str, time_format: str = ""
) -> TimeForm:
    """Finds how the times of a column are written.

    Args:
        connection: Where the table is.
        table: The table.
        column: Its column of times as text.
        time_format: A format of strptime that the user named; "" is none.

    Raises:
        InputError: `time_format` is no format, or no known form fits most of the values.
    """
    sample = f"SELECT {column} AS t FROM {table} WHERE trim({column}) <> '' LIMIT {_SAMPLE_ROWS}"
    forms = [_parsed(time_format)] if time_format else [_WHOLE, _DECIMAL, _ISO]
    forms += [] if time_format else map(_parsed, _FORMATS)
    counts = ", ".join(f"count({form.sql.replace('{}', 't')})" for form in forms)
    try:
        row = connection.execute(f"SELECT count(*), {counts} FROM ({sample})").fetchone()
    except duckdb.Error as error:
        raise InputError(f"--time-format {time_format!r}: {str(error)[:200]}") from error
    assert row is not None
    total, fits = row[0], list(row[1:])
    if not total:
        raise InputError("the column of times is empty in all rows; --time none does without")
    best = max(fits)
    if best < total / 2:
        example = connection.execute(f"SELECT t FROM ({sample}) LIMIT 1").fetchone()
        shown = "" if example is None else f", such as {example[0]!r}"
        raise InputError(
            f"no known form fits the times{shown}; --time-format names one, such as "
            f"'%d.%m.%Y %H:%M', and --time none does without times"
        )
    chosen = forms[fits.index(best)]
    twins = [
        f for f, n in zip(forms, fits, strict=True) if n == best and _swap(f.name) == chosen.name
    ]
    if twins and chosen is not twins[0]:
        note = f"times are read as {chosen.name}, and fit {twins[0].name} as well: --time-format"
        return chosen._replace(note=note)
    return chosen


def foreign_units(connection: duckdb.DuckDBPyConnection, table: str, column: str) -> dict[str, str]:
    """Makes tests for times in another unit than most of the first rows have.

    Args:
        connection: Where the table is.
        table: The table.
        column: Its column of times as text, all whole numbers.

    Returns:
        Kind of fault -> SQL of `t`, the time as a number, that is true of such a row.
    """
    at = _WHOLE.sql.replace("{}", column)
    counts = ", ".join(
        f"count(*) FILTER (t BETWEEN {low} AND {high})" for low, high in _UNITS.values()
    )
    sample = f"SELECT {at} AS t FROM {table} LIMIT {_SAMPLE_ROWS}"
    row = connection.execute(f"SELECT {counts} FROM ({sample})").fetchone()
    assert row is not None
    common = list(_UNITS)[row.index(max(row))]
    if not max(row):
        return {}
    return {
        f"a time in {unit} among {common}": f"t BETWEEN {low} AND {high}"
        for unit, (low, high) in _UNITS.items()
        if unit != common
    }


def _parsed(time_format: str) -> TimeForm:
    parsed = f"try_strptime({_TEXT}, {literal(time_format)})"
    return TimeForm(time_format, _of_four_digits(f"CAST({parsed} AS TIMESTAMP)"))


def _swap(time_format: str) -> str:
    """The format with day and month exchanged."""
    return re.sub("%[dm]", lambda m: "%m" if m[0] == "%d" else "%d", time_format)
