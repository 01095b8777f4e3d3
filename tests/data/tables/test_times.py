"""Timestamps sort exactly, or the row is named."""

import datetime as dt
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store_engine.data.tables.times import read_times

NS = 1_700_000_000_000_000_000


def column(values, kind):
    return values if kind is None else pa.chunked_array([pa.array(values, kind)])


# name -> (values of which the third is the earliest and the first the latest, type)
ORDERED = {
    "nanoseconds": ([NS + 2, NS + 1, NS], pa.timestamp("ns")),
    "seconds": ([3, 2, 1], pa.timestamp("s")),
    "zone": ([3, 2, 1], pa.timestamp("ms", "Europe/Paris")),
    "date32": ([dt.date(2020, 1, d) for d in (3, 2, 1)], pa.date32()),
    "date64": ([dt.date(2020, 1, d) for d in (3, 2, 1)], pa.date64()),
    "duration": ([3, 2, 1], pa.duration("ns")),
    "int64": ([NS + 2, NS + 1, NS], pa.int64()),
    "uint64": ([2**64 - 1, 2**64 - 2, 1], pa.uint64()),
    "uint8": ([3, 2, 1], pa.uint8()),
    "float64": ([1.5, 1.25, -1.0], pa.float64()),
    "float32": ([1.5, 1.25, -1.0], pa.float32()),
    "decimal": ([Decimal(f"1700000000.12345678{d}") for d in (3, 2, 1)], pa.decimal128(30, 9)),
    "bytes": ([b"3", b"2", b"1"], pa.binary()),
    "dictionary": (["3", "2", "10e-1"], pa.dictionary(pa.int8(), pa.string())),
    "text integers": ([str(NS + 2), str(NS + 1), str(NS)], pa.string()),
    "beyond int64": ([str(2**70 + 2), str(2**70 + 1), str(2**70)], pa.string()),
    "fractions beside integers": (
        ["1700000000.000000002", "1700000000.000000001", "1700000000"],
        pa.string(),
    ),
    "short fractions": (["1.5", "1", "0.999"], pa.string()),
    "white space": ([" 3.0", "2 ", "1"], pa.string()),
    "text dates": (["2020-01-03", "2020-01-02", "2019-12-31"], pa.string()),
    "date and time": (["2020-01-02 00:00:01", "2020-01-02", "2020-01-01T23:59:59"], pa.string()),
    "offsets": (
        ["2020-01-01T12:00:00-05:00", "2020-01-01T12:00:00Z", "2020-01-01T12:00:00+02:00"],
        pa.string(),
    ),
    "nine digits": ([f"2020-01-01T00:00:00.00000000{d}" for d in (3, 2, 1)], pa.string()),
    "nine digits, zone": (
        [f"2020-01-01T00:00:00.00000000{d}+01:00" for d in (3, 2, 1)],
        pa.string(),
    ),
    "twelve digits": ([f"2020-01-01T00:00:00.00000000000{d}Z" for d in (3, 2, 1)], pa.string()),
    "basic form": ([f"20200101T000000.00000000{d}" for d in (3, 2, 1)], pa.string()),
    "far years": (["9999-12-31", "2020-01-01T00:00:00.0000001", "0001-01-01"], pa.string()),
    "beyond the years of UTC": (
        [f"0001-01-01T00:00:00.00000000000{d}+09:00" for d in (3, 2, 1)],
        pa.string(),
    ),
    "JSON integers": ([NS + 2, NS + 1, NS], None),
    "JSON mixed": ([Decimal("2.5"), 2, "1e0"], None),
    "JSON big": ([10**30 + 2, 10**30 + 1, 10**30], None),
    "JSON text": (["2020-01-03", "2020-01-02", "2020-01-01"], None),
}


@pytest.mark.parametrize(("values", "kind"), ORDERED.values(), ids=ORDERED)
def test_times_are_ordered(values, kind):
    order, bad = read_times(column(values, kind), "t")
    assert bad == []
    assert order[0] > order[1] > order[2]
    repeated = read_times(column([*values, values[1]], kind), "t").order
    assert repeated[3] == repeated[1]


