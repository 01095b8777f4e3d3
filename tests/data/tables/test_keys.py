"""Ids: exact whatever type a file gives them, or refused with the row."""

from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store_engine.data.tables.keys import read_keys

BIG = 18446744073709551610

# name -> (values, type, ids)
GOOD = {
    "text": (["007", " x", "1.0", "nan"], pa.string(), ["007", " x", "1.0", "nan"]),
    "large_string": (["a"], pa.large_string(), ["a"]),
    "string_view": (["a"], pa.string_view(), ["a"]),
    "dictionary": (["a", "b"], pa.dictionary(pa.int32(), pa.string()), ["a", "b"]),
    "bytes": ([b"a", "é".encode()], pa.binary(), ["a", "é"]),
    "uint64": ([BIG, 0], pa.uint64(), [str(BIG), "0"]),
    "int8": ([-1, 7], pa.int8(), ["-1", "7"]),
    "float64": ([1.0, 2.0**53, -0.0], pa.float64(), ["1", "9007199254740992", "0"]),
    "float32": ([16777216.0], pa.float32(), ["16777216"]),
    "decimal": ([Decimal(BIG), Decimal(1)], pa.decimal128(20, 0), [str(BIG), "1"]),
    "json": (
        [1, "1a", BIG, Decimal("2.0"), 10**30],
        None,
        ["1", "1a", str(BIG), "2", "1" + "0" * 30],
    ),
}


def column(values, kind):
    return values if kind is None else pa.chunked_array([pa.array(values, kind)])


@pytest.mark.parametrize(("values", "kind", "ids"), GOOD.values(), ids=GOOD)
def test_ids_are_exact(values, kind, ids):
    keys = read_keys(column(values, kind), "item_id")
    assert (keys.unique, keys.bad) == (ids, [])
    assert keys.codes.tolist() == list(range(len(ids)))


# name -> (values, type, first bad row, what is said, rows with the fault)
BAD = {
    "null": (["a", None, None], pa.string(), 1, "is empty", 2),
    "spaces": (["a", " \t"], pa.string(), 1, "is empty", 1),
    "null integer": ([1, None], pa.int64(), 1, "is empty", 1),
    "NaN": ([1.0, float("nan")], pa.float64(), 1, "is empty", 1),
    "null float": ([1.0, None, 2.0], pa.float64(), 1, "is empty", 1),
    "JSON null": (["a", None], None, 1, "is empty", 1),
    "JSON NaN": ([1, float("nan")], None, 1, "is empty", 1),
    "fraction": ([1.0, 1.5, 2.5], pa.float64(), 1, "must be text or a whole number, got 1.5", 2),
    "JSON fraction": ([Decimal("1.5")], None, 0, "must be text or a whole number, got 1.5", 1),
    "huge JSON": ([Decimal("1E+999999")], None, 0, "must be text or a whole number", 1),
    "infinity": ([float("inf")], pa.float64(), 0, "must be text or a whole number, got inf", 1),
    "float that lost digits": (
        [float(BIG)],
        pa.float64(),
        0,
        "is a float too large to be exact",
        1,
    ),
    "boolean": ([True], pa.bool_(), 0, "must be text or a whole number, got True", 1),
    "list": ([["a"]], pa.list_(pa.string()), 0, "must be text or a whole number, got ['a']", 1),
    "object": ([{"a": 1}], None, 0, "must be text or a whole number, got {'a': 1}", 1),
    "bytes": ([b"a", b"\xff"], pa.binary(), 1, "holds bytes that are not UTF-8", 1),
    "escape": (["a", "\x1b[2J"], pa.string(), 1, r"holds a control character", 1),
    "line break": (["a", "b\nc"], pa.string(), 1, "holds a control character", 1),
    "surrogate": (["a", "\ud83d"], None, 1, "holds a control character or half a character", 1),
    "interval": ([None], pa.month_day_nano_interval(), 0, "which has no text", 1),
}


@pytest.mark.parametrize(("values", "kind", "row", "what", "count"), BAD.values(), ids=BAD)
def test_a_row_without_an_id_is_named(values, kind, row, what, count):
    (bad,) = read_keys(column(values, kind), "item_id").bad
    assert (bad.row, bad.num_rows) == (row, count)
    assert bad.what.startswith("item_id ") and what in bad.what and "\n" not in bad.what


def test_several_faults_are_all_found():
    bad = read_keys(column(["a", "", "b\x00", None], pa.string()), "user_id").bad
    assert sorted((b.row, b.num_rows) for b in bad) == [(1, 2), (2, 1)]


@given(st.lists(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1)))
def test_arrow_and_python_agree(ids):
    fast, slow = read_keys(column(ids, pa.string()), "i"), read_keys(ids, "i")
    assert fast.unique == slow.unique == list(dict.fromkeys(ids))
    assert fast.codes.tolist() == slow.codes.tolist()
    assert [fast.unique[c] for c in fast.codes] == ids
