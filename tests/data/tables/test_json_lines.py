"""JSON decides what is legal in a .jsonl file."""

import json
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store_engine.data.tables.table import read_table
from store_engine.errors import InputError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=8,
)


@settings(max_examples=40)
@given(
    st.lists(st.fixed_dictionaries({"a": JSON}, optional={"b": JSON}), min_size=1), st.booleans()
)
def test_what_json_writes_is_read_back(tmp_path_factory, items, has_mark):
    path = tmp_path_factory.mktemp("json") / "t.jsonl"
    lines = [json.dumps(item) for item in items]
    path.write_text("\ufeff" * has_mark + "\n \n".join(lines), encoding="utf-8")
    if not any("b" in item for item in items):
        items[0]["b"] = None
        path.write_text("\n".join(map(json.dumps, items)), encoding="utf-8")
    columns = read_table(path, ["a", "b"]).columns
    decoder = json.JSONDecoder(parse_float=Decimal)
    exact = [decoder.decode(json.dumps(item)) for item in items]
    assert repr(columns) == repr({n: [item.get(n) for item in exact] for n in ("a", "b")})


def test_numbers_keep_their_digits(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(
        '{"a": 18446744073709551610}\n{"a": 1700000000.12345678901234567890}\n{"a": "x"}\n'
    )
    expected = [18446744073709551610, Decimal("1700000000.12345678901234567890"), "x"]
    assert read_table(path, ["a"]).columns["a"] == expected


GOOD = b'{"a": 1}\n'
BAD = {
    "not JSON": (GOOD + b"{oops\n", " line 2: not valid JSON: "),
    "cut": (GOOD + b'{"a": "x', " line 2: not valid JSON: Unterminated string"),
    "two objects": (GOOD + b'{"a": 1}{"a": 2}\n', " line 2: not valid JSON: Extra data"),
    "list": (b"[1]\n", " line 1: expected a JSON object"),
    "number": (GOOD + b"7\n", " line 2: expected a JSON object"),
    "deep list": (b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}", " line 1: nested too deeply"),
    "deep object": (GOOD + b'{"a":' * 5000 + b"1" + b"}" * 5000, " line 2: nested too deeply"),
    "key twice": (GOOD + b'{"a": 1, "a": 2}\n', " line 2: key 'a' appears twice"),
    "inner key twice": (b'{"a": {"b": 1, "b": 1}}', " line 1: key 'b' appears twice"),
    "many digits": (b'{"a": ' + b"9" * 5000 + b"}", " line 1: Exceeds the limit"),
    "latin-1": (GOOD + b'{"a": "\xe9"}\n', " line 2: not UTF-8 (byte 0xe9"),
    "UTF-16": (
        '{"a": 1}\n'.encode("utf-16"),
        " line 1: not UTF-8 (byte 0xff at position 1); this is",
    ),
    "NUL": (GOOD + b'{"a": "\0"}\n', " line 2: not valid JSON: Invalid control character"),
    "no such key": (b'{"b": 1}\n{"c": 1}\n', " line 1: column a is missing; columns: b"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_a_bad_line_is_named(tmp_path, content, message):
    path = tmp_path / "t.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_table(path, ["a"])
    assert str(error.value).startswith(f"{path}{message}")
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize(
    "number", ["1e999999999999999999999", "-1E-99999999999999999999", "1e400", "0e999999999"]
)
def test_hostile_exponents_end_quickly(tmp_path, number):
    path = tmp_path / "t.jsonl"
    path.write_text(f'{{"a": {number}}}\n')
    try:
        table = read_table(path, ["a"])
        table.times("a"), table.keys("a")
    except InputError as error:
        assert "line 1" in str(error)