# name -> (values, type, bad row, what is said)
BAD = {
    "null": ([1, None], pa.int64(), 1, "must be a finite number, got nothing"),
    "NaN": ([1.0, float("nan")], pa.float64(), 1, "must be a finite number, got nan"),
    "infinite": (["1", "inf"], pa.string(), 1, "must be a finite number, got 'inf'"),
    "null time": ([NS, None], pa.timestamp("ns"), 1, "must be a time in ISO 8601, got nothing"),
    "empty": (["1", ""], pa.string(), 1, "must be a finite number, got nothing"),
    "word": (["soon", "1"], pa.string(), 0, "must be a finite number, got 'soon'"),
    "words": (
        ["soon"],
        pa.string(),
        0,
        "must be a finite number or a time in ISO 8601, got 'soon'",
    ),
    "number after time": (["2020-01-01", "3"], pa.string(), 1, "a time in ISO 8601"),
    "time after number": (["3", "2020-01-01"], pa.string(), 1, "a finite number, got '2020-01-01'"),
    "other form": (
        ["2020-01-01", "01/02/2020"],
        pa.string(),
        1,
        "a time in ISO 8601, got '01/02/2020'",
    ),
    "no zone": (
        ["2020-01-01T00:00Z", "2020-01-01T00:00"],
        pa.string(),
        1,
        "with a zone, as before",
    ),
    "a zone": (
        ["2020-01-01T00:00", "2020-01-01T00:00Z"],
        pa.string(),
        1,
        "without a zone, as before",
    ),
    "boolean": ([1, True], None, 1, "must be a finite number, got True"),
    "boolean column": ([True], pa.bool_(), 0, "got True"),
    "list": ([[1]], pa.list_(pa.int8()), 0, "got [1]"),
    "JSON NaN": ([1, float("nan")], None, 1, "must be a finite number, got nan"),
    "huge": ([1, Decimal("1E+999999")], None, 1, "must be a finite number, got 1E+999999"),
    "time of day": ([1], pa.time32("s"), 0, "got '00:00:01'"),
    "interval": ([None], pa.month_day_nano_interval(), 0, "which has no text"),
}


@pytest.mark.parametrize(("values", "kind", "row", "what"), BAD.values(), ids=BAD)
def test_a_row_without_a_time_is_named(values, kind, row, what):
    (bad,) = read_times(column(values, kind), "t").bad
    assert bad.row == row and bad.what.startswith("t ") and what in bad.what


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1_600_000_000, 0, 1_600_000_000_000], pa.int64()),
        ([1.6e9, 0.0, 1.6e12], pa.float64()),
        (["1600000000", "0", "1600000000000"], pa.string()),
        (["1600000000.123456789", "0", "1600000000000"], pa.string()),
        ([1_600_000_000, 0, Decimal("1600000000000.5")], None),
        ([1_600_000_000_000, 0, 1_600_000_000_000_000_000], pa.int64()),
    ],
    ids=["int", "float", "text", "exact text", "JSON", "ms and ns"],
)
def test_two_units_in_one_column_are_noticed(values, kind):
    (bad,) = read_times(column(values, kind), "t").bad
    assert (bad.row, bad.other_row) == (2, 0)
    assert "looks like" in bad.what and "seconds" in bad.what


def test_times_that_are_no_unix_times_have_no_unit():
    for values in ([0, 10**12], [5, 1_600_000_000], [10**12, 10**12 + 1]):
        assert read_times(column(values, pa.int64()), "t").bad == []
    # microseconds since 1970 inside, not numbers of the user's
    dates = ["1970-01-20", "2020-01-01", "1970-01-01T00:30:00"]
    assert read_times(column(dates, pa.string()), "t").bad == []


@given(st.lists(st.decimals(-(10**20), 10**20, places=12), min_size=1), st.booleans())
def test_any_decimals_are_ranked_exactly(values, is_text):
    texts = [format(value, "f") for value in values]
    order, bad = read_times(column(texts, pa.string()) if is_text else values, "t")
    if not bad:  # else two units
        exact = [Fraction(value) for value in values]
        assert np.argsort(order, kind="stable").tolist() == sorted(
            range(len(exact)), key=exact.__getitem__
        )
        assert len(set(order.tolist())) == len(set(exact))


YEARS = {"min_value": dt.datetime(2, 1, 1), "max_value": dt.datetime(9998, 1, 1)}


@given(st.lists(st.datetimes(**YEARS, timezones=st.timezones() | st.none()), min_size=1))
def test_any_iso_times_are_ordered_or_refused(values):
    texts = [value.isoformat() for value in values]
    order, bad = read_times(column(texts, pa.string()), "t")
    has_zone = {value.utcoffset() is not None for value in values}
    assert bool(bad) == (len(has_zone) == 2)
    if not bad:
        keys = [v.astimezone(dt.UTC) if True in has_zone else v for v in values]
        for position, key in enumerate(keys):
            assert np.sign(order[position] - order[0]) == (key > keys[0]) - (key < keys[0])
